"""Singular values of a product, from its factors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramscope.measure.low_rank import spectrum_of_product
from paramscope.measure.rank import actual_rank

rng = np.random.default_rng(5)


def factors_with(s: np.ndarray, m: int, n: int, *, spread: float = 1.0) -> tuple:
    """Factors of a matrix whose nonzero singular values are `s`, mixed by a regular matrix."""
    r = len(s)
    u, v = (np.linalg.qr(rng.standard_normal((side, r)))[0] for side in (m, n))
    mixing = np.linalg.qr(rng.standard_normal((r, r)))[0] * np.geomspace(1, spread, r)
    return (u * s) @ mixing, np.linalg.solve(mixing, v.T)


@pytest.mark.parametrize("spread", [1.0, 1e3])
@pytest.mark.parametrize(("m", "n"), [(300, 70), (70, 300), (128, 128)])
def test_a_planted_spectrum_is_found_within_its_bound(m, n, spread):
    s = np.geomspace(5.0, 1e-7, 16)
    found = spectrum_of_product(*factors_with(s, m, n, spread=spread))
    assert found.method == "factors"
    assert found.complete
    assert len(found.s) == min(m, n)
    np.testing.assert_allclose(found.s[:16], s, rtol=0, atol=found.error_bound)
    assert found.error_bound < 1e-12 * spread * len(s) * s[0]
    assert found.sum_of_squares == pytest.approx(float((s**2).sum()))


@settings(max_examples=60)
@given(m=st.integers(1, 40), n=st.integers(1, 40), r=st.integers(1, 50), seed=st.integers(0, 999))
def test_it_agrees_with_the_svd_of_the_product(m, n, r, seed):
    local = np.random.default_rng(seed)
    left, right = local.standard_normal((m, r)), local.standard_normal((r, n))
    found = spectrum_of_product(left, right)
    expected = np.linalg.svd(left @ right, compute_uv=False)
    assert found.s.shape == expected.shape
    np.testing.assert_allclose(found.s, expected, rtol=0, atol=found.error_bound)
    assert (np.diff(found.s) <= 0).all()
    assert (found.s[min(m, n, r) :] == 0.0).all()


@pytest.mark.parametrize(("last", "rank"), [(1.0001e-6, 4), (0.9999e-6, 3)])
def test_the_rank_is_right_next_to_the_tolerance(last, rank):
    left, right = factors_with(np.array([1.0, 0.5, 1e-3, last]), 200, 90)
    assert actual_rank(spectrum_of_product(left, right).s) == rank


def test_the_bound_covers_terms_that_cancel():
    a, b = rng.standard_normal(50), rng.standard_normal(30)
    step = 2.0**-40 * np.sign(a)  # a + step is exact, or nearly
    left, right = np.stack([a + step, a], axis=1), np.stack([b, -b])
    exact = np.linalg.norm((a + step) - a) * np.linalg.norm(b)
    found = spectrum_of_product(left, right)
    assert abs(found.s[0] - exact) <= found.error_bound
    assert found.s[1] <= found.error_bound


def test_the_bound_does_not_depend_on_how_a_scale_is_shared_by_the_factors():
    left, right = factors_with(np.geomspace(1, 1e-3, 8), 60, 40)
    share = 2.0 ** np.arange(-40, 40, 10)
    plain, scaled = (
        spectrum_of_product(left, right),
        spectrum_of_product(left * share, right / share[:, None]),
    )
    assert scaled.error_bound == pytest.approx(plain.error_bound)
    np.testing.assert_allclose(scaled.s, plain.s, rtol=0, atol=2 * plain.error_bound)


def test_a_zero_factor_gives_zeros_throughout():
    found = spectrum_of_product(np.zeros((6, 2)), rng.standard_normal((2, 4)))
    assert found.s.tolist() == [0.0] * 4
    assert (found.error_bound, found.sum_of_squares, actual_rank(found.s)) == (0.0, 0.0, 0)


def test_factors_that_overflow_are_an_error_of_the_solver():
    with np.errstate(over="ignore"), pytest.raises(np.linalg.LinAlgError):
        spectrum_of_product(np.full((3, 1), 1e200), np.full((1, 3), 1.0))
