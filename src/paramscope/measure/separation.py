"""How well clusters are apart: Calinski-Harabasz, Davies-Bouldin, silhouette."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from paramscope.measure.blocks import Each, Float32, Float64, Int32, Int64
from paramscope.measure.lloyd import Clustering

_LEAST_PER_CLUSTER = 10
_BLOCK = 512


def calinski_harabasz(clustering: Clustering, total: float) -> float | None:
    """Variance between clusters over variance within, each per degree of freedom; higher is better.

        CH = ((total - inertia)/(k - 1)) / (inertia/(n - k))

    Args:
        total: Σ‖x - mean‖² of all rows.

    Returns:
        ≥ 0; None where k is 1, n is k, or the inertia is 0.

    Source: Caliński & Harabasz 1974.
    """
    n, k = len(clustering.labels), clustering.k
    if k < 2 or n <= k or clustering.inertia <= 0.0:
        return None
    return max(0.0, total - clustering.inertia) / (k - 1) * (n - k) / clustering.inertia


def davies_bouldin(clustering: Clustering, distances: Float64) -> float | None:
    """Mean over clusters of the worst (spread + spread)/(distance of centres); lower is better.

    Args:
        distances: of each row to its own centre, shape (n,).

    Returns:
        ≥ 0; None where k is 1 or two centres coincide.

    Source: Davies & Bouldin 1979.
    """
    k = clustering.k
    if k < 2:
        return None
    spread = np.bincount(clustering.labels, weights=distances, minlength=k) / clustering.sizes
    C = clustering.centres.astype(np.float64)
    squares = np.einsum("ij,ij->i", C, C)
    apart = np.sqrt(np.maximum(squares[:, None] - 2.0 * (C @ C.T) + squares, 0.0))
    np.fill_diagonal(apart, np.inf)
    if not apart.min() > 0.0:
        return None
    return float(((spread[:, None] + spread) / apart).max(axis=1).mean())


@dataclass(frozen=True, slots=True)
class Silhouette:
    """Silhouettes from a sample of rows, drawn cluster by cluster.

    Attributes:
        mean: over all rows, each cluster's mean weighted by its size; in [-1, 1].
        per_cluster: shape (k,); NaN for a cluster of which one row only was drawn.
        sample_size: rows that were drawn.
    """

    mean: float
    per_cluster: Float64
    sample_size: int


def silhouette(
    X: Float32,
    clustering: Clustering,
    *,
    sample_size: int,
    rng: np.random.Generator,
    each: Each = map,
) -> Silhouette | None:
    """(b - a)/max(a, b): nearness of a row to its own cluster (a) and to the next one (b).

    a and b are mean distances to the drawn rows of a cluster. From each cluster its share of the
    sample is drawn, and 10 rows at least where it has them; with a sample of all rows the
    result is exact.

    Returns:
        None where k is 1.

    Cost: 2·s²·d operations for a sample of s rows.

    Source: Rousseeuw 1987. A cluster of one row has the silhouette 0 by definition.
    """
    k = clustering.k
    if k < 2:
        return None
    drawn = _drawn(clustering, sample_size, rng)
    labels = clustering.labels[drawn]
    S = X[drawn]
    squares = np.einsum("ij,ij->i", S, S)
    counts = np.bincount(labels, minlength=k)
    member = np.zeros((len(drawn), k), dtype=np.float32)
    member[np.arange(len(drawn)), labels] = 1.0

    def of(start: int) -> Float64:
        rows = slice(start, start + _BLOCK)
        D = squares[rows, None] - 2.0 * (S[rows] @ S.T) + squares
        D = np.sqrt(np.maximum(D, 0.0))
        at = np.arange(len(D))
        D[at, start + at] = 0.0
        sums = (D @ member).astype(np.float64)
        return _scores(sums, labels[rows], counts)

    scores = np.concatenate(list(each(of, range(0, len(drawn), _BLOCK))))
    per_cluster = np.bincount(labels, weights=scores, minlength=k) / counts
    mean = float(per_cluster @ clustering.sizes / len(clustering.labels))
    per_cluster[(counts < 2) & (clustering.sizes > 1)] = np.nan
    return Silhouette(mean, per_cluster, len(drawn))


def _scores(sums: Float64, labels: Int32, counts: Int64) -> Float64:
    at = np.arange(len(labels))
    own = sums[at, labels] / np.maximum(counts[labels] - 1, 1)
    others = sums / counts
    others[at, labels] = np.inf
    next_best = others.min(axis=1)
    larger = np.maximum(own, next_best)
    scores: Float64 = np.divide(next_best - own, larger, out=np.zeros(len(at)), where=larger > 0.0)
    scores[counts[labels] < 2] = 0.0
    return scores


def _drawn(clustering: Clustering, sample_size: int, rng: np.random.Generator) -> Int64:
    """Rows of the sample, ascending."""
    n = len(clustering.labels)
    if sample_size >= n:
        return np.arange(n)
    order = np.argsort(clustering.labels, kind="stable")
    ends = np.cumsum(clustering.sizes)
    chosen = []
    for end, size in zip(ends, clustering.sizes, strict=True):
        quota = max(_LEAST_PER_CLUSTER, round(sample_size * size / n))
        members = order[end - size : end]
        chosen.append(members if size <= quota else rng.choice(members, quota, replace=False))
    return np.sort(np.concatenate(chosen))
