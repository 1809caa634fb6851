"""Rows that are equal, and rows that are nearly so; found without comparing all pairs in full."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from paramscope.measure.blocks import Each, Float32, Float64, Int64

NEAR_COSINE = 0.99
_TILE = 2048
_KEPT_PAIRS = 50
_MOST_OPERATIONS = 4e12  # of comparing candidates in full: about a minute on two cores


def first_equal(X: Float32, hashes: npt.NDArray[np.uint64]) -> Int64:
    """For each row the index of the first row that is equal to it; its own where it is that row.

    Args:
        hashes: equal for equal rows, shape (n,). Rows of one hash are compared in full.
    """
    first = np.arange(len(X))
    order = np.argsort(hashes, kind="stable")
    edges = np.flatnonzero(np.diff(hashes[order])) + 1
    for group in np.split(order, edges):
        while len(group) > 1:
            equal = np.array([np.array_equal(X[row], X[group[0]]) for row in group])
            first[group[equal]] = group[0]
            group = group[~equal]
    return first


@dataclass(slots=True)
class NearDuplicates:
    """Pairs of different rows whose centred cosine is at least `NEAR_COSINE`.

    Attributes:
        pairs: how many.
        rows: how many rows are in a pair.
        closest: the closest pairs (cosine, row, row), at most 50, closest first.
        complete: False where so many pairs had to be compared that the search was cut short;
            the counts are then lower bounds.
    """

    pairs: int = 0
    rows: int = 0
    closest: list[tuple[float, int, int]] = field(default_factory=list)
    complete: bool = True


def near_duplicates(
    X: Float32, mean: Float64, V: Float64, rows: Int64, *, each: Each = map
) -> NearDuplicates:
    """All pairs, among the rows given, of rows that point nearly the same way from the mean.

    With p the coordinates of a unit vector in a few orthonormal directions and ρ the length of
    the rest, x·y ≤ p·q + ρσ (Cauchy-Schwarz). The right side is one product of short vectors; only
    pairs for which it reaches the threshold are compared in full. None is missed.

    Args:
        X: shape (n, d), float32.
        mean: the mean row, shape (d,).
        V: orthonormal columns, shape (d, r); principal components prune best.
        rows: which rows to compare; exact duplicates had better be given once.

    Cost: m²·(r + 1) operations for m rows, and 2d for each candidate pair.
    """
    shift = mean.astype(np.float32)
    bounds, used = _bounding(X, shift, V.astype(np.float32), rows, each)
    tiles = [slice(start, start + _TILE) for start in range(0, len(used), _TILE)]
    budget = _MOST_OPERATIONS / (2.0 * X.shape[1])

    def compare(pair: tuple[slice, slice]) -> tuple[Float64, Int64, Int64, float]:
        left, right = pair
        G = bounds[left] @ bounds[right].T
        hit_left = np.flatnonzero(G.max(axis=1) >= NEAR_COSINE - 1e-4)
        if not len(hit_left):
            return _NOTHING
        hit_right = np.flatnonzero(G[hit_left].max(axis=0) >= NEAR_COSINE - 1e-4)
        a, b = used[left][hit_left], used[right][hit_right]
        C = (_unit(X[a] - shift) @ _unit(X[b] - shift).T).astype(np.float64)
        i, j = np.nonzero((C >= NEAR_COSINE) & (a[:, None] < b))
        return C[i, j], a[i], b[j], float(C.size)

    result, in_pair = NearDuplicates(), np.zeros(len(X), dtype=bool)
    # A few pairs of tiles at a time, so that the cut comes at the same place on every machine.
    for batch in _batches(itertools.combinations_with_replacement(tiles, 2), 64):
        for cosines, a, b, compared in each(compare, batch):
            budget -= compared
            if not len(a):
                continue
            result.pairs += len(a)
            in_pair[a] = in_pair[b] = True
            best = np.argsort(-cosines, kind="stable")[:_KEPT_PAIRS]
            result.closest += [(float(cosines[at]), int(a[at]), int(b[at])) for at in best]
            result.closest = sorted(result.closest, key=lambda pair: (-pair[0], pair[1:]))
            del result.closest[_KEPT_PAIRS:]
        if budget < 0.0:
            result.complete = False
            break
    result.rows = int(in_pair.sum())
    return result


_NOTHING = (np.empty(0), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), 0.0)


def _bounding(
    X: Float32, shift: Float32, V: Float32, rows: Int64, each: Each
) -> tuple[Float32, Int64]:
    """(p, ρ) of each row as a unit vector, shape (m, r + 1); the rows, less those at the mean."""

    def of(start: int) -> tuple[Float32, npt.NDArray[np.bool_]]:
        centred = X[rows[start : start + _TILE]] - shift
        there = np.einsum("ij,ij->i", centred, centred) > 0.0
        p = _unit(centred) @ V
        rest = np.sqrt(np.clip(1.0 - np.einsum("ij,ij->i", p, p), 0.0, 1.0))
        return np.column_stack([p, rest]).astype(np.float32), there

    found = list(each(of, range(0, len(rows), _TILE)))
    if not found:
        return np.empty((0, V.shape[1] + 1), dtype=np.float32), rows
    there = np.concatenate([each_there for _, each_there in found])
    return np.concatenate([bounds for bounds, _ in found])[there], rows[there]


def _unit(X: Float32) -> Float32:
    norms = np.sqrt(np.einsum("ij,ij->i", X, X))
    X /= np.where(norms > 0.0, norms, 1.0)[:, None]
    return X


def _batches(
    pairs: Iterator[tuple[slice, slice]], size: int
) -> Iterator[list[tuple[slice, slice]]]:
    while batch := list(itertools.islice(pairs, size)):
        yield batch
