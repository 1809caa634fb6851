"""All singular values of a product of two thin matrices, which is never multiplied out.

For W = L·R with L (m×r) and R (r×n), QR factorisations L = Q_L·T_L and Rᵀ = Q_R·T_R give

    W = Q_L·(T_L·T_Rᵀ)·Q_Rᵀ    hence    σ(W) = σ(T_L·T_Rᵀ) and, beyond min(m, n, r), zeros

The zeros are exact: W has no more than r directions. The other values are disturbed by rounding.
Householder QR disturbs column j of L by at most about (r + √m)·ε·‖l_j‖, ε = 2⁻⁵², and row j of R
by (r + √n)·ε·‖r_j‖; the product of the triangles and its SVD are backward stable too. As
W = Σ l_j·r_jᵀ, all of it together is to first order a disturbance of W by at most

    E = c·ε·Σⱼ ‖l_j‖·‖r_j‖,  c = 2r + √m + √n + 256

(the constant for the solver, as in `spectrum`), and by Weyl's inequality no singular value moves
further than that. The sum stands where σ₁ stands for the other methods: where the terms of a
product cancel, the product is known no better than its terms.

Source: Golub & Van Loan, Matrix Computations, 4th ed., 5.2 and 8.6; Higham, Accuracy and
Stability of Numerical Algorithms, 2nd ed., theorem 19.4.
"""

from __future__ import annotations

import math

import numpy as np

from paramscope.measure.spectrum import EPSILON, Float64, Spectrum

_SOLVER_ERROR = 256


def spectrum_of_product(left: Float64, right: Float64) -> Spectrum:
    """The singular values of left·right.

    Args:
        left: L, shape (m, r), float64.
        right: R, shape (r, n), float64.

    Returns:
        min(m, n) values, those beyond r exactly zero; the bound is E of the module.

    Raises:
        numpy.linalg.LinAlgError: a factor is not finite, or so large that its squares overflow.

    Cost: about 2·(m + n)·r² + 6·r³ floating-point operations where r is below m and n; memory for
    copies of the factors.
    """
    (m, r), n = left.shape, right.shape[1]
    terms = float(np.linalg.norm(left, axis=0) @ np.linalg.norm(right, axis=1))
    if not math.isfinite(terms):
        raise np.linalg.LinAlgError("the factors are too large to be squared")
    core = _triangle(left) @ _triangle(right.T).T
    s = np.zeros(min(m, n))
    if core.size:
        s[: min(core.shape)] = np.linalg.svd(core, compute_uv=False)
    bound = (2 * r + math.sqrt(m) + math.sqrt(n) + _SOLVER_ERROR) * EPSILON * terms
    return Spectrum(s, "factors", bound, float((s**2).sum()))


def _triangle(factor: Float64) -> Float64:
    """T of the QR factorisation of (length, r), shape (min(length, r), r)."""
    return np.asarray(np.linalg.qr(factor, mode="r"))
