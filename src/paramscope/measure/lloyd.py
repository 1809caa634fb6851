"""K-means on one CPU's cores: greedy k-means++ seeds, Lloyd's iterations by blocks of rows.

The nearest centre minimises ‖c‖² - 2x·c, one matrix product per block. Sums of clusters change
only by the rows that moved. The inertia follows from the sums alone,

    Σ‖x - c‖² = Σ‖x‖² - Σ_c ‖S_c‖²/n_c        S_c: sum of cluster c, n_c: its rows

in float64, so that rounding of single distances never enters it.

Source: Lloyd 1982; Arthur & Vassilvitskii 2007 for the seeds, with several candidates a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from paramscope.measure.blocks import Each, Float32, Float64, Int32, Int64, blocks_of, parts

_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Clustering:
    """Rows in k clusters.

    Attributes:
        labels: shape (n,), int32, in 0 … k-1; every cluster has a row.
        centres: shape (k, d), float32: the means of the clusters.
        inertia: sum of squared distances of rows to the centre of their cluster.
        iterations: of Lloyd, until the inertia fell by less than the tolerance.
    """

    labels: Int32
    centres: Float32
    inertia: float
    iterations: int

    @property
    def k(self) -> int:
        return len(self.centres)

    @property
    def sizes(self) -> Int64:
        return np.bincount(self.labels, minlength=self.k).astype(np.int64)


def sum_of_squares(X: Float32, *, each: Each = map) -> float:
    """Σ‖x‖² over all rows, in float64."""

    def of(part: slice) -> float:
        return math.fsum(float(np.vdot(block, block)) for _, block in blocks_of(X, part))

    return math.fsum(each(of, parts(len(X))))


def seeds(X: Float32, k: int, rng: np.random.Generator, *, each: Each = map) -> Int64:
    """k rows to start from, by greedy k-means++; the first j of them are seeds for j clusters.

    Each next seed is drawn with probability ∝ squared distance to the nearest one so far; of
    2 + ln k draws the one that lowers the sum of these most is kept.

    Returns:
        Indices of rows, shape (k,); fewer where there are not k different rows.

    Cost: k·(2 + ln k)·n·d operations.
    """
    n = len(X)
    draws = 2 + int(math.log(k))
    cuts = parts(n)
    squares = np.einsum("ij,ij->i", X, X)
    nearest = np.full(n, np.inf, dtype=np.float32)
    distances = np.empty((n, draws), dtype=np.float32)

    def measure(job: tuple[slice, Int64]) -> Float64:
        rows, drawn = job
        D = distances[rows, : len(drawn)]
        np.matmul(X[rows], -2.0 * X[drawn].T, out=D)
        D += squares[rows, None]
        D += squares[drawn]
        np.clip(D, 0.0, nearest[rows, None], out=D)
        total: Float64 = D.sum(axis=0, dtype=np.float64)
        return total

    chosen: list[int] = []
    drawn = rng.integers(n, size=1)
    while True:
        totals = sum(each(measure, [(rows, drawn) for rows in cuts]), np.zeros(len(drawn)))
        best = int(np.argmin(totals))
        chosen.append(int(drawn[best]))
        nearest = distances[:, best].copy()
        nearest[chosen] = 0.0
        if len(chosen) == k:
            break
        cumulative = np.cumsum(nearest, dtype=np.float64)
        if not cumulative[-1] > 0.0:
            break
        drawn = np.searchsorted(cumulative, rng.random(draws) * cumulative[-1], side="right")
        drawn = np.minimum(drawn, n - 1)
    return np.array(chosen, dtype=np.int64)


def nearest_centre(X: Float32, C: Float32, *, each: Each = map) -> Int32:
    """The index of the centre nearest to each row; the lowest where several are."""
    labels = np.empty(len(X), dtype=np.int32)
    squares = np.einsum("ij,ij->i", C, C)
    factors = np.ascontiguousarray(-2.0 * C.T)

    def fill(part: slice) -> None:
        scores = np.empty((_BLOCK, len(C)), dtype=np.float32)
        for start in range(part.start, part.stop, _BLOCK):
            stop = min(start + _BLOCK, part.stop)
            G = scores[: stop - start]
            np.matmul(X[start:stop], factors, out=G)
            G += squares
            labels[start:stop] = G.argmin(axis=1)

    list(each(fill, parts(len(X))))
    return labels


def lloyd(
    X: Float32,
    labels: Int32,
    *,
    tolerance: float,
    squares: float,
    most_iterations: int = 300,
    each: Each = map,
) -> Clustering:
    """Lloyd's iterations from a first assignment.

    Args:
        X: shape (n, d), float32.
        labels: shape (n,), in 0 … k-1.
        tolerance: stop when the inertia falls by less than this share of itself.
        squares: Σ‖x‖² of X.

    Cost: 2·n·k·d operations per iteration.
    """
    k = int(labels.max()) + 1
    sums = np.zeros((k, X.shape[1]))
    _move(X, sums, np.arange(len(X)), None, labels, each)
    inertia = math.inf
    iterations = 0
    while True:
        sizes = np.bincount(labels, minlength=k)
        C = (sums / np.maximum(sizes, 1)[:, None]).astype(np.float32)
        last, inertia = inertia, _inertia(squares, sums, sizes)
        settled = last - inertia <= tolerance * inertia
        if settled or iterations == most_iterations:
            break
        iterations += 1
        new = nearest_centre(X, C, each=each)
        _refill(X, C, new, k)
        moved = np.flatnonzero(new != labels)
        if not len(moved):
            break
        _move(X, sums, moved, labels, new, each)
        labels = new
    return _without_empty(labels, C, sizes, inertia, iterations)


def _inertia(squares: float, sums: Float64, sizes: Int64) -> float:
    between = np.einsum("ij,ij->i", sums, sums) / np.maximum(sizes, 1)
    return max(0.0, squares - float(between.sum()))


def _move(
    X: Float32, sums: Float64, rows: Int64, before: Int32 | None, after: Int32, each: Each
) -> None:
    """Take rows out of the sums of their clusters before, add them to those after."""
    k = len(sums)

    def change(part: slice) -> Float64:
        total = np.zeros_like(sums)
        for start in range(part.start, part.stop, _BLOCK):
            chosen = rows[start : min(start + _BLOCK, part.stop)]
            signs = np.zeros((k, len(chosen)), dtype=np.float32)
            at = np.arange(len(chosen))
            signs[after[chosen], at] = 1.0
            if before is not None:
                signs[before[chosen], at] -= 1.0
            total += signs @ X[chosen]
        return total

    for partial in each(change, parts(len(rows))):
        sums += partial


def _refill(X: Float32, C: Float32, labels: Int32, k: int) -> None:
    """Give each empty cluster the row that lies furthest from its centre."""
    sizes = np.bincount(labels, minlength=k)
    empty = np.flatnonzero(sizes == 0)
    if not len(empty):
        return
    distance = distances(X, C, labels)
    for cluster in empty:
        furthest = int(distance.argmax())
        if distance[furthest] <= 0.0 or sizes[labels[furthest]] < 2:
            return
        sizes[labels[furthest]] -= 1
        labels[furthest], distance[furthest] = cluster, 0.0


def distances(X: Float32, C: Float32, labels: Int32, *, each: Each = map) -> Float64:
    """The distance of each row to its own centre, by subtraction, shape (n,), float64."""
    result = np.empty(len(X))

    def fill(part: slice) -> None:
        for rows, block in blocks_of(X, part):
            block -= C[labels[rows]]
            result[rows] = np.sqrt(np.einsum("ij,ij->i", block, block))

    list(each(fill, parts(len(X))))
    return result


def _without_empty(
    labels: Int32, C: Float32, sizes: Int64, inertia: float, iterations: int
) -> Clustering:
    """Clusters that stayed empty go: there were fewer different rows than clusters."""
    used = sizes > 0
    if used.all():
        return Clustering(labels, C, inertia, iterations)
    place = (np.cumsum(used) - 1).astype(np.int32)
    return Clustering(place[labels], C[used], inertia, iterations)
