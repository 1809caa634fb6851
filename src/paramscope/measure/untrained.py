"""Rows that look as if training never changed them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paramscope.measure.blocks import Each, Float32, Float64, Int64, blocks_of, parts

LEAST_SEEDS = 3
_MOST_SEEDS = 2048
_SPREADS = 4.0
_MAD_TO_STD = 1.4826  # of a normal distribution
_FLOOR = 0.05
_MOST_FOUND = 0.1
_LOW_NORM_SPREADS = 6.0


@dataclass(frozen=True, slots=True)
class Untrained:
    """Rows near to seeds: rows that are known to be unused.

    Attributes:
        seeds: how many seeds there were.
        threshold: rows no further than this from the seeds' median row are candidates.
        near: whether each row is, shape (n,); all False where the seeds do not stand apart.
        stands_apart: whether at most a tenth of the other rows lies within the threshold. If
            not, the seeds look like trained rows, and nothing follows from nearness to them.
    """

    seeds: int
    threshold: float
    near: npt.NDArray[np.bool_]
    stands_apart: bool


def near_seeds(X: Float32, seeds: Int64, *, each: Each = map) -> Untrained | None:
    """Rows as near to the middle of the seeds as the seeds themselves are.

    A row that training never moved stays where it began, or drifts where all such rows drift
    together. So the seeds' median row m is taken, and the distance of every row to it; the
    threshold is the seeds' median distance and 4 of their robust standard deviations, and at least
    5 % of the median distance of the other rows.

    Args:
        X: shape (n, d), float32.
        seeds: rows known to be unused, at least 3; else the result is None.

    Source: the idea is Land & Bartolo 2024 (arXiv:2405.05417), who take cosine distance to the
    mean of unused rows where the head is tied, and the norm where it is not; the distance
    serves both, as the norm is the distance to a median row of zero.
    """
    if len(seeds) < LEAST_SEEDS:
        return None
    chosen = seeds[np.linspace(0, len(seeds) - 1, min(len(seeds), _MOST_SEEDS)).astype(np.int64)]
    middle = np.median(X[chosen].astype(np.float64), axis=0)
    distance = np.empty(len(X))

    def fill(part: slice) -> None:
        for rows, block in blocks_of(X, part):
            block -= middle
            distance[rows] = np.sqrt(np.einsum("ij,ij->i", block, block))

    list(each(fill, parts(len(X))))
    others = np.ones(len(X), dtype=bool)
    others[seeds] = False
    typical = float(np.median(distance[others])) if others.any() else 0.0
    own = distance[seeds]
    threshold = float(np.median(own) + _SPREADS * _robust_std(own))
    threshold = max(threshold, _FLOOR * typical)
    near = distance <= threshold
    apart = others.any() and float(near[others].mean()) <= _MOST_FOUND
    return Untrained(len(seeds), threshold, near if apart else np.zeros_like(near), bool(apart))


def low_norms(norms: Float64) -> npt.NDArray[np.bool_]:
    """Rows whose norm is far below all usual ones: where there are no seeds to compare with.

    The logarithm of the norm lies more than 6 robust standard deviations below its median, and
    the norm below half of the median norm. Rows of norm 0 count.
    """
    positive = norms > 0.0
    if not positive.any():
        return np.zeros(len(norms), dtype=bool)
    logs = np.log(norms[positive])
    middle = float(np.median(logs))
    edge = middle - max(_LOW_NORM_SPREADS * _robust_std(logs), np.log(2.0))
    low: npt.NDArray[np.bool_] = norms < np.exp(edge)
    return low


def _robust_std(values: Float64) -> float:
    """1.4826 times the median distance to the median."""
    return _MAD_TO_STD * float(np.median(np.abs(values - np.median(values))))
