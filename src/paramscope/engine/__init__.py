"""Who works on what, where, and in how much memory."""

from __future__ import annotations

from dataclasses import dataclass

from paramscope.anatomy import Matrix
from paramscope.measure.arrangement import Arrangement
from paramscope.measure.spectrum import Spectrum
from paramscope.measure.stats import Stats


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the numbers of a run.

    Attributes:
        svd: whether spectra are computed; else statistics only.
        method: "exact" for all singular values, "truncated" for the leading `rank_k` of them.
        rank_k: how many values the truncated solver computes.
        tolerance: `actual_rank` counts σ > tolerance·σ₁.
        zero_threshold: `sparsity` counts |x| <= this.
    """

    svd: bool = True
    method: str = "exact"
    rank_k: int = 128
    tolerance: float = 1e-6
    zero_threshold: float = 1e-8


GPU_THREADS = 4  # that keep one GPU at work, each with a core's help


@dataclass(frozen=True, slots=True)
class Crew:
    """Who does a run's work.

    Attributes:
        workers: threads for the cores; those that serve GPUs are taken from them, but for one.
        budget_bytes: at most this much in flight.
        gpus: torch names of devices that work beside the cores.
        threads_per_gpu: that keep it at work.
    """

    workers: int
    budget_bytes: int
    gpus: tuple[str, ...] = ()
    threads_per_gpu: int = GPU_THREADS

    @property
    def gpu_threads(self) -> int:
        """That serve GPUs: they count elements on the cores while others are solved."""
        return self.threads_per_gpu * len(self.gpus)

    @property
    def core_threads(self) -> int:
        """Threads that serve no GPU."""
        return max(min(1, self.workers), self.workers - self.gpu_threads)


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured on one matrix.

    Attributes:
        stats: None where the stored codes are no numbers that can be read.
        spectrum: None where none was asked for, or none can be had (`reason` says why).
        status: "ok"; "failed" where the numbers make a measure impossible; "refused" where the
            stored form is not understood.
        reason: why the status is not "ok"; or, where it is, what to know about the numbers.
        time_s: wall time of this matrix on its worker.
        arrangement: in rows and columns of the matrix; None where its codes were not read.
    """

    matrix: Matrix
    stats: Stats | None
    spectrum: Spectrum | None
    status: str
    reason: str
    time_s: float
    arrangement: Arrangement | None = None
