from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramscope.measure import rank
from paramscope.measure.spectrum import (
    add_gram,
    eigenvalues_of_gram,
    settled,
    spectrum_of_eigenvalues,
    spectrum_of_rows,
)

rng = np.random.default_rng(7)


def matrix_with(s: np.ndarray, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """A matrix whose singular values are `s`, up to rounding."""
    local = np.random.default_rng(seed)
    u, _ = np.linalg.qr(local.standard_normal((rows, len(s))))
    v, _ = np.linalg.qr(local.standard_normal((columns, len(s))))
    return (u * s) @ v.T


def fast(W: np.ndarray):
    rows, columns = W.shape
    W = W if columns <= rows else W.T
    gram = None
    for start in range(0, len(W), 37):
        gram = add_gram(gram, W[start : start + 37])
    return spectrum_of_eigenvalues(eigenvalues_of_gram(gram), long_side=max(rows, columns))


@settings(max_examples=60)
@given(
    rows=st.integers(1, 60),
    columns=st.integers(1, 60),
    decades=st.floats(0, 12),
    scale=st.floats(-30, 30),
)
def test_no_value_is_further_from_the_truth_than_the_bound(rows, columns, decades, scale):
    k = min(rows, columns)
    s = 10.0**scale * np.logspace(0, -decades, k)
    W = matrix_with(s, rows, columns)
    truth = np.linalg.svd(W, compute_uv=False)
    for spectrum in (fast(W), slow(W)):
        assert np.all(np.diff(spectrum.s) <= 0)
        assert np.abs(spectrum.s - truth).max() <= spectrum.error_bound * (1 + 1e-9)


def slow(W: np.ndarray):
    W = W if W.shape[1] <= W.shape[0] else W.T
    return spectrum_of_rows([W[i : i + 11] for i in range(0, len(W), 11)], columns=W.shape[1])


def test_blocks_and_tiles_do_not_change_the_gram_matrix(monkeypatch):
    from paramscope.measure import spectrum

    W = rng.standard_normal((100, 70))
    monkeypatch.setattr(spectrum, "_TILE", 16)
    gram = add_gram(add_gram(None, W[:33]), W[33:])
    upper = np.triu_indices(70)
    np.testing.assert_allclose(gram[upper], (W.T @ W)[upper], rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize(
    ("s", "is_settled"),
    [
        (np.ones(50), True),  # an orthogonal matrix
        (np.linspace(1, 0.01, 50), True),
        (np.r_[np.ones(25), np.zeros(25)], True),  # deficient beyond doubt at this size
        (np.r_[np.ones(49), 1e-6], False),  # on the threshold
        (np.r_[np.ones(49), 1.00001e-6], False),
    ],
)
def test_a_rank_at_the_threshold_is_not_settled_by_the_fast_route(s, is_settled):
    W = matrix_with(s, 80, 50)
    verdict = settled(fast(W), long_side=80, tolerance=1e-6, sum_of_squares=float((W**2).sum()))
    assert verdict is is_settled


def test_a_spectrum_that_contradicts_the_norm_is_not_settled():
    W = rng.standard_normal((30, 20))
    assert not settled(
        fast(W), long_side=30, tolerance=1e-6, sum_of_squares=float((W**2).sum()) * (1 + 1e-9)
    )


@settings(max_examples=40)
@given(rows=st.integers(2, 40), columns=st.integers(2, 40), seed=st.integers(0, 1000))
def test_measures_are_invariant_under_transposition_scaling_and_rotation(rows, columns, seed):
    local = np.random.default_rng(seed)
    W = local.standard_normal((rows, columns))
    q, _ = np.linalg.qr(local.standard_normal((rows, rows)))
    for other, factor in ((W.T, 1.0), (q @ W, 1.0), (3.5 * W, 3.5)):
        a, b = fast(W).s, fast(other).s
        np.testing.assert_allclose(b, factor * a, rtol=1e-6, atol=1e-6 * a[0])
        assert rank.stable_rank(b) == pytest.approx(rank.stable_rank(a))
        assert rank.effective_rank(b) == pytest.approx(rank.effective_rank(a))
        assert rank.energy_rank(b, 0.9) == rank.energy_rank(a, 0.9)


def test_zero_matrix_has_rank_zero_and_no_warning():
    s = fast(np.zeros((5, 3))).s
    assert s.tolist() == [0.0, 0.0, 0.0]
    assert rank.actual_rank(s) == 0
    assert [rank.energy_rank(s, share) for share in rank.ENERGY_SHARES] == [0, 0, 0]
    assert (rank.stable_rank(s), rank.effective_rank(s), rank.spectral_norm(s)) == (0, 0, 0)
    assert rank.condition_number(s) is None


def test_known_ranks_of_a_known_spectrum():
    s = np.array([3.0, 2.0, 1.0, 1e-7])
    assert rank.actual_rank(s) == 3
    assert rank.actual_rank(s, tolerance=1e-9) == 4
    assert rank.energy_rank(s, 0.90) == 2  # 13 of 14
    assert rank.energy_rank(s, 0.95) == 3
    assert rank.stable_rank(s) == pytest.approx(14 / 9)
    assert rank.condition_number(s) == pytest.approx(3e7)
    assert rank.condition_number(s, error_bound=1e-6) is None


def test_equal_singular_values_count_as_equal_shares():
    s = np.ones(10) * (1 + 1e-15 * np.arange(10)[::-1])
    assert rank.energy_rank(s, 0.90) == 9
    assert rank.effective_rank(s) == pytest.approx(10)
    assert rank.effective_rank_energy(s) == pytest.approx(10)
