"""K-means over a range of k, the curve of its quality, and the k that the curve suggests.

The search is done where it is cheap, the polish where it counts: several starts of k-means++ and
Lloyd in the first principal components, then Lloyd on the complete rows from the best of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from paramscope.measure.blocks import Each, Float32, Float64, Int64
from paramscope.measure.elbow import Elbow, elbow
from paramscope.measure.lloyd import (
    Clustering,
    distances,
    lloyd,
    nearest_centre,
    seeds,
    sum_of_squares,
)
from paramscope.measure.separation import calinski_harabasz, davies_bouldin, silhouette
from paramscope.measure.swap import swapped

SEARCH_COMPONENTS = 64
STARTS = 3
CURVE_SAMPLE = 2000
_SEARCH_TOLERANCE = 3e-5
_POLISH_TOLERANCE = 1e-5
_MOST_REFINED = 12


@dataclass(frozen=True, slots=True)
class Point:
    """One k of the curve. An index that is not defined there is None.

    Attributes:
        sample_size: rows from which the silhouette was computed.
    """

    k: int
    inertia: float
    calinski_harabasz: float | None
    davies_bouldin: float | None
    silhouette: float | None
    sample_size: int


@dataclass(frozen=True, slots=True)
class Curve:
    """What was tried, in ascending k, and what was chosen."""

    points: tuple[Point, ...]
    elbow: Elbow
    clustering: Clustering

    @property
    def k(self) -> int:
        return self.clustering.k


def ks_to_try(k_max: int, *, count: int = 20) -> list[int]:
    """About `count` values in 2 … k_max, each a constant factor after the last, rounded."""
    for steps in range(count, 4 * count):
        ks = sorted({round(k) for k in np.geomspace(2, max(2, k_max), steps)})
        if len(ks) >= min(count, k_max - 1):
            return [int(k) for k in ks]
    return [int(k) for k in ks]


class Search:
    """K-means of one matrix at any k; what is the same for all k is computed once.

    Args:
        X: centred rows, shape (n, d), float32; not copied, not changed.
        P: the same rows in their first principal components, shape (n, r), float32.
        k_max: the largest k that will be asked for.
        seed: of the random generator; the same seed gives the same result, bit for bit.
        each: `map`, or the `map` of a pool of threads.
    """

    def __init__(self, X: Float32, P: Float32, *, k_max: int, seed: int, each: Each = map) -> None:
        self._X, self._P, self._each, self._seed = X, P, each, seed
        self.total = sum_of_squares(X, each=each)
        self._total_P = sum_of_squares(P, each=each)
        # The first k seeds of a sequence are seeds for k clusters: one sequence per start.
        self._seeds: list[Int64] = [
            seeds(P, k_max, np.random.default_rng([seed, start]), each=each)
            for start in range(STARTS)
        ]

    def clustering(self, k: int) -> Clustering:
        """The best of the starts, polished; fewer clusters where there are not k different rows."""
        starts = [
            lloyd(
                self._P,
                nearest_centre(self._P, self._P[chosen[:k]], each=self._each),
                tolerance=_SEARCH_TOLERANCE,
                squares=self._total_P,
                each=self._each,
            )
            for chosen in self._seeds
        ]
        best = swapped(
            self._P,
            min(starts, key=lambda found: found.inertia),
            tolerance=_SEARCH_TOLERANCE,
            squares=self._total_P,
            each=self._each,
        )
        return lloyd(
            self._X,
            best.labels,
            tolerance=_POLISH_TOLERANCE,
            squares=self.total,
            each=self._each,
        )

    def point(self, clustering: Clustering) -> Point:
        """The indices of one clustering."""
        far = distances(self._X, clustering.centres, clustering.labels, each=self._each)
        found = silhouette(
            self._X,
            clustering,
            sample_size=CURVE_SAMPLE,
            rng=np.random.default_rng([self._seed, clustering.k]),
            each=self._each,
        )
        return Point(
            clustering.k,
            clustering.inertia,
            calinski_harabasz(clustering, self.total),
            davies_bouldin(clustering, far),
            None if found is None else found.mean,
            0 if found is None else found.sample_size,
        )


def sweep(
    search: Search, ks: Sequence[int], *, on_done: Callable[[int], None] = lambda k: None
) -> Curve:
    """Cluster at every k, find the elbow; where it is clear, try the values of k around it too.

    Args:
        ks: ascending, at least one.
        on_done: called with each k that is done.
    """
    found: dict[int, Clustering] = {}
    tried: set[int] = set()

    def try_each(more: Iterable[int]) -> Elbow:
        for k in more:
            tried.add(k)
            clustering = search.clustering(k)
            found.setdefault(clustering.k, clustering)
            on_done(k)
        there = sorted(found)
        return elbow(there, [found[k].inertia for k in there])

    bend = try_each(ks)
    while bend.clear and (missing := _between(sorted(found), bend.index, tried)):
        bend = try_each(missing)
    there = sorted(found)
    points = tuple(search.point(found[k]) for k in there)
    return Curve(points, bend, found[there[bend.index]])


def _between(ks: Sequence[int], index: int, tried: set[int]) -> list[int]:
    """The values not yet tried between a point's neighbours, evenly thinned to a few."""
    around = ks[max(0, index - 1) : index + 2]
    missing = [k for k in range(around[0], around[-1]) if k not in tried]
    return missing[:: 1 + len(missing) // _MOST_REFINED]


def representatives(distances: Float64, clustering: Clustering, count: int) -> list[Int64]:
    """Per cluster the rows nearest to its centre, nearest first; the lower index on a tie."""
    order = np.lexsort((np.arange(len(distances)), distances, clustering.labels))
    ends = np.cumsum(clustering.sizes)
    return [
        order[end - size : end][:count] for end, size in zip(ends, clustering.sizes, strict=True)
    ]


def by_size(clustering: Clustering) -> Clustering:
    """The same clusters, numbered from the largest down; the one with the first row on a tie."""
    first = np.full(clustering.k, len(clustering.labels))
    np.minimum.at(first, clustering.labels, np.arange(len(clustering.labels)))
    order = np.lexsort((first, -clustering.sizes))
    place = np.empty(clustering.k, dtype=np.int32)
    place[order] = np.arange(clustering.k)
    return Clustering(
        place[clustering.labels],
        clustering.centres[order],
        clustering.inertia,
        clustering.iterations,
    )
