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
    """

    label: str
    done: int
    total: int
    work_done: float
    work_total: float
    elapsed_s: float
    work_before: float = 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds to go, from the work and the speed so far; None before anything finished."""
        fresh = self.work_done - self.work_before
        if fresh <= 0.0:
            return None
        return (self.work_total - self.work_done) * self.elapsed_s / fresh


OnProgress = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Tell nobody."""
