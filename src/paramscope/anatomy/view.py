"""A strided window onto a stored tensor: how a matrix is cut out without copying the rest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from paramscope.checkpoint import Window


@dataclass(frozen=True, slots=True)
class View:
    """Elements `offset + Σ iₐ·stridesₐ` of a tensor stored in C order, 0 ≤ iₐ < shapeₐ.

    Axes stand in storage order (strides descending), so that blocks along the first axes are
    short byte ranges. The last `column_axes` axes merge into columns, those before into rows.

    Example: the q rows of a fused tensor that interleaves q, k and v per head.

        View.whole((heads * 3 * head_dim, hidden)).split(0, heads, 3, head_dim).pick(1, 0)
    """

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    column_axes: int = 1

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> View:
        """All of a tensor, as `(shape[0], -1)`; a vector, or a scalar, is one row."""
        if len(shape) < 2:
            shape = (1, math.prod(shape))
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        return cls(0, shape, strides, column_axes=len(shape) - 1)

    @property
    def rows(self) -> int:
        return math.prod(self.shape[: len(self.shape) - self.column_axes])

    @property
    def columns(self) -> int:
        return math.prod(self.shape[len(self.shape) - self.column_axes :])

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def span(self) -> tuple[int, int]:
        """First element, and one past the last, that the view touches."""
        if self.size == 0:
            return self.offset, self.offset
        last = sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        return self.offset, self.offset + last + 1

    def split(self, axis: int, *sizes: int) -> View:
        """Read one axis as several: `sizes` multiply to its length, the slowest first."""
        if math.prod(sizes) != self.shape[axis]:
            raise ValueError(f"axis {axis} has {self.shape[axis]} elements, not {sizes}")
        stride = self.strides[axis]
        inner = tuple(stride * math.prod(sizes[i + 1 :]) for i in range(len(sizes)))
        in_columns = axis >= len(self.shape) - self.column_axes
        return replace(
            self,
            shape=self.shape[:axis] + sizes + self.shape[axis + 1 :],
            strides=self.strides[:axis] + inner + self.strides[axis + 1 :],
            column_axes=self.column_axes + (len(sizes) - 1) * in_columns,
        )

    def take(self, axis: int, start: int, stop: int, step: int = 1) -> View:
        """Keep the elements `start:stop:step` of one axis."""
        length = self.shape[axis]
        if not (0 <= start <= stop <= length and step > 0):
            raise ValueError(f"axis {axis}: {start}:{stop}:{step} is not within {length}")
        count = len(range(start, stop, step))
        return replace(
            self,
            offset=self.offset + start * self.strides[axis],
            shape=(*self.shape[:axis], count, *self.shape[axis + 1 :]),
            strides=(*self.strides[:axis], step * self.strides[axis], *self.strides[axis + 1 :]),
        )

    def pick(self, axis: int, index: int) -> View:
        """Fix one axis at `index`; the axis goes.

        Where the last row axis goes, the first column axis takes its place: an expert picked
        out of a stack `(experts, out, in)` is a matrix of `out` rows.
        """
        if not 0 <= index < self.shape[axis]:
            raise ValueError(f"axis {axis}: index {index} is not within {self.shape[axis]}")
        if len(self.shape) == 1:
            raise ValueError("a view keeps one axis at least")
        row_axes = len(self.shape) - self.column_axes
        shape = self.shape[:axis] + self.shape[axis + 1 :]
        strides = self.strides[:axis] + self.strides[axis + 1 :]
        if axis >= row_axes:
            column_axes = self.column_axes - 1
        else:
            column_axes = self.column_axes - (row_axes == 1 and self.column_axes > 1)
        return View(self.offset + index * self.strides[axis], shape, strides, column_axes)

    def blocks(self, max_size: int) -> Iterator[View]:
        """Cut into views of whole rows, of at most `max_size` elements where a row allows it."""
        if self.size <= max_size or len(self.shape) <= self.column_axes:
            yield self
            return
        slice_size = self.size // self.shape[0]
        step = max(1, max_size // slice_size)
        if step > 1 or len(self.shape) - self.column_axes == 1:
            for start in range(0, self.shape[0], step):
                yield self.take(0, start, min(start + step, self.shape[0]))
        else:
            for index in range(self.shape[0]):
                yield from self.pick(0, index).blocks(max_size)

    def column_blocks(self, max_size: int) -> Iterator[View]:
        """Cut into views of all rows and some columns, of at most `max_size` elements.

        Columns of several axes that do not lie in one run stay together, whatever their size.
        """
        axis = len(self.shape) - self.column_axes
        shape, strides = self.shape[axis:], self.strides[axis:]
        in_one_run = all(
            stride == inner * length
            for stride, inner, length in zip(strides, strides[1:], shape[1:], strict=False)
        )
        if not in_one_run or self.column_axes == 0:
            yield self
            return
        merged = View(
            self.offset, (*self.shape[:axis], self.columns), (*self.strides[:axis], strides[-1])
        )
        step = max(1, max_size // max(1, self.rows))
        for start in range(0, self.columns, step):
            yield merged.take(axis, start, min(start + step, self.columns))

    def window(self, columns: int) -> tuple[Window, View]:
        """The rows and columns that the view lies in, the tensor seen as rows of `columns`.

        Returns:
            The smallest window that holds the view, whole rows where the view does not stay
            within some columns; and the view upon the window's own elements.
        """
        first, last = self.span
        row, column = divmod(self.offset, columns)
        steps = [divmod(stride, columns) for stride in self.strides]
        width = 1 + sum((n - 1) * inner for n, (_, inner) in zip(self.shape, steps, strict=True))
        if self.size == 0 or column + width > columns:
            start, stop = first // columns, -(-last // columns)
            whole = Window(start, stop, 0, columns)
            return whole, replace(self, offset=self.offset - start * columns)
        rows = 1 + sum((n - 1) * outer for n, (outer, _) in zip(self.shape, steps, strict=True))
        strides = tuple(outer * width + inner for outer, inner in steps)
        return (
            Window(row, row + rows, column, column + width),
            replace(self, offset=0, strides=strides),
        )

    def cut(self, flat: npt.NDArray[Any], start: int) -> npt.NDArray[Any]:
        """The matrix, shape (rows, columns), out of elements `start …` of the tensor.

        Args:
            flat: 1-D, contiguous; holds at least the view's span.
            start: the index in the tensor of `flat[0]`.

        Returns:
            A view of `flat` where the strides allow it, else a copy.
        """
        first, last = self.span
        if first < start or last > start + flat.size:
            raise ValueError(f"elements {first}:{last} are not in {start}:{start + flat.size}")
        window: npt.NDArray[Any] = np.ndarray(
            self.shape,
            flat.dtype,
            buffer=flat.data,
            offset=(first - start) * flat.itemsize,
            strides=[stride * flat.itemsize for stride in self.strides],
        )
        return window.reshape(self.rows, self.columns)
