"""Out of a local optimum of k-means: a cluster that is hardly needed goes, another is split."""

from __future__ import annotations

import numpy as np

from paramscope.measure.blocks import Each, Float32, Float64, parts
from paramscope.measure.lloyd import Clustering, lloyd, nearest_centre

_MOST_SWAPS = 12
_MOST_FAILURES = 1
_WORTH_TRYING = 0.5
_SPLIT_SHARE = 2.0 / np.pi  # of the variance along a normal distribution's axis, cut at its mean
_BLOCK = 1024


def swapped(
    X: Float32, found: Clustering, *, tolerance: float, squares: float, each: Each = map
) -> Clustering:
    """Swap clusters while that lowers the inertia.

    The cluster goes whose rows lie nearly as near to their second centre; the one is split, along
    its longest axis, where that gains most. A swap is tried only where the estimated gain is
    larger than the estimated cost, and kept only where the inertia falls after Lloyd.

    Args:
        X: shape (n, d), float32; few columns, such as principal components.
        found: a result of `lloyd` on X.
        tolerance, squares: as for `lloyd`.

    Cost: n·(k + d)·d operations for the estimates, and one run of Lloyd, per swap tried.
    """
    failures = 0
    for _ in range(_MOST_SWAPS):
        if found.k < 3:
            return found
        costs = removal_costs(X, found, each=each)
        gains, axes = split_gains(X, found, each=each)
        # After a failure the next best pair is tried.
        split = int(np.argsort(-gains, kind="stable")[failures % found.k])
        costs[split] = np.inf
        gone = int(costs.argmin())
        if not gains[split] > _WORTH_TRYING * costs[gone]:
            return found
        C = found.centres.copy()
        C[gone] = C[split] + axes[split]
        C[split] = C[split] - axes[split]
        tried = lloyd(
            X, nearest_centre(X, C, each=each), tolerance=tolerance, squares=squares, each=each
        )
        if tried.k == found.k and tried.inertia < found.inertia:
            found, failures = tried, 0
        elif failures == _MOST_FAILURES:
            return found
        else:
            failures += 1
    return found


def removal_costs(X: Float32, found: Clustering, *, each: Each = map) -> Float64:
    """How much the inertia grows when a cluster's rows go to their second centre, shape (k,)."""
    C = found.centres
    squares = np.einsum("ij,ij->i", C, C)
    factors = np.ascontiguousarray(-2.0 * C.T)

    def of(part: slice) -> Float64:
        costs = np.zeros(len(C))
        for start in range(part.start, part.stop, _BLOCK):
            rows = slice(start, min(start + _BLOCK, part.stop))
            G = X[rows] @ factors + squares
            labels, at = found.labels[rows], np.arange(rows.stop - rows.start)
            own = G[at, labels]
            G[at, labels] = np.inf
            costs += np.bincount(labels, weights=G.min(axis=1) - own, minlength=len(C))
        return costs

    costs = np.zeros(len(C))
    for partial in each(of, parts(len(X))):
        costs += partial
    return costs


def split_gains(X: Float32, found: Clustering, *, each: Each = map) -> tuple[Float64, Float64]:
    """How much the inertia falls when a cluster is cut at its mean, across its longest axis.

    Returns:
        Gains as for a normal distribution, shape (k,); half the way from the one new centre to
        the other, shape (k, d).
    """
    order = np.argsort(found.labels, kind="stable")
    ends = np.cumsum(found.sizes)

    def of(cluster: int) -> tuple[float, Float64]:
        members = order[ends[cluster] - found.sizes[cluster] : ends[cluster]]
        rows = X[members] - found.centres[cluster]
        values, vectors = np.linalg.eigh((rows.T @ rows).astype(np.float64))
        largest = max(0.0, float(values[-1]))
        half = np.sqrt(_SPLIT_SHARE * largest / len(members))
        return _SPLIT_SHARE * largest, half * vectors[:, -1]

    results = list(each(of, range(found.k)))
    return np.array([gain for gain, _ in results]), np.array([axis for _, axis in results])
