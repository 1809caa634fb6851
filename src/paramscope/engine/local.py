"""CPU workers: one matrix per core, largest first, within a memory budget."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import psutil
from threadpoolctl import threadpool_limits

from paramscope.anatomy import Matrix
from paramscope.anatomy.view import View
from paramscope.checkpoint import Checkpoint, StoredTensor
from paramscope.checkpoint.dtypes import Codes
from paramscope.engine import Result
from paramscope.engine.plan import Task
from paramscope.engine.work import Loaded, measure, refused

Cut = Callable[[View], Codes]

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
    *,
    workers: int,
    budget_bytes: int,
) -> Generator[list[Finished], None, None]:
    """Run tasks on threads; yield what has finished since the last time, at least every 0.2 s.

    Tasks that are large beside the rest run first, one at a time, with all cores on each:
    nothing could run beside them, or they would still run when all else is done. The threads are
    daemons, so that leaving the iterator (Ctrl-C) does not wait for a matrix in flight. Of a remote
    checkpoint the next bytes are read while the current ones are computed.

    Raises:
        ParamscopeError: the checkpoint could not be read further; what is finished was yielded.
    """
    alone, beside = _split_by_size(tasks, workers, budget_bytes)
    for group, threads in ((alone, 1), (beside, workers)):
        with threadpool_limits(limits=max(1, workers // threads), user_api="blas"):
            yield from _run(group, checkpoint, threads, budget_bytes)


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


@dataclass(frozen=True, slots=True)
class _Ready:
    """A task whose bytes are at hand."""

    task: Task
    cut: Cut


def _run(
    tasks: list[Task], checkpoint: Checkpoint, threads: int, budget_bytes: int
) -> Iterator[list[Finished]]:
    finished: queue.SimpleQueue[Finished] = queue.SimpleQueue()
    ready: queue.Queue[_Ready | None] = queue.Queue(maxsize=threads)
    schedule = _Schedule(list(tasks), budget_bytes)

    def done(task: Task, results: list[Result], error: Exception | None = None) -> None:
        schedule.give_back(task)
        finished.put(Finished(task, results, error))

    def next_ready() -> _Ready | None:
        """The next task, its bytes read; an error of reading goes to the caller."""
        while (task := schedule.take()) is not None:
            try:
                return _Ready(task, reader(task, checkpoint))
            except Exception as error:
                done(task, [], error)
        return None

    def read_ahead() -> None:
        while (item := next_ready()) is not None:
            ready.put(item)
        ready.put(None)

    def work(next_item: Callable[[], _Ready | None]) -> None:
        while (item := next_item()) is not None:
            try:
                results = measure_task(item.task, item.cut)
            except Exception as error:  # handed to the caller, who raises it
                done(item.task, [], error)
            else:
                done(item.task, results)
            del item  # the bytes go before the next ones come

    if checkpoint.source.remote:
        # As many readers as workers: each worker ends at one reader's last word.
        _start(read_ahead, threads)
        _start(lambda: work(ready.get), threads)
    else:
        _start(lambda: work(next_ready), min(threads, len(tasks)))
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


def _start(target: Callable[[], None], threads: int) -> None:
    for _ in range(threads):
        threading.Thread(target=target, name="paramscope", daemon=True).start()


def _drain(finished: queue.SimpleQueue[Finished]) -> list[Finished]:
    """Everything that waits; up to 0.2 s for the first."""
    batch: list[Finished] = []
    try:
        batch.append(finished.get(timeout=0.2))
        while True:
            batch.append(finished.get_nowait())
    except queue.Empty:
        return batch


def reader(task: Task, checkpoint: Checkpoint) -> Cut:
    """Read the task's bytes, or make ready to read them by blocks; gives each block's codes."""
    tensor = task.matrices[0].tensor
    if task.streamed or not _readable(tensor):
        return lambda block: _read_block(block, tensor, checkpoint)
    start, stop = task.span
    flat = checkpoint.read(tensor, start, stop)
    return lambda block: block.cut(flat, start)


def measure_task(task: Task, cut: Cut) -> list[Result]:
    """Measure the task's matrices."""
    if not _readable(task.matrices[0].tensor):
        return [refused(matrix) for matrix in task.matrices]
    return [
        measure(matrix, _loaded(matrix, task.block_elements, cut), task.settings)
        for matrix in task.matrices
    ]


def _readable(tensor: StoredTensor) -> bool:
    return tensor.dtype.kind in ("float", "integer")


def _loaded(matrix: Matrix, block_elements: int, cut: Cut) -> Loaded:
    """The matrix by rows; a wide one by columns, as the rows of its transpose."""
    view = matrix.view
    dtype = matrix.tensor.dtype
    if view.columns <= view.rows:
        return Loaded(dtype, view.rows, view.columns, lambda: map(cut, view.blocks(block_elements)))
    return Loaded(
        dtype,
        view.columns,
        view.rows,
        lambda: (cut(block).T for block in view.column_blocks(block_elements)),
    )


def _read_block(block: View, tensor: StoredTensor, checkpoint: Checkpoint) -> Codes:
    """A block's elements: one range where they lie together, else row by row."""
    start, stop = block.span
    if stop - start <= 2 * block.size:
        return block.cut(checkpoint.read(tensor, start, stop), start)
    rows = (block.pick(0, row) for row in range(block.shape[0]))
    return np.concatenate([_read_block(row, tensor, checkpoint) for row in rows])
