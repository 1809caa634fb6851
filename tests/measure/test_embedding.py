"""An embedding as a whole; numpy in float64 and brute force are the oracles."""

from __future__ import annotations

import numpy as np
import pytest

from paramscope.measure.components import covariance, mean_row, principal_components, project
from paramscope.measure.duplicates import NEAR_COSINE, first_equal, near_duplicates
from paramscope.measure.embedding import (
    components_for,
    entropy_dimension,
    isoscore,
    keep_rows,
    mean_cosine,
    nearest_rows,
    participation_ratio,
    row_facts,
    scale_rows,
)
from paramscope.measure.untrained import low_norms, near_seeds
from planted import trained_rows, untrained_rows

RNG = np.random.default_rng(0)


def published_isoscore(variances) -> float:
    """The steps of the paper, one by one."""
    n = len(variances)
    normal = np.sqrt(n) * variances / np.linalg.norm(variances)
    defect = np.linalg.norm(normal - 1) / np.sqrt(2 * (n - np.sqrt(n)))
    share = (n - defect**2 * (n - np.sqrt(n))) ** 2 / n**2
    return (n * share - 1) / (n - 1)


@pytest.mark.parametrize("d", [2, 3, 17, 384])
def test_isoscore_is_the_published_one(d):
    for variances in (RNG.random(d), RNG.lognormal(0, 2, d), np.r_[1.0, np.full(d - 1, 1e-3)]):
        assert isoscore(variances) == pytest.approx(published_isoscore(variances), abs=1e-12)
    assert isoscore(np.ones(d)) == pytest.approx(1.0)
    assert isoscore(np.r_[1.0, np.zeros(d - 1)]) == pytest.approx(0.0)


def test_dimensions_count_directions_of_equal_variance():
    variances = np.r_[np.full(12, 3.0), np.zeros(20)]
    assert participation_ratio(variances) == pytest.approx(12)
    assert entropy_dimension(variances) == pytest.approx(12)
    assert components_for(variances, 0.9) == 11
    assert components_for(variances, 1.0) == 12
    zero = np.zeros(4)
    assert (participation_ratio(zero), entropy_dimension(zero), isoscore(zero)) == (0.0, 0.0, None)
    assert components_for(zero, 0.9) == 0
    assert isoscore(np.ones(1)) is None


def test_mean_cosine_is_the_mean_over_all_pairs():
    X = (RNG.standard_normal((300, 20)) + 0.4).astype(np.float32)
    X[7] = 0.0
    norms = row_facts(X).norms
    unit = np.delete(X, 7, axis=0).astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1)[:, None]
    cosines = unit @ unit.T
    expected = cosines[~np.eye(299, dtype=bool)].mean()
    assert mean_cosine(X, norms) == pytest.approx(expected, abs=1e-9)
    assert mean_cosine(X[7:8], norms[7:8]) is None


@pytest.mark.parametrize("d", [7, 600, 1100])
def test_covariance_and_components_agree_with_numpy(d):
    X = (RNG.standard_normal((3000, d)) * np.linspace(1, 3, d) + 5).astype(np.float32)
    mean = mean_row(X)
    assert mean == pytest.approx(X.mean(axis=0, dtype=np.float64), abs=1e-6)
    expected = np.cov(X.T.astype(np.float64), bias=True)
    found = covariance(X, mean)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    variances, V = principal_components(found, 5)
    assert variances == pytest.approx(np.linalg.eigvalsh(expected)[::-1], rel=1e-3, abs=1e-4)
    assert pytest.approx(np.eye(5), abs=1e-9) == V.T @ V
    P = project(X, mean, V)
    assert P.var(axis=0) == pytest.approx(variances[:5], rel=1e-3)


def test_components_have_one_sign():
    X = RNG.standard_normal((500, 12)).astype(np.float32)
    spread = covariance(X, mean_row(X))
    _, V = principal_components(spread, 4)
    largest = np.abs(V).argmax(axis=0)
    assert (V[largest, range(4)] > 0).all()


def test_row_facts_find_nan_constants_and_equal_rows():
    X = RNG.standard_normal((5000, 24)).astype(np.float32)
    X[3, 5], X[9, 0] = np.nan, np.inf
    X[20], X[21], X[22] = 0.0, 0.25, -0.0
    X[4000] = X[17]
    facts = row_facts(X)
    assert np.flatnonzero(~facts.finite).tolist() == [3, 9]
    assert np.flatnonzero(facts.constant).tolist() == [20, 21, 22]
    assert np.isnan(facts.norms[[3, 9]]).all()
    finite = facts.finite
    expected = np.linalg.norm(X[finite].astype(np.float64), axis=1)
    assert facts.norms[finite] == pytest.approx(expected, rel=1e-12)
    assert facts.hashes[4000] == facts.hashes[17] and facts.hashes[20] == facts.hashes[22]
    assert len(set(facts.hashes.tolist())) == 5000 - 2


def test_keeping_rows_moves_them_up():
    X = np.arange(40, dtype=np.float32).reshape(10, 4)
    kept = np.array([0, 3, 4, 9])
    expected = X[kept].copy()
    assert np.array_equal(keep_rows(X, kept), expected)


@pytest.mark.parametrize("how", ["none", "unit", "standard"])
def test_scaling_is_done_in_place_and_centred(how):
    X = (RNG.standard_normal((3000, 10)) * np.arange(10) + 2).astype(np.float32)
    X[5] = 0.0
    wide = X.astype(np.float64)
    variances = wide.var(axis=0)
    if how == "unit":
        norms = np.linalg.norm(wide, axis=1)
        wide /= np.where(norms > 0, norms, 1)[:, None]
    elif how == "standard":
        wide /= np.where(variances > 0, np.sqrt(np.where(variances > 0, variances, 1)), 1)
    expected = wide - wide.mean(axis=0)
    assert scale_rows(X, how, variances=variances) is X
    assert pytest.approx(expected, abs=1e-5) == X


