"""The rows in clusters: scaled, searched, placed on a map, and described by their tokens."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from paramscope.embeddings.rows import Rows
from paramscope.measure import embedding as measures
from paramscope.measure.blocks import Each, Float32, Float64, Int64
from paramscope.measure.cluster import (
    SEARCH_COMPONENTS,
    Curve,
    Point,
    Search,
    by_size,
    ks_to_try,
    representatives,
    sweep,
)
from paramscope.measure.components import covariance, principal_components, project
from paramscope.measure.lloyd import Clustering, distances
from paramscope.measure.separation import Silhouette, silhouette

REPRESENTATIVES = 8
_SAMPLE = 4000


class Wanted(Protocol):
    """The options that decide the clusters."""

    @property
    def k_max(self) -> int: ...
    @property
    def k(self) -> int | None: ...
    @property
    def scaling(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def map(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Grouping:
    """The clusters that were chosen, and how.

    Attributes:
        clustering: of the measured rows; clusters from the largest down.
        distances: of each row to its centre, in scaled units.
        places: on the map, shape (m, 2).
        curve: of quality over k.
        silhouette: of the chosen clusters, from a sample.
        notes: sentences for the user.
    """

    clustering: Clustering
    distances: Float64
    places: Float64
    curve: Curve
    silhouette: Silhouette | None
    notes: list[str]


def group(
    X: Float32,
    spread: Float64,
    options: Wanted,
    *,
    different: int,
    on_done: Callable[[int], None],
    each: Each,
) -> Grouping:
    """Cluster the rows.

    Args:
        X: the measured rows, shape (m, d); scaled in place.
        spread: their covariance, shape (d, d).
        different: how many rows are not equal to an earlier one.
    """
    P = _scaled(X, spread, options.scaling, each)
    ks, notes = _ks(options, different)
    search = Search(X, P, k_max=ks[-1], seed=options.seed, each=each)
    curve = sweep(search, ks, on_done=on_done)
    if curve.k < ks[0]:
        notes.append(f"After scaling only {curve.k:,} rows differ: there are that many clusters.")
    chosen = by_size(curve.clustering)
    return Grouping(
        chosen,
        distances(X, chosen.centres, chosen.labels, each=each),
        _places(P, options),
        curve,
        silhouette(
            X,
            chosen,
            sample_size=_SAMPLE,
            rng=np.random.default_rng([options.seed, 0]),
            each=each,
        ),
        notes,
    )


def _scaled(X: Float32, spread: Float64, scaling: str, each: Each) -> Float32:
    """Scale X in place; its rows in their first principal components."""
    measures.scale_rows(X, scaling, variances=np.diag(spread), each=each)
    zero = np.zeros(X.shape[1])
    if scaling == "standard":
        widths = np.sqrt(np.diag(spread))
        widths = np.where(widths > 0.0, widths, 1.0)
        spread = spread / np.outer(widths, widths)
    elif scaling == "unit":
        spread = covariance(X, zero, each=each)
    _, V = principal_components(spread, SEARCH_COMPONENTS)
    return project(X, zero, V, each=each)


def _ks(options: Wanted, different: int) -> tuple[list[int], list[str]]:
    """The values of k to try, and a note where there are fewer rows than clusters asked for."""
    if options.k is not None:
        if options.k <= different:
            return [options.k], []
        note = f"Only {different:,} rows differ: {different:,} clusters, not {options.k:,}."
        return [different], [note]
    most = min(options.k_max, different - 1)
    if most < 2:
        return [1], [f"Only {different:,} different rows: they are left in one cluster."]
    notes = []
    if most < options.k_max:
        notes.append(f"Only {different:,} rows differ: up to {most:,} clusters were tried.")
    return ks_to_try(most), notes


def _places(P: Float32, options: Wanted) -> Float64:
    """Where each row lies on the map."""
    if options.map == "umap":
        umap: Any = importlib.import_module("umap")  # an extra, heavy to import
        model = umap.UMAP(n_components=2, random_state=options.seed, n_jobs=1)
        return np.asarray(model.fit_transform(P), dtype=np.float64)
    places = np.zeros((len(P), 2))
    places[:, : min(2, P.shape[1])] = P[:, :2]
    return places


def cluster_facts(found: Grouping, rows: Rows) -> list[dict[str, Any]]:
    """One dict per cluster, the largest first."""
    chosen, total = found.clustering, len(found.clustering.labels)
    sums = np.bincount(chosen.labels, weights=found.distances, minlength=chosen.k)
    nearest = representatives(found.distances, chosen, REPRESENTATIVES)
    facts = []
    for cluster, (size, members) in enumerate(zip(chosen.sizes.tolist(), nearest, strict=True)):
        score = None if found.silhouette is None else found.silhouette.per_cluster[cluster]
        facts.append(
            {
                "cluster": cluster,
                "size": size,
                "share": size / total,
                "mean_distance": float(sums[cluster] / size),
                "silhouette": None if score is None or np.isnan(score) else float(score),
                "representatives": rows.tokens(members, distance=found.distances[members]),
            }
        )
    return facts


def curve_facts(curve: Curve) -> list[dict[str, Any]]:
    """One dict per k that was tried."""
    return [{**asdict(point), "chosen": int(point.k == curve.k)} for point in curve.points]


def elbow_facts(found: Grouping, options: Wanted) -> dict[str, Any]:
    """Where the elbow is, whether it is clear, and what else speaks for which k."""
    curve = found.curve
    sharpness = curve.elbow.sharpness
    return {
        "k": curve.k,
        "clear": curve.elbow.clear,
        "sharpness": sharpness if np.isfinite(sharpness) else None,
        "note": _elbow_note(curve, given=options.k is not None),
        "sample_size": max(point.sample_size for point in curve.points),
    }


def _elbow_note(curve: Curve, *, given: bool) -> str:
    if given:
        return f"k = {curve.k} was asked for; no other k was tried."
    if len(curve.points) < 3:
        return "There are too few values of k to speak of an elbow."
    first, last = curve.points[0].k, curve.points[-1].k
    if curve.elbow.clear:
        ratio = curve.elbow.sharpness
        times = f"{ratio:.1f} times as steeply" if ratio < 1000 else "incomparably more steeply"
        return f"Up to k = {curve.k} the inertia falls {times} as after it."
    return (
        f"No clear elbow: the inertia falls smoothly from k = {first} to {last}, and k = {curve.k} "
        f"is only where the curve bends most. {_others(curve)}"
    )


def _others(curve: Curve) -> str:
    def best(score: Callable[[Point], float | None]) -> int:
        return max(curve.points, key=lambda point: (score(point) or -np.inf, -point.k)).k

    silhouettes = best(lambda point: point.silhouette)
    ratios = best(lambda point: point.calinski_harabasz)
    spreads = best(lambda point: -(point.davies_bouldin or np.inf))
    return (
        f"The silhouette is best at k = {silhouettes}, Calinski-Harabasz at {ratios}, "
        f"Davies-Bouldin at {spreads}."
    )


def labels_everywhere(found: Grouping, rows: Rows) -> Int64:
    """The cluster of every row, -1 for those that were left out."""
    labels = np.full(rows.total, -1, dtype=np.int64)
    labels[rows.kept] = found.clustering.labels
    return labels
