"""What there is to do: tasks, what each costs in time and memory, and the machine's rates."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psutil

from paramscope.anatomy import Matrix
from paramscope.checkpoint import PackedTensor
from paramscope.engine import Crew, Settings
from paramscope.engine.calibration import Rates
from paramscope.engine.factors import factors_of
from paramscope.engine.work import is_truncated, wants_spectrum

_log = logging.getLogger(__name__)

_FLOAT64_BYTES = 8
_BLOCK_ELEMENTS = 2**22  # 32 MiB in float64: most matrices are one block, and one product
_READ_AT_ONCE_BYTES = 2**25  # a tensor up to this size is read in one piece
_LIGHT_S = 2e-3
_KRYLOV_PASSES = 16  # typical of random weights
_LARGEST_BATCH = 64
_BATCH_BYTES = 2**28  # of Gram matrices that a GPU solves together
_GPU_COPIES = 4  # of a Gram matrix: itself, in a stack, the solver's own, its workspace
_GPU_BLOCKS_BYTES = 2**28  # of rows on their way into a Gram matrix


@dataclass(frozen=True, slots=True)
class Task:
    """Matrices that share one range of bytes, read and measured together.

    Attributes:
        matrices: all of one stored tensor, in its order.
        settings: those of the run, or the truncated solver where the exact one has no room.
        span: first element of the tensor, and one past the last, that they touch.
        streamed: whether the range is read by blocks instead of at once.
        block_elements: at most this many elements make a block.
        memory_bytes: at most what is held at one time while the task runs.
        time_s: estimated time on one core; of a task alone, its wall time times the cores.
        gpu_time_s: the same on one thread of a GPU, where that is shorter; None where it is not.
        gpu_bytes: at most what it holds of the GPU's memory.
        batch: how many tasks of one pattern the GPU had best solve together.
        pattern: the same number for tasks that differ only in where they lie.
        alone: whether it is done sooner with all cores on it than beside others: where matrices
            outgrow the caches, several at a time wait for memory. Beside a GPU nothing is alone.
    """

    matrices: tuple[Matrix, ...]
    settings: Settings
    span: tuple[int, int]
    streamed: bool
    block_elements: int
    memory_bytes: int
    time_s: float
    gpu_time_s: float | None = None
    gpu_bytes: int = 0
    batch: int = 1
    alone: bool = False
    pattern: int = 0

    @property
    def is_light(self) -> bool:
        """Whether it is mostly Python, whose lock lets one thread at a time get on."""
        return self.time_s < _LIGHT_S

    def moved_to(self, group: Sequence[Matrix]) -> Task:
        """The same work on matrices of the same shapes elsewhere."""
        shift = group[0].view.offset - self.matrices[0].view.offset
        return Task(  # `replace` takes twice as long, which tells with tens of thousands of experts
            tuple(group),
            self.settings,
            (self.span[0] + shift, self.span[1] + shift),
            self.streamed,
            self.block_elements,
            self.memory_bytes,
            self.time_s,
            self.gpu_time_s,
            self.gpu_bytes,
            self.batch,
            self.alone,
            self.pattern,
        )


def plan(
    matrices: Iterable[Matrix],
    settings: Settings,
    rates: Rates,
    *,
    remote: bool = False,
    gpu: Rates | None = None,
    gpu_room_bytes: int = 2**62,
) -> list[Task]:
    """Group matrices into tasks, the costliest first.

    Args:
        remote: reads are requests over the network, so nothing is gathered row by row.
        gpu: the rates of a GPU, where there is one.
        gpu_room_bytes: what may be taken of its memory.
    """
    largest_bytes = psutil.virtual_memory().total
    patterns: dict[tuple[Any, ...], Task] = {}  # tens of thousands of experts have one shape
    tasks = []
    for group in _sharing_bytes(matrices):
        key = _pattern_of(group)
        if key not in patterns:
            task = _task(group, settings, rates, largest_bytes, remote=remote)
            if gpu is not None:
                task = _with_gpu(task, rates, gpu, gpu_room_bytes)
            patterns[key] = replace(task, pattern=len(patterns))
        tasks.append(patterns[key].moved_to(group))
    return sorted(tasks, key=lambda task: (-task.time_s, task.pattern))


def largest_short_side(matrices: Iterable[Matrix]) -> int:
    """The largest k = min(rows, columns) among matrices whose spectrum takes a Gram matrix."""
    by_gram = (m for m in matrices if not m.is_buffer and factors_of(m) is None)
    return max((min(m.rows, m.columns) for m in by_gram), default=0)


def wall_time_s(tasks: Sequence[Task], crew: Crew, hashing_s: float = 0.0) -> float:
    """Estimated time of all tasks, the costliest first, and of hashing files beside them.

    GPUs take the costliest of what they do faster, the cores the rest of it and all else.

    Args:
        hashing_s: on one core.
    """
    light_s = sum(task.time_s for task in tasks if task.is_light)
    for_gpus = [task for task in tasks if task.gpu_time_s is not None] if crew.gpus else []
    cores_s = sum(task.time_s for task in tasks) - light_s + hashing_s
    gpus_s, both_s = 0.0, cores_s / crew.core_threads
    for task in for_gpus:
        gpus_s += task.gpu_time_s or 0.0
        cores_s -= task.time_s
        both_s = min(both_s, max(gpus_s / crew.gpu_threads, cores_s / crew.core_threads))
    return max(hashing_s, both_s + light_s)


def peak_bytes(tasks: Sequence[Task], crew: Crew) -> int:
    """At most what the tasks hold of the main memory at one time, besides the program."""
    one_by_one = max((task.memory_bytes for task in tasks), default=0)
    largest = sorted((task.memory_bytes for task in tasks if not task.alone), reverse=True)
    batches = (task.memory_bytes * task.batch for task in tasks if task.gpu_time_s is not None)
    side_by_side = sum(largest[: crew.core_threads]) + crew.gpu_threads * max(batches, default=0)
    return max(one_by_one, min(side_by_side, crew.budget_bytes))


def _pattern_of(group: Sequence[Matrix]) -> tuple[Any, ...]:
    """What the cost of a group depends on: all but where it lies."""
    first = group[0]
    start = first.view.offset
    views = tuple(
        (m.view.shape, m.view.strides, m.view.offset - start, m.is_buffer, bool(m.refusal))
        for m in group
    )
    return (first.tensor.dtype.name, first.tensor.scheme, first.tensor.shape, views)


def _with_gpu(task: Task, rates: Rates, gpu: Rates, room_bytes: int) -> Task:
    """The task with what it takes on a GPU, where that is less; beside a GPU nothing is alone."""
    task = replace(task, time_s=_time_s(task, rates), alone=False)
    spectral = task.settings.svd and task.settings.method == "exact"
    if task.is_light or not spectral or any(m.refusal or factors_of(m) for m in task.matrices):
        return task
    k = max(1, *(min(matrix.rows, matrix.columns) for matrix in task.matrices))
    each_bytes = _FLOAT64_BYTES * _GPU_COPIES * k**2
    fitting = (room_bytes - _GPU_BLOCKS_BYTES) // each_bytes
    # A core reads the bytes and counts the codes all the same.
    gpu = replace(gpu, element_s=rates.element_s, overhead_s=rates.overhead_s)
    time_s, batch = _time_s(task, gpu), 1
    if len(task.matrices) == 1 and gpu.batch_s and k <= gpu.batch_s[-1][0]:
        batch_time_s = _time_s(task, replace(gpu, eigen_s=gpu.batch_s))
        if batch_time_s < time_s:
            time_s = batch_time_s
            most = min(_LARGEST_BATCH, _BATCH_BYTES // (_FLOAT64_BYTES * k**2), fitting)
            batch = max(1, most)
    if time_s >= task.time_s:
        return task
    if fitting < 1:
        shape = (task.matrices[0].rows, task.matrices[0].columns)
        _log.warning("⚠️  GPU has no room for matrix %s, left to the CPU", shape)
        return task
    gpu_bytes = batch * each_bytes + _GPU_BLOCKS_BYTES
    return replace(task, gpu_time_s=time_s, gpu_bytes=gpu_bytes, batch=batch)


def _time_s(task: Task, rates: Rates) -> float:
    return sum(matrix_time_s(matrix, task.settings, rates) for matrix in task.matrices)


def matrix_time_s(matrix: Matrix, settings: Settings, rates: Rates) -> float:
    """Estimated time of one matrix on one core, by its floating-point operations."""
    time_s = rates.overhead_s + matrix.numel * rates.element_s
    k = min(matrix.rows, matrix.columns)
    if factors := factors_of(matrix):
        thin = (matrix.rows + matrix.columns) * min(factors.rank, k)
        flops = factors.rank * (2 * matrix.numel + 4 * thin)
        return time_s + flops / rates.gram_flops + rates.eigen_time_s(min(factors.rank, k))
    if not wants_spectrum(matrix, settings) or k == 1:
        return time_s
    if is_truncated(matrix, settings):
        flops = 4 * matrix.numel * settings.rank_k * _KRYLOV_PASSES
        return time_s + flops / rates.gram_flops + matrix.numel * rates.decode_s * _KRYLOV_PASSES
    gram_s = matrix.numel * (k / rates.gram_flops + rates.decode_s)
    return time_s + gram_s + rates.eigen_time_s(k)


def together_time_s(matrix: Matrix, settings: Settings, rates: Rates) -> float | None:
    """Estimated time of one matrix with all cores on its products and its eigenvalues.

    None where that is not known; statistics take one core all the same.
    """
    k = min(matrix.rows, matrix.columns)
    eigen_s = rates.together_time_s(k)
    spectral = wants_spectrum(matrix, settings) and not is_truncated(matrix, settings)
    if eigen_s is None or not spectral or factors_of(matrix):
        return None
    gram_s = matrix.numel * k / (rates.gram_flops * rates.cores)
    element_s = matrix.numel * (rates.element_s + rates.decode_s)
    return rates.overhead_s + element_s + gram_s + eigen_s


def _working_bytes(matrix: Matrix, settings: Settings, block_elements: int) -> int:
    """What a matrix needs beside the bytes read: a Gram matrix, the solver's copy, blocks."""
    k = min(matrix.rows, matrix.columns)
    block_bytes = _FLOAT64_BYTES * max(min(matrix.numel, block_elements), k)
    if factors := factors_of(matrix):
        # Both factors and what a QR factorisation copies of them; a block and what it is made of.
        thin = (matrix.rows + matrix.columns + min(factors.rank, k)) * factors.rank
        return 2 * block_bytes + 3 * _FLOAT64_BYTES * thin
    if not wants_spectrum(matrix, settings):
        return block_bytes
    if is_truncated(matrix, settings):
        return 2 * block_bytes + 3 * _FLOAT64_BYTES * k * settings.rank_k * _KRYLOV_PASSES
    return 2 * block_bytes + 3 * _FLOAT64_BYTES * k**2


