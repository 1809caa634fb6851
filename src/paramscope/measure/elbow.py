"""The elbow of a falling curve, and whether there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paramscope.measure.blocks import Float64

CLEAR_SHARPNESS = 2.0
_SENSITIVITY = 0.5


@dataclass(frozen=True, slots=True)
class Elbow:
    """Where a curve bends most.

    Attributes:
        index: of the point in the curve.
        sharpness: how many times steeper the curve falls on the step before this point than on
            the two after it, per unit of ln k; about 1 on a smooth curve, inf where it is flat
            afterwards.
        clear: whether Kneedle confirms the point and the sharpness is at least 2.
    """

    index: int
    sharpness: float
    clear: bool


def elbow(ks: Sequence[int], inertia: Sequence[float]) -> Elbow:
    """Kneedle on a falling curve; where it confirms no clear knee, the largest bend all the same.

    Both axes are scaled to [0, 1], and the point that lies furthest below the chord is the knee.
    It is confirmed when the distance falls by half the mean step before the curve ends.
    That is done over ln k first, where only a knee at one k shows and a curve that merely
    flattens does not; where nothing clear is found there, over k.

    Args:
        ks: ascending, at least one.
        inertia: one value per k.

    Source: Satopää, Albrecht, Irwin & Raghavan 2011 (Kneedle), sensitivity ½. The sharpness is
    ours: Kneedle finds a knee in every smooth curve, and it moves with the range.
    """
    y = np.minimum.accumulate(np.asarray(inertia, dtype=np.float64))
    if len(ks) < 3 or not y[0] > y[-1]:
        return Elbow(0, 1.0, clear=False)
    x = np.asarray(ks, dtype=np.float64)
    found = _kneedle(np.log(x), x, y)
    return found if found.clear else _kneedle(x, x, y)


def _kneedle(axis: Float64, x: Float64, y: Float64) -> Elbow:
    """The knee over one axis."""
    scaled = (axis - axis[0]) / (axis[-1] - axis[0])
    below = (y[0] - y) / (y[0] - y[-1]) - scaled
    index = int(below.argmax())
    if index in (0, len(x) - 1):
        return Elbow(index, 1.0, clear=False)
    confirmed = bool(
        below[index + 1 :].min() < below[index] - _SENSITIVITY * np.diff(scaled).mean()
    )
    slopes = -np.diff(y) / np.diff(np.log(x))
    before, after = float(slopes[index - 1]), float(slopes[index : index + 2].mean())
    sharpness = before / after if after > 0.0 else np.inf
    return Elbow(index, sharpness, clear=confirmed and sharpness >= CLEAR_SHARPNESS)
