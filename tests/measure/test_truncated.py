from __future__ import annotations

import numpy as np
import pytest

from paramscope.measure import rank
from paramscope.measure.truncated import leading_spectrum


def leading(W: np.ndarray, k: int, **options):
    def blocks():
        return (W[i : i + 97] for i in range(0, len(W), 97))

    return leading_spectrum(
        blocks, columns=W.shape[1], leading=k, sum_of_squares=float((W**2).sum()), **options
    )


def with_spectrum(s: np.ndarray, rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    u, _ = np.linalg.qr(rng.standard_normal((rows, len(s))))
    v, _ = np.linalg.qr(rng.standard_normal((len(s), len(s))))
    return (u * s) @ v.T


SPECTRA = {
    "random": np.sort(np.random.default_rng(0).random(300))[::-1] + 0.5,
    "decaying": np.logspace(0, -6, 300),
    "low rank": np.r_[np.linspace(2, 1, 10), np.zeros(290)],
    "clustered": np.r_[np.full(40, 1.0), np.full(260, 0.999)],
    "all equal": np.ones(300),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_leading_values_are_within_their_bound_of_the_true_ones(name):
    W = with_spectrum(SPECTRA[name], 500)
    truth = np.linalg.svd(W, compute_uv=False)
    found = leading(W, 20)
    assert found.s.shape == (20,)
    assert not found.complete
    assert np.abs(found.s - truth[:20]).max() <= found.error_bound
    assert found.error_bound <= 1e-6 * truth[0]


def test_a_pass_limit_gives_an_honest_bound():
    W = with_spectrum(SPECTRA["random"], 500)
    truth = np.linalg.svd(W, compute_uv=False)
    found = leading(W, 20, max_passes=2)
    nearest = np.abs(found.s[:, None] - truth[None, :]).min(axis=1)
    assert found.error_bound > 1e-6
    assert nearest.max() <= found.error_bound


def test_the_same_seed_gives_the_same_values():
    W = with_spectrum(SPECTRA["random"], 400)
    assert leading(W, 5).s.tolist() == leading(W, 5).s.tolist()


def test_counts_are_lower_bounds_and_exact_where_the_share_is_reached():
    s = np.r_[10.0, 5.0, np.full(298, 0.01)]
    found = leading(with_spectrum(s, 400), 20)
    whole = float((s**2).sum())
    assert rank.energy_rank(found.s, 0.9, sum_of_squares=whole) == rank.energy_rank(s, 0.9) == 2
    flat = leading(with_spectrum(np.ones(300), 400), 20)
    assert rank.energy_rank(flat.s, 0.9, sum_of_squares=300.0) == 20
    assert rank.energy_share(flat.s, 300.0) == pytest.approx(20 / 300)
    assert rank.stable_rank(flat.s, sum_of_squares=300.0) == pytest.approx(300)
