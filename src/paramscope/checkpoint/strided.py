"""Tensors whose elements do not lie one after another: transposed, sliced, expanded.

    element (i, j, …) is at  offset + i·strides[0] + j·strides[1] + …

A range of elements in C order is cut into boxes of whole rows; the bytes that a box spans are
read at once where that is little more than the box, else piece by piece.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from paramscope.checkpoint import StoredTensor
from paramscope.checkpoint.dtypes import Codes
from paramscope.source import Source

# Reading this much for nothing is cheaper than thousands of reads.
_READ_AT_ONCE_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class StridedTensor(StoredTensor):
    """A stored tensor with strides, in elements; `offset_bytes` is its first element's place.

    `nbytes` is what its elements take, not what they span in the file.
    """

    strides: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Box:
    """A part of a tensor: where it starts, in elements of the file's range, and its shape."""

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def rows(self, start: int, stop: int) -> _Box:
        return replace(
            self,
            offset=self.offset + start * self.strides[0],
            shape=(stop - start, *self.shape[1:]),
        )

    def at(self, dimension: int, index: int) -> _Box:
        """The part with that index, one dimension less."""
        without = slice(dimension), slice(dimension + 1, None)
        return _Box(
            self.offset + index * self.strides[dimension],
            self.shape[without[0]] + self.shape[without[1]],
            self.strides[without[0]] + self.strides[without[1]],
        )


def is_contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether the elements lie one after another in C order."""
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != step:
            return 0 in shape
        step *= size
    return True


def span(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Elements from the first to the last of a tensor, both included; 0 where it is empty."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def span_bytes(tensor: StoredTensor) -> int:
    """Bytes of the file from the first element of a tensor to the end of its last."""
    if isinstance(tensor, StridedTensor):
        return span(tensor.shape, tensor.strides) * (tensor.dtype.bits // 8)
    return tensor.nbytes


def read_strided(source: Source, tensor: StridedTensor, start: int, stop: int) -> Codes:
    """Elements `start … stop` in C order, as codes, 1-D."""
    found = np.empty(stop - start, dtype=tensor.dtype.code)
    at = 0
    for box in _boxes(_Box(0, tensor.shape, tensor.strides), start, stop):
        found[at : at + box.numel].reshape(box.shape)[...] = _read(source, tensor, box)
        at += box.numel
    return found


def _boxes(box: _Box, start: int, stop: int) -> Iterator[_Box]:
    """The range of a box's elements as boxes in C order: whole rows, and what is cut at the ends.

    The depth is that of the tensor's dimensions.
    """
    if start == stop:
        return
    if start == 0 and stop == box.numel:
        yield box
        return
    row = box.numel // box.shape[0]
    first, last = -(-start // row), stop // row
    if first > last:
        yield from _boxes(box.at(0, last), start - last * row, stop - last * row)
        return
    if start < first * row:
        yield from _boxes(box.at(0, first - 1), start - (first - 1) * row, row)
    if first < last:
        yield box.rows(first, last)
    if last * row < stop:
        yield from _boxes(box.at(0, last), 0, stop - last * row)


def _read(source: Source, tensor: StridedTensor, box: _Box) -> Codes:
    """The elements of a box, in its shape."""
    code = np.dtype(tensor.dtype.code)
    spanned = span(box.shape, box.strides)
    if spanned <= 2 * box.numel or spanned * code.itemsize <= _READ_AT_ONCE_BYTES:
        offset = tensor.offset_bytes + box.offset * code.itemsize
        data = source.read(tensor.file, offset, spanned * code.itemsize)
        return np.lib.stride_tricks.as_strided(
            np.frombuffer(data, dtype=code),
            box.shape,
            [stride * code.itemsize for stride in box.strides],
            writeable=False,
        )
    widest = max(range(len(box.shape)), key=lambda axis: (box.shape[axis] > 1, box.strides[axis]))
    found = np.empty(box.shape, dtype=code)
    for index in range(box.shape[widest]):
        piece = _read(source, tensor, box.at(widest, index))
        found[(slice(None),) * widest + (index,)] = piece
    return found
