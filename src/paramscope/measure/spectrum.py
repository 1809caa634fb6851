"""All singular values of a matrix, each spectrum with a bound on its error.

The fast route forms the Gram matrix G of the shorter side in float64, k×k, and takes the
square roots of its eigenvalues. With ε = 2⁻⁵², forming and solving disturb each eigenvalue by
at most about

    E = c·ε·σ₁²,  c = k + √m + 256        m: the length of the longer side

(k and √m for the rounding of sums of that length; the constant for the solver, whose error on
nearly equal values was seen to reach 70 ε at k = 34.)

so a true singular value lies between √(max(0, σ̂² - E)) and √(σ̂² + E): full precision for large
values, only √E at the small end, because squaring costs half the digits. Where a rank threshold
lies inside that uncertainty, `settled` says no, and the slow route has to be taken: a QR
factorisation by blocks of rows and the SVD of R, whose error is c·ε·σ₁ throughout.

Source: Golub & Van Loan, Matrix Computations, 4th ed., 8.1 and 8.6; Demmel, Grigori, Hoemmen &
Langou 2012 (arXiv:0808.2664) for the QR of tall matrices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from paramscope.measure.rank import ENERGY_SHARES, energy_margin

EPSILON = 2.0**-52
_SOLVER_ERROR = 256
_TILE = 2048  # columns per tile of a large Gram matrix
_GAP = 8

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The singular values of a matrix and how well they are known.

    Attributes:
        s: shape (k,), float64, descending, non-negative; the leading ones only where `complete`
            is False.
        method: "gram" (fast route), "svdvals" (slow route), "factors" (of a product, from its
            factors) or "krylov" (leading values only).
        error_bound: no value is further than this from the true one; same unit as `s`.
        sum_of_squares: Σσ² over all singular values, those not in `s` included.
    """

    s: Float64
    method: str
    error_bound: float
    sum_of_squares: float
    complete: bool = True


def add_gram(gram: Float64 | None, block: Float64) -> Float64:
    """gram + blockᵀ·block, the upper triangle of it at least.

    Args:
        gram: shape (k, k), float64; changed in place. None for the first block.
        block: shape (b, k), float64.

    Returns:
        The sum, shape (k, k); only its upper triangle is meaningful.

    Cost: b·k² floating-point operations (a symmetric product needs half of a full one).
    """
    k = block.shape[1]
    if k <= _TILE:
        product = _product(block)
        if gram is None:
            return product
        gram += product
        return gram
    if gram is None:
        gram = np.zeros((k, k))
    for start in range(0, k, _TILE):
        rows = block[:, start : start + _TILE]
        gram[start : start + _TILE, start : start + _TILE] += _product(rows)
        for column in range(start + _TILE, k, _TILE):
            gram[start : start + _TILE, column : column + _TILE] += (
                rows.T @ block[:, column : column + _TILE]
            )
    return gram


def _product(block: Float64) -> Float64:
    """blockᵀ·block, shape (k, k).

    numpy computes one triangle and mirrors it down the columns. Its rows lie a little apart: at a
    distance of a power of two, which most models have, they would push each other out of the cache.
    """
    k = block.shape[1]
    return np.matmul(block.T, block, out=np.empty((k, k + _GAP))[:, :k])


def eigenvalues_of_gram(gram: Float64) -> Float64:
    """All eigenvalues of a Gram matrix, descending.

    Args:
        gram: shape (k, k), float64; the upper triangle is read.

    Cost: 4/3·k³ floating-point operations.
    """
    # LAPACK reads columns: of the transpose they lie together, and no stride crosses the cache.
    return np.asarray(np.linalg.eigvalsh(gram.T, UPLO="L"), np.float64)[::-1]


def spectrum_of_eigenvalues(eigenvalues: Float64, *, long_side: int) -> Spectrum:
    """Singular values from the eigenvalues of a Gram matrix.

    Args:
        eigenvalues: shape (k,), descending.
        long_side: m, how many products were summed for each element of the Gram matrix.

    Returns:
        k values. The bound is the largest of the per-value bounds (see the module).
    """
    squares = np.maximum(eigenvalues, 0.0)
    s = np.sqrt(squares)
    uncertainty = square_uncertainty(s, long_side=long_side)
    below = s - np.sqrt(np.maximum(squares - uncertainty, 0.0))
    above = np.sqrt(squares + uncertainty) - s  # the larger one where σ̂² is below E
    bounds = np.maximum(below, above)
    return Spectrum(s, "gram", float(bounds.max(initial=0.0)), float(squares.sum()))


def square_uncertainty(s: Float64, *, long_side: int) -> float:
    """E = c·ε·σ₁²: how far σ² of the fast route may be off."""
    return _roundoff(len(s), long_side) * float(s[0]) ** 2 if len(s) else 0.0


def _roundoff(k: int, long_side: int) -> float:
    """c·ε, see the module."""
    return (k + math.sqrt(long_side) + _SOLVER_ERROR) * EPSILON


def settled(spectrum: Spectrum, *, long_side: int, tolerance: float, sum_of_squares: float) -> bool:
    """Whether the fast route fixes the integer ranks, and agrees with the matrix's own norm.

    False where some σ² lies within E of the rank threshold (tolerance·σ₁)², where a share of
    the energy is reached so narrowly that E could move the count, or where Σσ² and ‖W‖²_F
    differ by more than rounding explains.
    """
    squares = spectrum.s**2
    if squares.size == 0 or squares[0] == 0.0:
        return sum_of_squares == 0.0
    uncertainty = square_uncertainty(spectrum.s, long_side=long_side)
    at_threshold = np.abs(squares - tolerance**2 * squares[0]) <= uncertainty * (1 + tolerance**2)
    total = float(squares.sum())
    roundoff = _roundoff(len(squares), long_side)
    agrees = abs(total - sum_of_squares) <= roundoff * sum_of_squares
    margins = (energy_margin(spectrum.s, share) for share in ENERGY_SHARES)
    # Rounding moves sums of eigenvalues by no more than the trace is off: √m·ε of it.
    return bool(agrees and not at_threshold.any() and min(margins) > 8 * roundoff)


def spectrum_of_rows(blocks: Iterable[npt.NDArray[Any]], *, columns: int) -> Spectrum:
    """The slow route: Householder QR over blocks of rows, then the SVD of R, in float64.

    Args:
        blocks: the rows of the matrix in order, each of shape (b, columns).

    Returns:
        k = min(rows, columns) values, each within c·ε·σ₁, see the module.

    Cost: about 2·m·n² + 8/3·n³ floating-point operations; memory for one block and R.
    """
    r = np.zeros((0, columns))
    rows = 0
    for block in blocks:
        rows += len(block)
        stacked = np.concatenate([r, block.astype(np.float64, copy=False)])
        r = np.asarray(np.linalg.qr(stacked, mode="r")) if len(stacked) > columns else stacked
    s = np.asarray(np.linalg.svd(r, compute_uv=False), np.float64) if r.size else np.zeros(0)
    bound = _roundoff(len(s), rows) * float(s[0]) if len(s) else 0.0
    return Spectrum(s, "svdvals", bound, float((s**2).sum()))
