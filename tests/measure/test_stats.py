from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from paramscope.checkpoint.dtypes import DTYPES
from paramscope.measure.stats import CodeCounts, Moments

finite = st.floats(-1e3, 1e3, width=16)
anything = st.floats(width=16)


def counted(x: np.ndarray, threshold: float = 1e-8):
    counts = CodeCounts(16)
    for block in np.array_split(x.view(np.uint16), 3):
        counts.add(block)
    return counts.stats(DTYPES["F16"].values(), zero_threshold=threshold)


def summed(x: np.ndarray, threshold: float = 1e-8):
    moments = Moments(threshold)
    for block in np.array_split(x, 3):
        moments.add(block)
    return moments.stats()


@given(hnp.arrays(np.float16, st.integers(1, 200), elements=finite))
def test_both_routes_agree_with_numpy(x):
    wide = x.astype(np.float64)
    for stats in (counted(x), summed(x)):
        spread = wide.std() + 1e-300
        assert abs(stats.mean - wide.mean()) <= 1e-12 * max(spread, abs(wide).max())
        assert stats.std == pytest.approx(wide.std(), rel=1e-9, abs=1e-12 * abs(wide).max())
        assert (stats.min, stats.max) == (wide.min(), wide.max())
        assert stats.sparsity == np.mean(np.abs(wide) <= 1e-8)
        assert stats.sum_of_squares == pytest.approx((wide**2).sum(), rel=1e-13)
        assert stats.finite


@given(hnp.arrays(np.float16, st.integers(1, 60), elements=anything))
def test_what_is_not_finite_is_counted_and_left_out(x):
    wide = x.astype(np.float64)
    rest = wide[np.isfinite(wide)]
    for stats in (counted(x), summed(x)):
        assert (stats.numel, stats.nan_count) == (len(x), np.isnan(wide).sum())
        assert stats.inf_count == np.isinf(wide).sum()
        assert (stats.mean is None) == (len(rest) == 0)
        if len(rest):
            assert (stats.min, stats.max) == (rest.min(), rest.max())


def test_a_large_mean_costs_no_digits():
    x = (1000.0 + np.random.default_rng(0).standard_normal(200_000) * 1e-4).astype(np.float32)
    wide = x.astype(np.float64)
    stats = summed(x)
    assert stats.std == pytest.approx(wide.std(), rel=1e-12)
    assert abs(stats.mean - wide.mean()) <= 1e-12 * wide.std() + 2e-13 * abs(wide.mean())


def test_higher_moments_of_known_distributions():
    x = np.random.default_rng(0).standard_normal(300_000).astype(np.float16)
    for stats in (counted(x), summed(x)):
        assert stats.skewness == pytest.approx(0.0, abs=0.02)
        assert stats.kurtosis == pytest.approx(3.0, abs=0.05)
    skewed = np.random.default_rng(0).exponential(size=300_000).astype(np.float16)
    assert counted(skewed).skewness == pytest.approx(summed(skewed).skewness, rel=1e-9)
    assert counted(skewed).kurtosis == pytest.approx(summed(skewed).kurtosis, rel=1e-9)


def test_a_constant_has_no_shape():
    stats = counted(np.full(10, 0.5, dtype=np.float16))
    assert (stats.std, stats.skewness, stats.kurtosis, stats.entropy_bits) == (0.0, None, None, 0.0)


def test_entropy_of_equally_frequent_codes():
    assert counted(np.arange(8).astype(np.float16)).entropy_bits == pytest.approx(3.0)


def test_nothing_at_all():
    for stats in (counted(np.zeros(0, np.float16)), summed(np.zeros(0, np.float16))):
        assert (stats.numel, stats.mean, stats.sparsity) == (0, None, None)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("spread", [1, 2**5, 2**16])
def test_every_code_is_counted(bits, blocks, spread):
    rng = np.random.default_rng(0)
    codes = (rng.integers(0, spread, size=10_001) + 0x7FE0).astype(f"u{bits // 8}")
    counts = CodeCounts(bits)
    for block in np.array_split(codes, blocks):
        counts.add(block)
    used, found = counts.used()
    expected = np.unique(codes, return_counts=True)
    np.testing.assert_array_equal(used, expected[0])
    np.testing.assert_array_equal(found, expected[1])


@pytest.mark.parametrize("size", [1e-320, 1e-200, 1e-163, 1e-141, 1e-100, 1e-60, 1.0, 1e100])
def test_numbers_that_float64_cannot_hold_are_none_and_never_wrong(size):
    x = np.random.default_rng(0).standard_normal(5000) * size
    moments = Moments(0.0)
    with np.errstate(all="ignore"):
        moments.add(x)
        stats = moments.stats()
    assert stats.mean == pytest.approx(x.mean(), rel=1e-9)
    if size < 1e-140:
        assert (stats.std, stats.var) == (None, None)
    else:
        assert stats.std == pytest.approx(x.std(), rel=1e-9)
    z = (x - x.mean()) / (x.std() or 1.0)
    for found, power in ((stats.skewness, 3), (stats.kurtosis, 4)):
        if 1e-70 < size < 1e70:
            assert found == pytest.approx(np.mean(z**power))
        else:
            assert found is None or found == pytest.approx(np.mean(z**power))
