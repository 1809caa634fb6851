"""Workers: one matrix per core, or per GPU, largest first, within a memory budget."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import psutil
from threadpoolctl import threadpool_limits

from paramscope.anatomy import Matrix
from paramscope.anatomy.view import View
from paramscope.checkpoint import (
    Checkpoint,
    PackedTensor,
    ReadElements,
    StoredTensor,
)
from paramscope.checkpoint.dtypes import Codes
from paramscope.engine import Crew, Result
from paramscope.engine.factors import ProductCut, factors_of
from paramscope.engine.gpu import Gpu
from paramscope.engine.gram import CPU, Device, GpuError
from paramscope.engine.plan import Task
from paramscope.engine.schedule import Room, Schedule
from paramscope.engine.work import Loaded, measure, refused

_log = logging.getLogger(__name__)

Cut = Callable[[View], Codes]

_SHARE_OF_FREE_MEMORY = 0.6
_LEAVE_GPU_S = 5.0
_TAKES_NO_WORK = "⚠️  GPU %s takes no work (%s), going on without"
_GATHER_S = 0.05


def memory_budget_bytes() -> int:
    """What may be in flight by default: a share of the memory that is free now."""
    return int(psutil.virtual_memory().available * _SHARE_OF_FREE_MEMORY)


@dataclass(frozen=True, slots=True)
class Finished:
    """A task's results, or the error that ends the run."""

    task: Task
    results: list[Result]
    error: Exception | None = None


def run_tasks(
    tasks: Sequence[Task],
    checkpoint: Checkpoint,
    crew: Crew,
) -> Generator[list[Finished], None, None]:
    """Run tasks on threads; yield what has finished since the last time, at least every 0.2 s.

    Some tasks run first, one at a time, with all cores on each: those that are planned so, and
    those so large beside the rest that nothing could run beside them, or that they would still
    run when all else is done. The threads are daemons, so that leaving the iterator (Ctrl-C) does
    not wait for a matrix in flight. Of a remote checkpoint the next bytes are read while the
    current ones are computed. Small matrices come last, one at a time: what they take is mostly
    Python, and threads that wait for its lock take longer together than one does.

    Raises:
        ParamscopeError: the checkpoint could not be read further; what is finished was yielded.
    """
    light = [task for task in tasks if task.is_light]
    heavy = [task for task in tasks if not task.is_light]
    alone, beside = ([], heavy) if crew.gpus else _split_by_size(heavy, crew)
    cores_alone = replace(crew, gpus=())
    one_thread = replace(cores_alone, workers=min(1, crew.workers))
    for group, threads, who in (
        (alone, crew.workers, one_thread),
        (beside, 1, crew),
        (light, 1, one_thread),
    ):
        with threadpool_limits(limits=threads, user_api="blas"):
            yield from _run(group, checkpoint, who)


def _split_by_size(tasks: Sequence[Task], crew: Crew) -> tuple[list[Task], list[Task]]:
    """Those that had better run alone, and the others."""
    alone = [task for task in tasks if task.alone]
    beside = [task for task in tasks if not task.alone]
    rest_s = sum(task.time_s for task in beside)
    while beside:
        task = beside[0]
        if task.memory_bytes > crew.budget_bytes / 2 or task.time_s > rest_s / crew.workers:
            alone.append(beside.pop(0))
            rest_s -= task.time_s
        else:
            break
    return alone, beside


@dataclass(frozen=True, slots=True)
class _Ready:
    """Tasks whose bytes are at hand: one, or several to be solved together."""

    tasks: list[Task]
    cuts: list[Cut]


def _run(tasks: list[Task], checkpoint: Checkpoint, crew: Crew) -> Iterator[list[Finished]]:
    if not tasks:
        return
    gpus = _usable(crew.gpus)
    rooms = {name: room for name, (_, room) in gpus.items()}
    crew = replace(crew, gpus=tuple(gpus))
    schedule = Schedule(tasks, Room(crew.budget_bytes), rooms, crew.threads_per_gpu)
    workers = _Workers(schedule, checkpoint)
    on_gpus = workers.start(crew, [gpu for gpu, _ in gpus.values()])
    remaining = len(tasks)
    try:
        while remaining:
            batch = _drain(workers.finished, at_most=remaining)
            remaining -= len(batch)
            yield batch
            errors = [item.error for item in batch if item.error is not None]
            if errors:
                raise errors[0]
    finally:
        schedule.stop()
        until = time.monotonic() + _LEAVE_GPU_S
        for thread in on_gpus:  # Python must not end while one of them is inside torch
            thread.join(max(0.0, until - time.monotonic()))


