"""Which task is whose, and when there is memory for it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from paramscope.engine.plan import Task


@dataclass(slots=True)
class Room:
    """A memory, and how much of it tasks under way take; one task alone always fits."""

    budget_bytes: int
    in_flight_bytes: int = 0
    under_way: int = 0

    def fits(self, size_bytes: int) -> bool:
        """Whether a task of that size can start."""
        return self.under_way == 0 or self.in_flight_bytes + size_bytes <= self.budget_bytes

    def take(self, size_bytes: int) -> None:
        """A task starts."""
        self.in_flight_bytes += size_bytes
        self.under_way += 1

    def give_back(self, size_bytes: int) -> None:
        """A task has ended."""
        self.in_flight_bytes -= size_bytes
        self.under_way -= 1


class Schedule:
    """The tasks not yet started, for threads of cores and of GPUs to take.

    The GPUs take the costliest of those tasks that they do faster than a core; the cores take what
    is left, and from the cheap end what the GPUs would not come to sooner.
    """

    def __init__(
        self,
        tasks: Iterable[Task],
        room: Room,
        gpus: Mapping[str, Room] | None = None,
        gpu_threads: int = 1,
    ) -> None:
        """Begin.

        Args:
            tasks: the costliest first, those of one pattern together.
            room: the main memory.
            gpus: each GPU's memory, by name.
            gpu_threads: how many threads each GPU has.
        """
        self._pending = list(tasks)
        self._room = room
        self._gpu_rooms = dict(gpus or {})
        self._gpu_threads = dict.fromkeys(self._gpu_rooms, gpu_threads)
        # What the GPUs would have to do if they did all that they do better.
        self._gpu_backlog_s = sum(task.gpu_time_s or 0.0 for task in self._pending)
        self._stopped = False
        self._changed = threading.Condition()

    def take(self, gpu: str = "") -> list[Task]:
        """The next task for a core, or for a GPU the next to be solved together; none at the end.

        Waits until there is memory for it.
        """
        with self._changed:
            while not self._stopped and self._pending:
                suitable = False
                for index in self._in_order(gpu):
                    if not self._suits(self._pending[index], gpu):
                        continue
                    suitable = True
                    if self._fits(self._pending[index], gpu):
                        return self._start(index, gpu)
                if gpu and not suitable:
                    return []
                self._changed.wait()
            return []

    def give_back(self, tasks: Sequence[Task], gpu: str = "") -> None:
        """What `take` gave has ended."""
        with self._changed:
            for task in tasks:
                self._room.give_back(task.memory_bytes)
            if gpu:
                self._gpu_rooms[gpu].give_back(tasks[0].gpu_bytes)
            self._changed.notify_all()

    def leave(self, gpu: str) -> None:
        """A GPU's thread takes no more; when the last one has left, the cores do the rest."""
        with self._changed:
            self._gpu_threads[gpu] -= 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Nobody is given any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def _lanes(self) -> int:
        return sum(self._gpu_threads.values())

    def _in_order(self, gpu: str) -> Iterable[int]:
        count = len(self._pending)
        return range(count) if gpu or not self._lanes else reversed(range(count))

    def _suits(self, task: Task, gpu: str) -> bool:
        if gpu:
            return task.gpu_time_s is not None
        left_to_cores = task.gpu_time_s is None or not self._lanes
        return left_to_cores or task.time_s < self._gpu_backlog_s / self._lanes

    def _fits(self, task: Task, gpu: str) -> bool:
        on_gpu = not gpu or self._gpu_rooms[gpu].fits(task.gpu_bytes)
        return on_gpu and self._room.fits(task.memory_bytes)

    def _start(self, index: int, gpu: str) -> list[Task]:
        first = self._pending[index]
        started: list[Task] = []
        for task in self._pending[index : index + self._share(index)] if gpu else [first]:
            if started and not self._room.fits(task.memory_bytes):
                break
            self._room.take(task.memory_bytes)
            started.append(task)
        del self._pending[index : index + len(started)]
        if gpu:
            self._gpu_rooms[gpu].take(first.gpu_bytes)
        self._gpu_backlog_s -= len(started) * (first.gpu_time_s or 0.0)
        return started

    def _share(self, index: int) -> int:
        """How many of one pattern to take together, leaving their share to the other threads."""
        first = self._pending[index]
        alike = 0
        for task in self._pending[index : index + first.batch * self._lanes]:
            if task.pattern != first.pattern:
                break
            alike += 1
        return max(1, min(first.batch, -(-alike // self._lanes)))
