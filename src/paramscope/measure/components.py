"""Principal components of the rows of a matrix that is too large to copy."""

from __future__ import annotations

import numpy as np

from paramscope.measure.blocks import Each, Float32, Float64, blocks, blocks_of, parts

_TILE = 512
_TILE_ROWS = 8192


def mean_row(X: Float32, *, each: Each = map) -> Float64:
    """The mean of the rows of X, shape (n, d); shape (d,), float64; zeros where n is 0."""

    def sum_of(part: slice) -> Float64:
        total = np.zeros(X.shape[1])
        for _, block in blocks_of(X, part):
            total += block.sum(axis=0)
        return total

    total = np.zeros(X.shape[1])
    for partial in each(sum_of, parts(len(X))):
        total += partial
    return total / max(1, len(X))


def covariance(X: Float32, mean: Float64, *, each: Each = map) -> Float64:
    """Population covariance of the rows, (X - mean)ᵀ(X - mean)/n, shape (d, d), float64.

    Products are summed in float32 over 8,192 rows and then in float64: about six digits.

    Cost: 1.2·n·d² operations (tiles of the lower half), one tile in memory per thread.
    """
    n, d = X.shape
    shift = mean.astype(np.float32)
    edges = [slice(start, min(start + _TILE, d)) for start in range(0, d, _TILE)]

    def tile(pair: tuple[slice, slice]) -> Float64:
        row, column = pair
        total = np.zeros((row.stop - row.start, column.stop - column.start))
        for start in range(0, n, _TILE_ROWS):
            rows = X[start : start + _TILE_ROWS]
            left = rows[:, row] - shift[row]
            right = left if row == column else rows[:, column] - shift[column]
            total += left.T @ right
        return total

    pairs = [(row, column) for row in edges for column in edges if column.start <= row.start]
    result: Float64 = np.empty((d, d))
    for (row, column), block in zip(pairs, each(tile, pairs), strict=True):
        result[row, column] = block
        result[column, row] = block.T
    result /= max(1, n)
    return result


def principal_components(covariance: Float64, count: int) -> tuple[Float64, Float64]:
    """All variances, and the first `count` directions.

    Returns:
        Variances, shape (d,), descending, ≥ 0; directions as columns, shape (d, count). The
        largest entry of a direction is positive, so that its sign is always the same.
    """
    values, vectors = np.linalg.eigh(covariance)
    V = vectors[:, ::-1][:, :count]
    largest = np.abs(V).argmax(axis=0)
    signs = np.where(V[largest, np.arange(V.shape[1])] < 0.0, -1.0, 1.0)
    return np.maximum(values[::-1], 0.0), np.ascontiguousarray(V * signs)


def project(X: Float32, mean: Float64, V: Float64, *, each: Each = map) -> Float32:
    """(X - mean)·V by blocks, shape (n, columns of V), float32."""
    shift, basis = mean.astype(np.float32), V.astype(np.float32)
    P = np.empty((len(X), basis.shape[1]), dtype=np.float32)

    def fill(part: slice) -> None:
        for rows in blocks(part, X.shape[1]):
            np.matmul(X[rows] - shift, basis, out=P[rows])

    list(each(fill, parts(len(X))))
    return P
