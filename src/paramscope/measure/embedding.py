"""An embedding as a whole: norms of its rows, isotropy, effective dimension, neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paramscope.measure.blocks import Each, Float32, Float64, Int64, blocks, blocks_of, parts

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
SCALINGS = ("none", "unit", "standard")


@dataclass(frozen=True, slots=True)
class RowFacts:
    """What one pass says of each row.

    Attributes:
        norms: Euclidean norm, shape (n,), float64; NaN where the row is not finite.
        finite: whether all elements are finite, shape (n,).
        constant: whether all elements of the row are equal, shape (n,).
        hashes: equal for equal rows, shape (n,), uint64.
    """

    norms: Float64
    finite: npt.NDArray[np.bool_]
    constant: npt.NDArray[np.bool_]
    hashes: npt.NDArray[np.uint64]


def row_facts(X: Float32, *, each: Each = map) -> RowFacts:
    """Norm, finiteness, constancy and hash of every row of X, shape (n, d), in one pass.

    The hash is a sum of the bit patterns times fixed odd 64-bit numbers, modulo 2⁶⁴; 0.0 and -0.0
    count as equal.
    """
    n, d = X.shape
    odd = np.random.default_rng(0).integers(2**63, size=d, dtype=np.uint64) * np.uint64(2)
    odd += np.uint64(1)
    facts = RowFacts(
        np.empty(n), np.empty(n, dtype=bool), np.empty(n, dtype=bool), np.empty(n, dtype=np.uint64)
    )

    @np.errstate(all="ignore")  # what is not finite is counted
    def fill(part: slice) -> None:
        for rows in blocks(part, d):
            block = X[rows] + np.float32(0.0)  # -0.0 becomes 0.0
            wide = block.astype(np.float64)
            facts.finite[rows] = np.isfinite(block).all(axis=1)
            facts.constant[rows] = (block == block[:, :1]).all(axis=1)
            facts.norms[rows] = np.sqrt(np.einsum("ij,ij->i", wide, wide))
            facts.hashes[rows] = block.view(np.uint32).astype(np.uint64) @ odd

    list(each(fill, parts(n)))
    facts.norms[~facts.finite] = np.nan
    return facts


def keep_rows(X: Float32, kept: Int64) -> Float32:
    """The rows with these indices, ascending, moved up inside X; no second copy of the matrix."""
    if len(kept) == len(X):
        return X
    step = max(1, 2**22 // max(1, X.shape[1]))
    for start in range(0, len(kept), step):
        chosen = kept[start : start + step]
        X[start : start + len(chosen)] = X[chosen]
    return X[: len(kept)]


def scale_rows(X: Float32, how: str, *, variances: Float64, each: Each = map) -> Float32:
    """Scale X in place, then centre it, which changes no distance.

    Args:
        how: "none"; "unit": each row divided by its norm; "standard": each column divided by its
            standard deviation. A row, or a column, of zeros stays as it is.
        variances: of the columns of X, shape (d,).

    Returns:
        X.
    """
    spread = np.sqrt(variances)
    factors = np.where(spread > 0.0, 1.0 / np.where(spread > 0.0, spread, 1.0), 1.0)

    def scale(part: slice) -> Float64:
        total = np.zeros(X.shape[1])
        for rows, block in blocks_of(X, part):
            if how == "unit":
                norms = np.sqrt(np.einsum("ij,ij->i", block, block))
                block /= np.where(norms > 0.0, norms, 1.0)[:, None]
            elif how == "standard":
                block *= factors
            total += block.sum(axis=0)
            X[rows] = block
        return total

    mean = np.zeros(X.shape[1])
    for partial in each(scale, parts(len(X))):
        mean += partial
    mean /= max(1, len(X))

    def centre(part: slice) -> None:
        for rows, block in blocks_of(X, part):
            X[rows] = block - mean

    list(each(centre, parts(len(X))))
    return X


def mean_cosine(X: Float32, norms: Float64, *, each: Each = map) -> float | None:
    """Mean cosine of all pairs of different rows, exactly, without forming them.

        (‖Σ x̂‖² - n)/(n(n - 1))        x̂: a row divided by its norm

    Returns:
        In [-1, 1]; near 0 for directions spread evenly, near 1 for a narrow cone. None for fewer
        than two rows that are not zero.

    Source: Ethayarajh 2019 (arXiv:1909.00512) for the measure.
    """
    n = int((norms > 0.0).sum())
    if n < 2:
        return None
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0.0)

    def sum_of(part: slice) -> Float64:
        total = np.zeros(X.shape[1])
        for rows, block in blocks_of(X, part):
            total += inverse[rows] @ block
        return total

    total = np.zeros(X.shape[1])
    for partial in each(sum_of, parts(len(X))):
        total += partial
    return float((total @ total - n) / (n * (n - 1.0)))


def participation_ratio(variances: Float64) -> float:
    """How many directions carry the variance, as if all carried the same: (Σλ)²/Σλ².

    Returns:
        In [1, d]; 0.0 where there is no variance.
    """
    squares = float(variances @ variances)
    return float(variances.sum()) ** 2 / squares if squares > 0.0 else 0.0


def entropy_dimension(variances: Float64) -> float:
    """The exponential of the entropy of the shares of variance: exp(-Σ p ln p), p = λ/Σλ.

    Returns:
        In [1, d]; 0.0 where there is no variance.
    """
    total = float(variances.sum())
    if not total > 0.0:
        return 0.0
    p = variances[variances > 0.0] / total
    return math.exp(-float(p @ np.log(p)))


def isoscore(variances: Float64) -> float | None:
    """IsoScore: 1 where all directions carry the same variance, 0 where one carries all.

    With λ the d variances of the principal components, the published steps (normalise λ to the
    norm √d, distance from (1, …, 1), rescale) come to

        ((Σλ)²/Σλ² - 1)/(d - 1)

    Returns:
        In [0, 1]; None where d is 1 or there is no variance.

    Source: Rudman, Gillman, Rayne & Eickhoff 2022, Findings of ACL (arXiv:2108.07344).
    """
    ratio = participation_ratio(variances)
    if len(variances) < 2 or ratio == 0.0:
        return None
    return min(1.0, max(0.0, (ratio - 1.0) / (len(variances) - 1.0)))


def components_for(variances: Float64, share: float) -> int:
    """The least number of principal components that carry this share of the variance."""
    total = float(variances.sum())
    if not total > 0.0:
        return 0
    reached = np.cumsum(variances) >= share * total * (1.0 - 1e-12)
    return int(reached.argmax()) + 1


def nearest_rows(
    X: Float32, norms: Float64, row: int, count: int, *, each: Each = map
) -> tuple[Int64, Float64]:
    """The rows of the largest cosine with one row, itself left out; their cosines.

    Rows of norm 0 have the cosine 0.
    """
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0.0)
    cosines = np.empty(len(X))
    wanted = X[row].astype(np.float64) * inverse[row]

    def fill(part: slice) -> None:
        for rows, block in blocks_of(X, part):
            cosines[rows] = (block @ wanted) * inverse[rows]

    list(each(fill, parts(len(X))))
    cosines[row] = -np.inf
    order = np.lexsort((np.arange(len(X)), -cosines))[: min(count, len(X) - 1)]
    return order, np.clip(cosines[order], -1.0, 1.0)
