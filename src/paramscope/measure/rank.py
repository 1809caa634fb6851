"""Numbers derived from singular values: ranks, norms, effective dimensions.

Everywhere `s` is the whole spectrum: shape (k,), float64, descending, non-negative.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

ENERGY_SHARES = (0.90, 0.95, 0.99)

# A count must not hang on the last bit where the energy reaches its share exactly, as in an
# orthogonal matrix: far above rounding (1e-13), far below one step of the count.
_TIE = 1e-10


def actual_rank(s: Float64, *, tolerance: float = 1e-6) -> int:
    """Numerical rank: the number of σᵢ > tolerance·σ₁.

    Returns:
        In [0, k]; 0 for an all-zero matrix.
    """
    return int(np.count_nonzero(s > tolerance * s[0])) if len(s) else 0


def energy_rank(s: Float64, share: float) -> int:
    """The least j with Σ_{i≤j} σᵢ² ≥ share·Σ σᵢ²: how many directions carry that variance.

    Returns:
        In [0, k]; 0 for an all-zero matrix.
    """
    cumulative = _cumulative_share(s)
    return int(np.searchsorted(cumulative, share - _TIE) + 1) if len(cumulative) else 0


def energy_margin(s: Float64, share: float) -> float:
    """How far the cumulative energy stays from `share`, as a share; 1.0 for a zero matrix."""
    cumulative = _cumulative_share(s)
    return float(np.abs(cumulative - (share - _TIE)).min(initial=1.0))


def _cumulative_share(s: Float64) -> Float64:
    """Σ_{i≤j} σᵢ² / Σ σᵢ² for every j; empty where the matrix is zero."""
    if len(s) == 0 or s[0] == 0.0:
        return np.zeros(0)
    squares = (s / s[0]) ** 2
    cumulative = np.cumsum(squares)
    return np.asarray(cumulative / cumulative[-1])


def spectral_norm(s: Float64) -> float:
    """Largest singular value, σ₁ = ‖W‖₂."""
    return float(s[0]) if len(s) else 0.0


def frobenius_norm(s: Float64) -> float:
    """‖W‖_F = √(Σ σᵢ²)."""
    return spectral_norm(s) * math.sqrt(float(((s / s[0]) ** 2).sum())) if _nonzero(s) else 0.0


def stable_rank(s: Float64) -> float:
    """Stable rank: total energy relative to the strongest direction.

        srank(W) = Σ σᵢ² / σ₁²

    Returns:
        Dimensionless, in [1, k]; 0.0 for an all-zero matrix.

    Source: Rudelson & Vershynin 2007, arXiv:math/0503442.
    """
    return float(((s / s[0]) ** 2).sum()) if _nonzero(s) else 0.0


def effective_rank(s: Float64) -> float:
    """Effective rank: exponential of the entropy of the singular values.

        erank(W) = exp(-Σ qᵢ ln qᵢ),  qᵢ = σᵢ / Σ σ

    Returns:
        Dimensionless, in [1, k]; 0.0 for an all-zero matrix.

    Source: Roy & Vetterli, EUSIPCO 2007.
    """
    return _perplexity(s) if _nonzero(s) else 0.0


def effective_rank_energy(s: Float64) -> float:
    """As `effective_rank`, with the shares of energy qᵢ = σᵢ² / Σ σ² in place of σᵢ / Σ σ.

    Returns:
        Dimensionless, in [1, k], never above `effective_rank`; 0.0 for an all-zero matrix.
    """
    return _perplexity((s / s[0]) ** 2) if _nonzero(s) else 0.0


def condition_number(s: Float64, *, error_bound: float = 0.0) -> float | None:
    """κ = σ₁ / σ_k.

    Returns:
        At least 1; None where σ_k cannot be told from zero, so that κ has no finite bound.
    """
    if not _nonzero(s) or s[-1] <= error_bound:
        return None
    return float(s[0] / s[-1])


def _nonzero(s: Float64) -> bool:
    return len(s) > 0 and s[0] > 0.0


def _perplexity(weights: Float64) -> float:
    q = weights / weights.sum()
    q = q[q > 0.0]
    return float(np.exp(-(q * np.log(q)).sum()))
