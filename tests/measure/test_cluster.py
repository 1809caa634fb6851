"""K-means and what is said of its result; scikit-learn and kneed are the oracles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from paramscope.measure.blocks import threads
from paramscope.measure.cluster import Search, by_size, ks_to_try, representatives, sweep
from paramscope.measure.components import covariance, mean_row, principal_components, project
from paramscope.measure.elbow import elbow
from paramscope.measure.lloyd import (
    Clustering,
    distances,
    lloyd,
    nearest_centre,
    seeds,
    sum_of_squares,
)
from paramscope.measure.separation import calinski_harabasz, davies_bouldin, silhouette
from planted import blobs


@pytest.fixture(autouse=True, scope="module")
def _one_thread_per_product():
    with threadpool_limits(1):  # as in a run
        yield


def search_of(X, *, k_max=100, seed=42, each=map) -> Search:
    mean = mean_row(X, each=each)
    X = X - mean.astype(np.float32)
    zero = np.zeros(X.shape[1])
    _, V = principal_components(covariance(X, zero, each=each), 64)
    return Search(X, project(X, zero, V, each=each), k_max=k_max, seed=seed, each=each)


def clustering_of(X, labels) -> Clustering:
    k = labels.max() + 1
    centres = np.array([X[labels == c].mean(axis=0) for c in range(k)], dtype=np.float32)
    inertia = float(((X - centres[labels]) ** 2).sum(dtype=np.float64))
    return Clustering(labels.astype(np.int32), centres, inertia, 1)


@pytest.mark.parametrize("k", [3, 5, 12, 13, 22, 40, 60, 71, 80])
def test_the_elbow_finds_the_number_of_planted_clusters(k):
    X, planted = blobs(k, seed=k)
    curve = sweep(search_of(X), ks_to_try(100))
    assert (curve.k, curve.elbow.clear) == (k, True)
    pairs = np.unique(np.column_stack([curve.clustering.labels, planted]), axis=0)
    assert len(pairs) == k  # each found cluster is one planted cluster


@pytest.mark.parametrize("seed", range(4))
def test_a_cloud_without_clusters_has_no_clear_elbow(seed):
    X = np.random.default_rng(seed).standard_normal((4000, 40)).astype(np.float32)
    assert not sweep(search_of(X), ks_to_try(60)).elbow.clear


def test_inertia_is_as_low_as_scikit_learns():
    sklearn = pytest.importorskip("sklearn.cluster")
    rng = np.random.default_rng(3)
    X, _ = blobs(30, n=5000, d=80, spread=1.2, seed=3)
    X += rng.standard_normal(X.shape).astype(np.float32) * 0.5
    search = search_of(X)
    for k in (4, 16, 50):
        theirs = sklearn.KMeans(k, n_init=10, random_state=0).fit(X).inertia_
        assert search.clustering(k).inertia <= 1.002 * theirs


def test_one_seed_gives_one_result_whatever_the_number_of_threads():
    X, _ = blobs(20, n=9000, spread=1.0)
    results = []
    for workers in (1, 2, 5):
        with threads(workers) as each:
            results.append(sweep(search_of(X, k_max=30, each=each), [2, 9, 30]))
    for other in results[1:]:
        assert np.array_equal(other.clustering.labels, results[0].clustering.labels)
        assert np.array_equal(other.clustering.centres, results[0].clustering.centres)
        assert other.points == results[0].points


def test_another_seed_may_give_another_result_of_the_same_quality():
    X, _ = blobs(20, n=6000, spread=1.5)
    first, second = (search_of(X, seed=seed).clustering(20) for seed in (1, 2))
    assert first.inertia == pytest.approx(second.inertia, rel=0.01)


def test_inertia_is_the_sum_of_squared_distances_to_the_means():
    X, _ = blobs(7, n=3000)
    found = search_of(X).clustering(7)
    centred = X.astype(np.float64) - X.mean(axis=0, dtype=np.float64)
    means = np.array([centred[found.labels == c].mean(axis=0) for c in range(7)])
    assert found.centres == pytest.approx(means, abs=1e-5)
    assert found.inertia == pytest.approx(((centred - means[found.labels]) ** 2).sum(), rel=1e-5)
    far = distances((centred).astype(np.float32), found.centres, found.labels)
    assert (far**2).sum() == pytest.approx(found.inertia, rel=1e-5)


def test_rows_go_to_the_nearest_centre():
    rng = np.random.default_rng(0)
    X, C = rng.standard_normal((5000, 20)).astype(np.float32), rng.standard_normal((9, 20))
    nearest = ((X[:, None, :].astype(np.float64) - C) ** 2).sum(axis=2).argmin(axis=1)
    assert np.mean(nearest_centre(X, C.astype(np.float32)) == nearest) > 0.999


@settings(max_examples=30)
@given(n=st.integers(1, 40), different=st.integers(1, 6), k=st.integers(1, 12))
def test_there_are_never_more_clusters_than_different_rows(n, different, k):
    rng = np.random.default_rng(n)
    X = rng.standard_normal((different, 5)).astype(np.float32)[rng.integers(different, size=n)]
    found = search_of(X, k_max=min(k, n)).clustering(min(k, n))
    assert found.k <= min(k, len(np.unique(X, axis=0)))
    assert found.sizes.min() > 0 and found.sizes.sum() == n


def test_an_empty_cluster_takes_the_furthest_row():
    X = np.array([[0.0], [0.1], [0.2], [9.0]], dtype=np.float32)
    labels = np.array([0, 0, 2, 0], dtype=np.int32)  # nothing in cluster 1
    found = lloyd(X, labels, tolerance=0.0, squares=sum_of_squares(X))
    assert sorted(found.sizes.tolist()) == [1, 1, 2]


def test_seeds_are_different_rows_and_the_first_ones_do_not_depend_on_how_many():
    X, _ = blobs(10, n=3000)
    many = seeds(X, 40, np.random.default_rng(5))
    assert len(set(many.tolist())) == 40
    assert len(seeds(np.zeros((50, 3), np.float32), 5, np.random.default_rng(0))) == 1


def test_indices_agree_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    X, labels = blobs(6, n=900, spread=1.0)
    found = clustering_of(X, labels)
    total = float(((X - X.mean(axis=0)) ** 2).sum(dtype=np.float64))
    assert calinski_harabasz(found, total) == pytest.approx(
        metrics.calinski_harabasz_score(X, labels), rel=1e-4
    )
    far = distances(X, found.centres, found.labels)
    assert davies_bouldin(found, far) == pytest.approx(
        metrics.davies_bouldin_score(X, labels), rel=1e-4
    )
    ours = silhouette(X, found, sample_size=900, rng=np.random.default_rng(0))
    theirs = metrics.silhouette_samples(X, labels)
    assert ours.sample_size == 900
    assert ours.mean == pytest.approx(theirs.mean(), abs=1e-5)
    for cluster in range(6):
        assert ours.per_cluster[cluster] == pytest.approx(
            theirs[labels == cluster].mean(), abs=1e-5
        )


def test_a_sampled_silhouette_is_near_the_complete_one():
    X, labels = blobs(6, n=6000, spread=0.8)
    found = clustering_of(X, labels)
    whole = silhouette(X, found, sample_size=6000, rng=np.random.default_rng(0))
    part = silhouette(X, found, sample_size=600, rng=np.random.default_rng(0))
    assert part.sample_size == 600
    assert part.mean == pytest.approx(whole.mean, abs=0.02)


def test_one_cluster_has_no_indices():
    X, _ = blobs(1, n=100)
    one = clustering_of(X, np.zeros(100, dtype=np.int64))
    assert calinski_harabasz(one, 1.0) is None
    assert davies_bouldin(one, np.ones(100)) is None
    assert silhouette(X, one, sample_size=50, rng=np.random.default_rng(0)) is None


def test_the_elbow_agrees_with_kneed_on_one_knee():
    kneed = pytest.importorskip("kneed")
    for knee in (4, 9, 20, 33):
        ks = ks_to_try(100)
        curve = [
            100.0 - 2.0 * k if k <= knee else 100.0 - 2.0 * knee - 0.05 * (k - knee) for k in ks
        ]
        theirs = kneed.KneeLocator(ks, curve, curve="convex", direction="decreasing").knee
        ours = elbow(ks, curve)
        assert ks[ours.index] == theirs
        assert ours.clear


@pytest.mark.parametrize(
    "curve", [lambda k: 1 / k, lambda k: -np.log(k), lambda k: k**-0.3, lambda k: np.exp(-k / 30)]
)
def test_a_smooth_curve_has_no_clear_elbow(curve):
    ks = ks_to_try(100)
    assert not elbow(ks, [curve(k) for k in ks]).clear


def test_a_curve_of_one_or_two_points_or_a_flat_one_has_no_elbow():
    assert elbow([1], [3.0]).clear is False
    assert elbow([2, 3], [3.0, 2.0]).clear is False
    assert elbow([2, 3, 4], [3.0, 3.0, 3.0]).clear is False


@pytest.mark.parametrize("k_max", [2, 3, 7, 21, 22, 50, 100, 1000])
def test_the_values_to_try_span_the_range(k_max):
    ks = ks_to_try(k_max)
    assert (ks[0], ks[-1]) == (2, k_max) and ks == sorted(set(ks))
    assert len(ks) == k_max - 1 if k_max <= 20 else 19 <= len(ks) <= 22


def test_representatives_are_the_nearest_and_clusters_are_numbered_by_size():
    labels = np.array([1, 0, 1, 2, 1, 2], dtype=np.int32)
    found = by_size(Clustering(labels, np.eye(3, dtype=np.float32), 1.0, 1))
    assert found.labels.tolist() == [0, 2, 0, 1, 0, 1]
    near = representatives(np.array([0.3, 0.0, 0.1, 0.5, 0.1, 0.2]), found, 2)
    assert [rows.tolist() for rows in near] == [[2, 4], [5, 3], [1]]
