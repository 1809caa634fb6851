"""CPU workers: one matrix per core, largest first, within a memory budget."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field

import psutil
from threadpoolctl import threadpool_limits

from paramscope.anatomy.view import View
from paramscope.checkpoint import Checkpoint
from paramscope.checkpoint.dtypes import Codes
from paramscope.engine import Result, Settings
from paramscope.engine.plan import Task
from paramscope.engine.work import BLOCK_ELEMENTS, Loaded, measure

_SHARE_OF_FREE_MEMORY = 0.6


def worker_count() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_budget_bytes() -> int:
    """What may be in flight by default: a share of the memory that is free now."""
    return int(psutil.virtual_memory().available * _SHARE_OF_FREE_MEMORY)


@dataclass(slots=True)
class _Schedule:
    """The tasks not yet started, and how much memory those under way take."""

    pending: list[Task]
    budget_bytes: int
    in_flight_bytes: int = 0
    under_way: int = 0
    stopped: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self) -> Task | None:
        """The costliest task that fits; alone, any task does. None when there is no more."""
        with self.changed:
            while not self.stopped and self.pending:
                room = self.budget_bytes - self.in_flight_bytes
                for index, task in enumerate(self.pending):
                    if task.memory_bytes <= room or self.under_way == 0:
                        self.in_flight_bytes += task.memory_bytes
                        self.under_way += 1
                        return self.pending.pop(index)
                self.changed.wait()
            return None

    def give_back(self, task: Task) -> None:
        with self.changed:
            self.in_flight_bytes -= task.memory_bytes
            self.under_way -= 1
            self.changed.notify_all()

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
            self.changed.notify_all()


@dataclass(frozen=True, slots=True)
class Finished:
    """A task's results, or the error that ends the run."""

    task: Task
    results: list[Result]
    error: Exception | None = None


def run_tasks(
    tasks: Sequence[Task],
    checkpoint: Checkpoint,
    settings: Settings,
    *,
    workers: int,
    budget_bytes: int,
) -> Generator[list[Finished], None, None]:
    """Run tasks on threads; yield what has finished since the last time, at least every 0.2 s.

    Tasks that are large beside the rest run first, one at a time, with all cores on each:
    nothing could run beside them, or they would still run when all else is done. The threads are
    daemons, so that leaving the iterator (Ctrl-C) does not wait for a matrix in flight.

    Raises:
        ParamscopeError: the checkpoint could not be read further; what is finished was yielded.
    """
    alone, beside = _split_by_size(tasks, workers, budget_bytes)
    for group, threads in ((alone, 1), (beside, workers)):
        with threadpool_limits(limits=max(1, workers // threads), user_api="blas"):
            yield from _run(group, checkpoint, settings, threads, budget_bytes)


def _split_by_size(
    tasks: Sequence[Task], workers: int, budget_bytes: int
) -> tuple[list[Task], list[Task]]:
    """Those that had better run alone, and the others."""
    alone: list[Task] = []
    rest_s = sum(task.time_s for task in tasks)
    for task in tasks:
        if task.memory_bytes > budget_bytes / 2 or task.time_s > rest_s / workers:
            alone.append(task)
            rest_s -= task.time_s
        else:
            break
    return alone, list(tasks[len(alone) :])


def _run(
    tasks: list[Task], checkpoint: Checkpoint, settings: Settings, threads: int, budget_bytes: int
) -> Iterator[list[Finished]]:
    finished: queue.SimpleQueue[Finished] = queue.SimpleQueue()
    schedule = _Schedule(list(tasks), budget_bytes)

    def work() -> None:
        while (task := schedule.take()) is not None:
            try:
                finished.put(Finished(task, run_task(task, checkpoint, settings)))
            except Exception as error:  # handed to the caller, who raises it
                finished.put(Finished(task, [], error))
            finally:
                schedule.give_back(task)

    for number in range(min(threads, len(tasks))):
        threading.Thread(target=work, name=f"paramscope-{number}", daemon=True).start()
    remaining = len(tasks)
    try:
        while remaining:
            batch = _drain(finished)
            remaining -= len(batch)
            yield batch
            errors = [item.error for item in batch if item.error is not None]
            if errors:
                raise errors[0]
    finally:
        schedule.stop()


def _drain(finished: queue.SimpleQueue[Finished]) -> list[Finished]:
    """Everything that waits; up to 0.2 s for the first."""
    batch: list[Finished] = []
    try:
        batch.append(finished.get(timeout=0.2))
        while True:
            batch.append(finished.get_nowait())
    except queue.Empty:
        return batch


def run_task(task: Task, checkpoint: Checkpoint, settings: Settings) -> list[Result]:
    """Read the task's bytes, at once or by blocks, and measure its matrices."""
    if task.streamed:
        matrix = task.matrices[0]
        return [measure(matrix, _streamed(matrix.view, task, checkpoint), settings)]
    tensor = task.matrices[0].tensor
    start, stop = task.span
    readable = tensor.dtype.kind in ("float", "integer")
    flat = checkpoint.read(tensor, start, stop) if readable else None
    return [
        measure(
            matrix, Loaded(tensor.dtype, matrix.view, _cut_once(matrix.view, flat, start)), settings
        )
        for matrix in task.matrices
    ]


def _cut_once(view: View, flat: Codes | None, start: int) -> Callable[[], Iterator[Codes]]:
    """Blocks of a matrix that is in memory: its rows, or all at once where it is wide."""

    def blocks() -> Iterator[Codes]:
        if flat is None:
            return
        whole = view.cut(flat, start)
        rows, columns = whole.shape
        if columns > rows or whole.size <= BLOCK_ELEMENTS:
            yield whole
            return
        step = max(1, BLOCK_ELEMENTS // columns)
        for first in range(0, rows, step):
            yield whole[first : first + step]

    return blocks


def _streamed(view: View, task: Task, checkpoint: Checkpoint) -> Loaded:
    """Blocks of a matrix that stays in the file."""
    tensor = task.matrices[0].tensor

    def blocks() -> Iterator[Codes]:
        for block in view.blocks(BLOCK_ELEMENTS):
            start, stop = block.span
            yield block.cut(checkpoint.read(tensor, start, stop), start)

    return Loaded(tensor.dtype, view, blocks)
