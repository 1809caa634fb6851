"""What there is to do: tasks, what each costs in time and memory, and the machine's rates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from paramscope.anatomy import Matrix
from paramscope.engine import Settings
from paramscope.engine.calibration import Rates
from paramscope.engine.work import BLOCK_ELEMENTS, wants_spectrum

_FLOAT64_BYTES = 8
_READ_AT_ONCE_BYTES = 2**25  # a tensor up to this size is read in one piece


@dataclass(frozen=True, slots=True)
class Task:
    """Matrices that share one range of bytes, read and measured together.

    Attributes:
        matrices: all of one stored tensor, in its order.
        span: first element of the tensor, and one past the last, that they touch.
        streamed: whether the range is read by blocks instead of at once.
        memory_bytes: at most what is held at one time while the task runs.
        time_s: estimated time on one core.
    """

    matrices: tuple[Matrix, ...]
    span: tuple[int, int]
    streamed: bool
    memory_bytes: int
    time_s: float


def plan(matrices: Iterable[Matrix], settings: Settings, rates: Rates) -> list[Task]:
    """Group matrices into tasks, the costliest first."""
    tasks = [_task(group, settings, rates) for group in _sharing_bytes(matrices)]
    return sorted(tasks, key=lambda task: task.time_s, reverse=True)


def matrix_time_s(matrix: Matrix, settings: Settings, rates: Rates) -> float:
    """Estimated time of one matrix on one core, by its floating-point operations."""
    time_s = rates.overhead_s + matrix.numel * rates.element_s
    k = min(matrix.rows, matrix.columns)
    if wants_spectrum(matrix, settings) and k > 1:
        time_s += matrix.numel * (k / rates.gram_flops + rates.decode_s) + rates.eigen_time_s(k)
    return time_s


def matrix_memory_bytes(matrix: Matrix, settings: Settings) -> int:
    """Gram matrix, the solver's copy of it, and float64 blocks; the bytes read not counted."""
    block_bytes = _FLOAT64_BYTES * max(
        min(matrix.numel, BLOCK_ELEMENTS), min(matrix.view.columns, matrix.view.rows)
    )
    if not wants_spectrum(matrix, settings):
        return block_bytes
    return 2 * block_bytes + 3 * _FLOAT64_BYTES * min(matrix.rows, matrix.columns) ** 2


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


def _task(group: Sequence[Matrix], settings: Settings, rates: Rates) -> Task:
    spans = [matrix.view.span for matrix in group]
    span = (min(first for first, _ in spans), max(last for _, last in spans))
    span_bytes = (span[1] - span[0]) * group[0].tensor.dtype.bits // 8
    view = group[0].view
    dense = view.size == span[1] - span[0]
    tall = view.columns <= view.rows
    streamed = (
        len(group) == 1
        and dense
        and span_bytes > _READ_AT_ONCE_BYTES
        and (tall or not settings.svd)
    )
    read_bytes = 2 * BLOCK_ELEMENTS * _FLOAT64_BYTES if streamed else 2 * span_bytes
    return Task(
        matrices=tuple(group),
        span=span,
        streamed=streamed,
        memory_bytes=read_bytes + max(matrix_memory_bytes(matrix, settings) for matrix in group),
        time_s=sum(matrix_time_s(matrix, settings, rates) for matrix in group),
    )
