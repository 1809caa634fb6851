"""What a long piece of work tells whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        label: the model.
        done, total: matrices.
        work_done, work_total: estimated seconds of work on one core; the ETA comes from these.
        elapsed_s: since this run, or its resumption, began.
        work_before: work that was done before a resumption.
        work_under_way: what is likely done of the work begun and not finished.
    """

    label: str
    done: int
    total: int
    work_done: float
    work_total: float
    elapsed_s: float
    work_before: float = 0.0
    work_under_way: float = 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds to go, from the work and the speed so far; None before anything finished."""
        if self.work_done <= self.work_before:
            return None
        done = min(self.work_done + self.work_under_way, self.work_total)
        return (self.work_total - done) * self.elapsed_s / (done - self.work_before)


OnProgress = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Tell nobody."""