def _sharing_bytes(matrices: Iterable[Matrix]) -> Iterable[list[Matrix]]:
    """Neighbours of one stored tensor whose ranges overlap go together; others stand alone."""
    group: list[Matrix] = []
    stop = 0
    for matrix in matrices:
        first, last = matrix.view.span
        if group and matrix.tensor is group[0].tensor and first < stop:
            group.append(matrix)
            stop = max(stop, last)
            continue
        if group:
            yield group
        group, stop = [matrix], last
    if group:
        yield group


def _task(
    group: Sequence[Matrix],
    settings: Settings,
    rates: Rates,
    largest_bytes: int,
    *,
    remote: bool,
) -> Task:
    spans = [matrix.view.span for matrix in group]
    span = (min(first for first, _ in spans), max(last for _, last in spans))
    tensor, view = group[0].tensor, group[0].view
    span_bytes = math.ceil((span[1] - span[0]) * tensor.nbytes / max(1, tensor.numel))
    dense = view.size == span[1] - span[0]
    by_ranges = view.columns <= view.rows or not remote
    streamed = len(group) == 1 and dense and by_ranges and span_bytes > _READ_AT_ONCE_BYTES
    if isinstance(tensor, PackedTensor):  # columns, or rows that do not lie together, come from all
        streamed = streamed and tensor.by_rows and view.columns <= view.rows
    # A block of columns is gathered row by row: as wide as its share of the Gram matrix allows.
    k = 0 if factors_of(group[0]) else min(view.rows, view.columns)
    block_elements = max(_BLOCK_ELEMENTS, k * k // 8)
    read_bytes = _FLOAT64_BYTES * block_elements if streamed else 2 * span_bytes

    def memory_bytes(chosen: Settings) -> int:
        return read_bytes + max(_working_bytes(m, chosen, block_elements) for m in group)

    if memory_bytes(settings) > largest_bytes:
        settings = replace(settings, method="truncated")
    time_s = sum(matrix_time_s(matrix, settings, rates) for matrix in group)
    together = [together_time_s(matrix, settings, rates) for matrix in group]
    alone_s = rates.cores * sum(time_s for time_s in together if time_s is not None)
    alone = None not in together and alone_s < time_s
    return Task(
        matrices=tuple(group),
        settings=settings,
        span=span,
        streamed=streamed,
        block_elements=block_elements,
        memory_bytes=memory_bytes(settings),
        time_s=alone_s if alone else time_s,
        alone=alone,
    )