def test_nearest_rows_are_those_of_the_largest_cosine():
    X = RNG.standard_normal((400, 8)).astype(np.float32)
    X[11] = 0.0
    X[30] = 3.0 * X[5]
    norms = row_facts(X).norms
    near, cosines = nearest_rows(X, norms, 5, 4)
    assert near[0] == 30 and cosines[0] == pytest.approx(1.0)
    unit = X / np.where(norms > 0, norms, 1)[:, None]
    expected = unit @ unit[5]
    expected[5] = -2
    assert near.tolist() == np.argsort(-expected)[:4].tolist()


def test_planted_duplicates_come_back_all_and_only_they():
    X = trained_rows(6000, 32)
    rng = np.random.default_rng(1)
    copies = rng.choice(np.arange(3000, 6000), 250, replace=False)
    X[copies] = X[rng.integers(3000, size=250)]
    first = first_equal(X, row_facts(X).hashes)
    found = set(np.flatnonzero(first != np.arange(6000)).tolist())
    hits = len(found & set(copies.tolist()))
    print(f"duplicates: precision {hits / len(found):.3f}, recall {hits / 250:.3f}")
    assert found == set(copies.tolist())
    assert all(np.array_equal(X[row], X[first[row]]) for row in found)


def test_rows_with_one_hash_are_compared_in_full():
    X = np.array([[1.0], [2.0], [1.0], [2.0], [3.0]], dtype=np.float32)
    assert first_equal(X, np.zeros(5, dtype=np.uint64)).tolist() == [0, 1, 0, 1, 4]


@pytest.mark.parametrize("r", [1, 8, 40])
def test_near_duplicates_are_those_of_brute_force_whatever_the_bound_uses(r):
    X = trained_rows(5000, 40) + 0.3
    rng = np.random.default_rng(2)
    copies = rng.choice(np.arange(2500, 5000), 150, replace=False)
    X[copies] = X[rng.integers(2500, size=150)] * 1.001
    X[copies] += 0.01 * rng.standard_normal((150, 40)).astype(np.float32)
    mean = mean_row(X)
    _, V = principal_components(covariance(X, mean), r)
    found = near_duplicates(X, mean, V, np.arange(5000))
    unit = X.astype(np.float64) - mean
    unit /= np.linalg.norm(unit, axis=1)[:, None]
    cosines = np.triu(unit @ unit.T, 1)
    a, b = np.nonzero(cosines >= NEAR_COSINE)
    assert found.complete and found.pairs == len(a) >= 140
    assert found.rows == len(set(a.tolist()) | set(b.tolist()))
    best = np.sort(cosines[a, b])[::-1][:50]
    assert [pair[0] for pair in found.closest] == pytest.approx(best.tolist(), abs=1e-5)
    planted = set(copies.tolist())
    hits = sum(int(i) in planted or int(j) in planted for i, j in zip(a, b, strict=True))
    print(f"near-duplicates: precision {hits / len(a):.3f}, recall {min(1.0, hits / 150):.3f}")


def test_rows_at_the_mean_are_no_near_duplicates():
    X = np.vstack([np.eye(4), -np.eye(4), np.zeros((2, 4))]).astype(np.float32)
    found = near_duplicates(X, np.zeros(4), np.eye(4)[:, :2], np.arange(10))
    assert (found.pairs, found.rows, found.closest) == (0, 0, [])


@pytest.mark.parametrize("kind", ["drifted", "as they began", "zero", "equal"])
def test_planted_untrained_rows_come_back_from_a_few_seeds(kind):
    n, d, planted = 8000, 64, 400
    X = trained_rows(n, d)
    rows = np.random.default_rng(4).choice(n, planted, replace=False)
    if kind == "drifted":
        X[rows] = untrained_rows(planted, d)
    elif kind == "as they began":
        X[rows] = 0.3 / np.sqrt(d) * np.random.default_rng(5).standard_normal((planted, d))
    else:
        X[rows] = 0.0 if kind == "zero" else X[0]
    found = near_seeds(X, np.sort(rows[:40]))
    hits = found.near[rows].sum()
    print(
        f"untrained, {kind}: precision {hits / found.near.sum():.3f}, recall {hits / planted:.3f}"
    )
    assert found.stands_apart
    assert hits / found.near.sum() >= 0.95 and hits / planted >= 0.95


def test_seeds_that_look_trained_lead_to_no_candidates():
    X = trained_rows(5000, 64)
    found = near_seeds(X, np.arange(100))
    assert not found.stands_apart and not found.near.any()


def test_a_few_trained_rows_among_the_seeds_do_no_harm():
    X = trained_rows(5000, 64)
    X[:200] = untrained_rows(200, 64)
    found = near_seeds(X, np.r_[np.arange(60), np.arange(1000, 1015)])
    assert found.near[:200].mean() >= 0.95 and not found.near[200:].any()


def test_two_seeds_are_too_few():
    assert near_seeds(trained_rows(50, 8), np.array([1, 2])) is None


def test_low_norms_are_found_without_seeds():
    X = trained_rows(5000, 64)
    X[:30] *= 0.05
    X[30] = 0.0
    assert np.flatnonzero(low_norms(row_facts(X).norms)).tolist() == list(range(31))
    assert not low_norms(np.zeros(4)).any()
