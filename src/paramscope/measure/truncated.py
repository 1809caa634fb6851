"""The leading singular values of a matrix too large for all of them: block Lanczos on WᵀW.

A basis Q of the Krylov space span{X, AX, A²X, …}, A = WᵀW, grows by one block per pass over the
matrix; the eigenpairs (θ², v) of QᵀAQ approach those of A from below. For each, the residual bounds
the distance to a true eigenvalue:

    |σ² - θ²| ≤ ‖A·v - θ²·v‖ = r    hence    |σ - θ| ≤ r / θ

Every new block is orthogonalised against the whole basis, again and again, so that no value
comes up as a ghost.

Source: Golub & Van Loan, Matrix Computations, 4th ed., 10.3; Musco & Musco 2015 (arXiv:1504.05477)
for block Krylov from a random start; Parlett, The Symmetric Eigenvalue Problem, theorem 4.5.1, for
the residual bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from paramscope.measure.spectrum import EPSILON, Float64, Spectrum

RowBlocks = Callable[[], Iterable[Float64]]

_EXTRA_COLUMNS = 8  # of the starting block beyond K: the last of K values converge sooner
_CHECK_EVERY = 2  # passes between tests for convergence, whose eigenproblem is not free


def leading_spectrum(
    blocks: RowBlocks,
    *,
    columns: int,
    leading: int,
    sum_of_squares: float,
    accuracy: float = 1e-8,
    max_passes: int = 40,
    seed: int = 0,
) -> Spectrum:
    """The `leading` largest singular values, each with its residual bound at most `accuracy`·σ₁.

    Args:
        blocks: gives the rows of W anew at each call, in blocks of shape (b, columns), float64.
        leading: K, how many values; at most min(rows, columns).
        sum_of_squares: ‖W‖²_F, from the statistics pass.
        accuracy: the bound asked for, relative to σ₁. After `max_passes` the bound reached is
            reported, whatever it is.

    Returns:
        K values; `complete` is False. The bound holds for each value to be within it of some
        singular value of W; that none is left out is certain only in so far as a random start
        meets every direction, which fails with probability zero.

    Cost: 4·m·n·(K+8) floating-point operations per pass; memory for the basis, n·(K+8) float64
    per pass.
    """
    rng = np.random.default_rng(seed)
    width = min(leading + _EXTRA_COLUMNS, columns)
    block = np.linalg.qr(rng.standard_normal((columns, width)))[0]
    basis, image = block, np.zeros((columns, 0))
    for number in range(1, max_passes + 1):
        product = _apply(blocks, block)
        image = np.hstack([image, product])
        exhausted = basis.shape[1] >= columns or number == max_passes
        if exhausted or number % _CHECK_EVERY == 0:
            theta, bound = _ritz_values(basis, image, leading)
            if exhausted or bound <= accuracy * theta[0]:
                break
        block = _orthogonal_to(basis, product[:, : columns - basis.shape[1]], rng)
        basis = np.hstack([basis, block])
    return Spectrum(theta, "krylov", bound, sum_of_squares, complete=False)


def _apply(blocks: RowBlocks, X: Float64) -> Float64:
    """WᵀW·X in one pass over the rows."""
    product = np.zeros_like(X)
    for W in blocks():
        product += W.T @ (W @ X)
    return product


def _ritz_values(basis: Float64, image: Float64, leading: int) -> tuple[Float64, float]:
    """The leading θ, descending, and the largest of their bounds."""
    projected = basis.T @ image
    squares, vectors = np.linalg.eigh((projected + projected.T) / 2)
    squares, vectors = squares[::-1][:leading], vectors[:, ::-1][:, :leading]
    theta = np.sqrt(np.maximum(squares, 0.0))
    residual = np.linalg.norm(image @ vectors - (basis @ vectors) * squares, axis=0)
    roundoff = (basis.shape[0] + basis.shape[1]) * EPSILON * squares[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        # A value near zero is known no better than the root of its square's error.
        uncertainty = residual + roundoff
        bounds = np.minimum(uncertainty / theta, np.sqrt(uncertainty))
    return theta, float(np.nan_to_num(bounds, nan=0.0).max(initial=0.0))


def _orthogonal_to(basis: Float64, block: Float64, rng: np.random.Generator) -> Float64:
    """An orthonormal block, orthogonal to the basis.

    Where the block has nothing new to add (W has low rank, or values are multiple), what is left
    of it is rounding error along the basis: such columns give way to random ones.
    """
    scale = np.linalg.norm(block, axis=0)
    for attempt in range(4):
        block = block - basis @ (basis.T @ block)
        block, r = np.linalg.qr(block)
        spent = np.abs(np.diag(r)) <= 1e-10 * scale
        scale = np.ones(block.shape[1])
        if attempt < 2:
            block[:, spent] = rng.standard_normal((len(block), int(spent.sum())))
            scale[spent] = np.sqrt(len(block))
    return np.asarray(block)