class _Workers:
    """What the threads of cores and of GPUs do.

    Attributes:
        finished: what they have done, in any order.
    """

    def __init__(self, schedule: Schedule, checkpoint: Checkpoint) -> None:
        self.finished: queue.SimpleQueue[Finished] = queue.SimpleQueue()
        self._schedule = schedule
        self._checkpoint = checkpoint

    def start(self, crew: Crew, gpus: Sequence[Gpu]) -> list[threading.Thread]:
        """Begin on all threads; gives those that serve GPUs."""
        if self._checkpoint.source.remote:
            ahead: queue.Queue[_Ready | None] = queue.Queue(maxsize=crew.core_threads)
            _start(partial(_read_ahead, self.next_ready, ahead), crew.core_threads)
            _start(partial(self.work, ahead.get), crew.core_threads)
        else:
            _start(partial(self.work, self.next_ready), crew.core_threads)
        serving = [gpu for gpu in gpus for _ in range(crew.threads_per_gpu)]
        taken_from_cores = crew.workers - crew.core_threads
        return [
            thread
            for at, gpu in enumerate(serving)
            for thread in _start(partial(self.serve, gpu, from_cores=at < taken_from_cores))
        ]

    def next_ready(self, gpu: Gpu | None = None) -> _Ready | None:
        """The next tasks, their bytes read; an error of reading goes to the caller."""
        name = gpu.device if gpu else ""
        while not (gpu and gpu.broken) and (taken := self._schedule.take(name)):
            try:
                return _Ready(taken, [reader(task, self._checkpoint) for task in taken])
            except Exception as error:
                self._done(taken, name, error)
        return None

    def work(self, next_item: Callable[[], _Ready | None], gpu: Gpu | None = None) -> None:
        """One thread's work, until there is no more."""
        name = gpu.device if gpu else ""
        while (item := next_item()) is not None:
            try:
                outcome = measure_tasks(item.tasks, item.cuts, gpu or CPU)
            except Exception as error:
                self._done(item.tasks, name, error)
            else:
                self._done(item.tasks, name, outcome)
            del item  # the bytes go before the next ones come

    def serve(self, gpu: Gpu, *, from_cores: bool) -> None:
        """The work of one thread of a GPU, which ends early where the GPU takes no more.

        Args:
            from_cores: whether the cores get a thread for it then; a new one, as nobody need wait
                for that to end.
        """
        try:
            with gpu.own_stream():
                self.work(partial(self.next_ready, gpu), gpu)
        except GpuError as error:
            _log.warning(_TAKES_NO_WORK, gpu.device, error)
        finally:
            self._schedule.leave(gpu.device)
            if from_cores:
                _start(partial(self.work, self.next_ready))

    def _done(self, taken: list[Task], gpu: str, outcome: list[list[Result]] | Exception) -> None:
        self._schedule.give_back(taken, gpu)
        if isinstance(outcome, Exception):  # handed to the caller, who raises it
            self.finished.put(Finished(taken[0], [], outcome))
            return
        for task, results in zip(taken, outcome, strict=True):
            self.finished.put(Finished(task, results))


def _usable(names: Sequence[str]) -> dict[str, tuple[Gpu, Room]]:
    """The GPUs that take work, and their memory; of the others a warning tells."""
    found = {}
    for name in names:
        gpu = Gpu(name)
        try:
            room_bytes = gpu.prepare()
        except GpuError as error:
            _log.warning(_TAKES_NO_WORK, name, error)
            continue
        found[name] = gpu, Room(room_bytes)
    return found


def _read_ahead(next_ready: Callable[[], _Ready | None], ahead: queue.Queue[_Ready | None]) -> None:
    """Keep the queue full; the last word, None, ends one worker: there are as many as readers."""
    while (item := next_ready()) is not None:
        ahead.put(item)
    ahead.put(None)


