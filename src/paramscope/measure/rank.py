"""Numbers derived from singular values: ranks, norms, effective dimensions.

`s` is the spectrum: shape (k,), float64, descending, non-negative. It is the whole spectrum, but
for `actual_rank`, `energy_rank`, `spectral_norm` and `stable_rank`, which can do with the leading
values where ‖W‖²_F is given; counts are lower bounds then.
"""

from __future__ import annotations

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


def energy_rank(s: Float64, share: float, *, sum_of_squares: float | None = None) -> int:
    """The least j with Σ_{i≤j} σᵢ² ≥ share·Σ σᵢ²: how many directions carry that variance.

    Args:
        sum_of_squares: Σ σᵢ² over all values, where `s` holds the leading ones only.

    Returns:
        In [0, k]; 0 for an all-zero matrix; len(s) where the leading values do not reach the share.
    """
    cumulative = _cumulative_share(s, sum_of_squares)
    return min(int(np.searchsorted(cumulative, share - _TIE)) + 1, len(s)) if len(cumulative) else 0


def energy_margin(s: Float64, share: float) -> float:
    """How far the cumulative energy stays from `share`, as a share; 1.0 for a zero matrix."""
    cumulative = _cumulative_share(s)
    return float(np.abs(cumulative - (share - _TIE)).min(initial=1.0))


def energy_share(s: Float64, sum_of_squares: float) -> float:
    """Which share of the energy the leading values carry, in [0, 1]; 0.0 for a zero matrix."""
    cumulative = _cumulative_share(s, sum_of_squares)
    return float(cumulative[-1]) if len(cumulative) else 0.0


def _cumulative_share(s: Float64, sum_of_squares: float | None = None) -> Float64:
    """Σ_{i≤j} σᵢ² / Σ σᵢ² for every j; empty where the matrix is zero."""
    if not _nonzero(s):
        return np.zeros(0)
    cumulative = np.cumsum((s / s[0]) ** 2)
    total = cumulative[-1] if sum_of_squares is None else sum_of_squares / s[0] ** 2
    return np.asarray(cumulative / total)


def spectral_norm(s: Float64) -> float:
    """Largest singular value, σ₁ = ‖W‖₂."""
    return float(s[0]) if len(s) else 0.0


def stable_rank(s: Float64, *, sum_of_squares: float | None = None) -> float:
    """Stable rank: total energy relative to the strongest direction.

        srank(W) = Σ σᵢ² / σ₁²

    Args:
        sum_of_squares: Σ σᵢ² over all values, where `s` holds the leading ones only.

    Returns:
        Dimensionless, in [1, k]; 0.0 for an all-zero matrix.

    Source: Rudelson & Vershynin 2007, arXiv:math/0503442.
    """
    if not _nonzero(s):
        return 0.0
    return float(((s / s[0]) ** 2).sum() if sum_of_squares is None else sum_of_squares / s[0] ** 2)


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
