"""What the singular values of a matrix of independent random numbers would be: the yardstick.

For an m×n matrix of independent elements of mean 0 and variance v, k = min(m, n), l = max(m, n),
β = k/l, the eigenvalues of the Gram matrix divided by v·l follow, for large matrices, the
Marchenko-Pastur law on [(1-√β)², (1+√β)²]. With λ(θ) = 1 + β + 2√β·cos θ it reads

    dF = 2·sin²θ / (π·λ(θ)) dθ,   θ from 0 (largest) to π

which is smooth, so that the quantiles come from one cumulative sum, without sampling.
Source: Marchenko & Pastur 1967; Bai & Silverstein, Spectral Analysis of Large Dimensional
Random Matrices, 2nd ed., chapter 3.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

_NODES = 4097


def random_spectrum(rows: int, columns: int, positions: npt.ArrayLike | None = None) -> Float64:
    """Expected singular values of a random matrix of unit variance, descending.

    Args:
        positions: which of the k values, from 0, the largest; all by default.

    Returns:
        The quantiles at (i + 1/2)/k, times √l; for a variance v multiply by √v. A vector has one
        value, √l.

    Cost: 4,097 nodes per ratio k/l, kept; then one interpolation.
    """
    k, long_side = min(rows, columns), max(rows, columns)
    at = np.arange(k) if positions is None else np.asarray(positions)
    if k < 2:
        return np.full(at.shape, math.sqrt(long_side))
    theta, mass = _cumulative_mass(k / long_side)
    quantiles = np.interp((at + 0.5) / k, mass, theta)
    return np.asarray(np.sqrt(long_side * _eigenvalue(quantiles, k / long_side)))


def random_energy_rank(rows: int, columns: int, share: float) -> int:
    """How many singular values carry `share` of the variance in such a matrix.

    The share carried by the eigenvalues above λ(θ) is the mean of λ over them, in closed form
    ∫ 2·sin²/π from 0 to θ = (θ - sin θ·cos θ)/π.
    """
    k, long_side = min(rows, columns), max(rows, columns)
    if k < 2:
        return k
    theta, mass = _cumulative_mass(k / long_side)
    energy = (theta - np.sin(theta) * np.cos(theta)) / math.pi
    return max(1, math.ceil(k * float(np.interp(share, energy, mass))))


def _eigenvalue(theta: Float64, beta: float) -> Float64:
    return np.maximum(1 + beta + 2 * math.sqrt(beta) * np.cos(theta), 0.0)


@lru_cache(maxsize=256)
def _cumulative_mass(beta: float) -> tuple[Float64, Float64]:
    """θ, and the share of the eigenvalues that lie above λ(θ)."""
    theta = np.linspace(0.0, math.pi, _NODES)
    middle = (theta[1:] + theta[:-1]) / 2
    density = 2 * np.sin(middle) ** 2 / (math.pi * _eigenvalue(middle, beta))
    mass = np.concatenate([[0.0], np.cumsum(density)])
    return theta, mass / mass[-1]
