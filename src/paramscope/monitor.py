"""Watches a run: what is done, what is under way, how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from paramscope.engine.plan import Task
from paramscope.progress import OnProgress, Progress
from paramscope.run_meta import FileHashes


@dataclass(frozen=True)
class HashWork:
    """The hashing of files as a share of the work: it takes a core while it lasts."""

    hashing: FileHashes | None
    byte_s: float

    def done_and_left_s(self) -> tuple[float, float]:
        """Estimated seconds on one core."""
        if self.hashing is None:
            return 0.0, 0.0
        return self.hashing.read_bytes * self.byte_s, self.hashing.left_bytes * self.byte_s


class Monitor:
    """Counts what is done and tells the listener."""

    def __init__(
        self,
        begun: Progress,
        tasks: Iterable[Task],
        todo: Iterable[Task],
        workers: int,
        hash_work: HashWork,
        listener: OnProgress,
    ) -> None:
        """Begin with some of `tasks` left `todo`."""
        self._tasks_s = sum(map(_work_s, tasks))
        self._before_s = self._done_s = self._tasks_s - sum(map(_work_s, todo))
        self._workers = workers
        self._hash_work = hash_work
        self._started = time.perf_counter()
        self._listener = listener
        self._now = begun
        self._tell()

    def advance(self, tasks: Sequence[Task], results: int) -> None:
        """Some tasks, and with them so many matrices, are done."""
        finished = [_work_s(task) for task in tasks]
        under_way = self._now.work_under_way
        if finished:  # every worker is, on average, in the middle of a task like the last one
            under_way = finished[-1] / 2 * (1 if tasks[-1].alone else self._workers)
        self._done_s += sum(finished)
        self._now = replace(
            self._now,
            done=self._now.done + results,
            work_under_way=under_way,
            elapsed_s=self.elapsed_s,
        )
        self._tell()

    @property
    def elapsed_s(self) -> float:
        """Since this run, or its resumption, began."""
        return time.perf_counter() - self._started

    @property
    def hashing_s(self) -> float:
        """Estimated seconds of hashing on one core, all of it."""
        return sum(self._hash_work.done_and_left_s())

    def _tell(self) -> None:
        hashed_s, left_s = self._hash_work.done_and_left_s()
        work_done = self._done_s + hashed_s
        begun = self._done_s > self._before_s  # the hashing alone does not tell how fast we are
        self._now = replace(
            self._now,
            work_before=self._before_s if begun else work_done,
            work_done=work_done,
            work_total=self._tasks_s + hashed_s + left_s,
        )
        self._listener(self._now)


def _work_s(task: Task) -> float:
    """What GPUs do faster is work for them, whoever does it in the end."""
    return task.time_s if task.gpu_time_s is None else task.gpu_time_s
