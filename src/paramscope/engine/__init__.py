"""Who works on what, where, and in how much memory."""

from __future__ import annotations

from dataclasses import dataclass

from paramscope.anatomy import Matrix
from paramscope.measure.spectrum import Spectrum
from paramscope.measure.stats import Stats


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the numbers of a run.

    Attributes:
        svd: whether spectra are computed; else statistics only.
        tolerance: `actual_rank` counts σ > tolerance·σ₁.
        zero_threshold: `sparsity` counts |x| <= this.
    """

    svd: bool = True
    tolerance: float = 1e-6
    zero_threshold: float = 1e-8


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured on one matrix.

    Attributes:
        stats: None where the stored codes are no numbers that can be read.
        spectrum: None where none was asked for, or none can be had (`reason` says why).
        status: "ok"; "failed" where the numbers make a measure impossible; "refused" where the
            stored form is not understood.
        reason: empty where the status is "ok".
        time_s: wall time of this matrix on its worker.
    """

    matrix: Matrix
    stats: Stats | None
    spectrum: Spectrum | None
    status: str
    reason: str
    time_s: float
