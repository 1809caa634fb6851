from __future__ import annotations

import numpy as np
import pytest

from paramscope.measure.random_matrix import random_energy_rank, random_spectrum
from paramscope.measure.rank import energy_rank


@pytest.mark.parametrize("shape", [(400, 400), (400, 800), (1200, 300), (2000, 20)])
def test_it_is_what_a_large_random_matrix_has(shape):
    rng = np.random.default_rng(0)
    s = np.linalg.svd(rng.standard_normal(shape), compute_uv=False)
    expected = random_spectrum(*shape)
    assert np.abs(s - expected).max() < 0.04 * s[0]
    for share in (0.9, 0.95, 0.99):
        assert random_energy_rank(*shape, share) == pytest.approx(energy_rank(s, share), abs=3)


@pytest.mark.parametrize("shape", [(400, 400), (100, 900), (2, 50_000)])
def test_the_energy_is_that_of_unit_variance(shape):
    s = random_spectrum(*shape)
    assert np.sum(s**2) == pytest.approx(shape[0] * shape[1], rel=2e-3)
    assert (np.diff(s) <= 0).all()


def test_positions_choose_and_orientation_does_not_matter():
    whole = random_spectrum(30, 70)
    np.testing.assert_array_equal(random_spectrum(70, 30, [0, 7, 29]), whole[[0, 7, 29]])


def test_a_vector_has_one_value():
    assert random_spectrum(1, 25).tolist() == [5.0]
    assert random_energy_rank(1, 25, 0.9) == 1