def _start(target: Callable[[], None], count: int = 1) -> list[threading.Thread]:
    threads = [
        threading.Thread(target=target, name="paramscope", daemon=True) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    return threads


def _drain(finished: queue.SimpleQueue[Finished], *, at_most: int) -> list[Finished]:
    """What finishes: up to 0.2 s for the first, and what comes within 50 ms of it.

    Each batch is one transaction of the journal, which costs as much as a small matrix.
    """
    batch: list[Finished] = []
    try:
        batch.append(finished.get(timeout=0.2))
        until = time.monotonic() + _GATHER_S
        while len(batch) < at_most:
            batch.append(finished.get(timeout=max(0.0, until - time.monotonic())))
    except queue.Empty:
        pass
    return batch


def reader(task: Task, checkpoint: Checkpoint) -> Cut:
    """Read the task's bytes, or make ready to read them by blocks; gives each block's codes."""
    tensor = task.matrices[0].tensor
    factors = [factors_of(matrix) for matrix in task.matrices]
    if factors[0] is not None and all(factors):
        return ProductCut.read(factors[0], checkpoint.read_stored)
    if isinstance(tensor, PackedTensor):
        read = checkpoint.read_stored if task.streamed else _remembering(checkpoint.read_stored)
        return lambda block: _decode_block(block, tensor, read)
    if task.streamed or tensor.refusal:
        return lambda block: _read_block(block, tensor, checkpoint)
    start, stop = task.span
    flat = checkpoint.read(tensor, start, stop)
    return lambda block: block.cut(flat, start)


def measure_tasks(
    tasks: Sequence[Task], cuts: Sequence[Cut], device: Device[Any] = CPU
) -> list[list[Result]]:
    """Measure tasks of one pattern, each of one matrix, together; or one task of any kind."""
    if len(tasks) == 1:
        return [measure_task(tasks[0], cuts[0], device)]
    items = [
        (task.matrices[0], _loaded(task.matrices[0], task.block_elements, cut))
        for task, cut in zip(tasks, cuts, strict=True)
    ]
    return [[result] for result in measure(items, tasks[0].settings, device)]


def measure_task(task: Task, cut: Cut, device: Device[Any] = CPU) -> list[Result]:
    """Measure the task's matrices one after another, their spectra on the device."""
    results = []
    for matrix in task.matrices:
        if matrix.refusal:
            results.append(refused(matrix))
            continue
        loaded = _loaded(matrix, task.block_elements, cut)
        results += measure([(matrix, loaded)], task.settings, device)
    return results


def _loaded(matrix: Matrix, block_elements: int, cut: Cut) -> Loaded:
    """The matrix by blocks of rows and of columns; a vector, one row, comes as a column."""
    view = matrix.view
    dtype = matrix.tensor.dtype

    def by_rows() -> Iterator[Codes]:
        return (np.ascontiguousarray(cut(block)) for block in view.blocks(block_elements))

    def by_columns() -> Iterator[Codes]:
        return (cut(block).T for block in view.column_blocks(block_elements))

    factors = cut.factors(view) if isinstance(cut, ProductCut) else None
    if view.rows == 1:
        return Loaded(dtype, view.columns, 1, by_columns, by_rows, turned=True, factors=factors)
    return Loaded(dtype, view.rows, view.columns, by_rows, by_columns, factors=factors)


def _remembering(read: ReadElements) -> ReadElements:
    """The same reads, each range of codes fetched once for as long as the task lasts."""
    kept: dict[tuple[str, int, int], Codes] = {}

    def once(tensor: StoredTensor, start: int, stop: int) -> Codes:
        key = (tensor.name, start, stop)
        if key not in kept:
            kept[key] = read(tensor, start, stop)
        return kept[key]

    return once


def _decode_block(block: View, tensor: PackedTensor, read: ReadElements) -> Codes:
    """A block's values: only the window that it lies in is decoded."""
    window, within = block.window(tensor.shape[-1])
    return within.cut(np.ascontiguousarray(tensor.decode(read, window)).reshape(-1), 0)


def _read_block(block: View, tensor: StoredTensor, checkpoint: Checkpoint) -> Codes:
    """A block's elements: one range where they lie together, else row by row."""
    start, stop = block.span
    if stop - start <= 2 * block.size:
        return block.cut(checkpoint.read(tensor, start, stop), start)
    rows = (block.pick(0, row) for row in range(block.shape[0]))
    return np.concatenate([_read_block(row, tensor, checkpoint) for row in rows])
