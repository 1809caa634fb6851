"""Numbers that hold for blocks of a weight: scales and zero points, one per block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paramscope.checkpoint import Float32, ReadElements, StoredTensor, Window
from paramscope.checkpoint.dtypes import DTYPES, Dtype

Block = tuple[int, int]

WHOLE = 0  # a block as long as its axis
PER_TENSOR: Block = (WHOLE, WHOLE)
PER_CHANNEL: Block = (1, WHOLE)
PER_COLUMN: Block = (WHOLE, 1)
EXPONENTS = ("F8_E8M0", "U8")  # 2^(code - 127); torch has a dtype for it since 2.7


@dataclass(frozen=True, slots=True)
class Grid:
    """One number per block of a weight, or of each item of a stack of weights.

    Attributes:
        tensor: what holds the numbers, in C order (items, rows of blocks, columns of blocks).
        dtype: what its codes mean.
        blocks: rows and columns of blocks in one item.
        block: rows and columns of the weight in one block; the last ones may be partial.
        rows: rows of one item of the weight.
        label: the size of a block in words: `128×128`, `per channel`, `g32`.
    """

    tensor: StoredTensor
    dtype: Dtype
    blocks: Block
    block: Block
    rows: int
    label: str

    def at(
        self, read: ReadElements, window: Window, across: npt.NDArray[np.intp] | None = None
    ) -> Float32:
        """The number of every element of a window of the weight, shape `window.shape`.

        Args:
            across: the column of blocks that each column of the weight is in, shape (columns,),
                where columns of one block do not lie together.
        """
        item, row = np.divmod(np.arange(window.row_start, window.row_stop), self.rows)
        down = item * self.blocks[0] + row // self.block[0]
        if across is None:
            columns = np.arange(window.column_start, window.column_stop) // self.block[1]
        else:
            columns = across[window.columns]
        if not down.size or not columns.size:
            return np.zeros(window.shape, np.float32)
        width, first = self.blocks[1], int(down[0])
        codes = read(self.tensor, first * width, (int(down[-1]) + 1) * width)
        numbers = self.dtype.decode(codes).astype(np.float32).reshape(-1, width)
        return np.asarray(numbers[(down - first)[:, None], columns])


def grids(tensor: StoredTensor, shape: tuple[int, ...], blocks: Sequence[Block]) -> list[Grid]:
    """The ways to lay the numbers of a tensor over a weight of that shape, each with its effect.

    Args:
        shape: of the weight, (…, rows, columns); a stack has one more axis in front.
        blocks: the sizes that come into question, those that are likelier first.

    Returns:
        One grid where it is clear, none where no size fits, several where it cannot be told.
    """
    dtype = DTYPES["F8_E8M0"] if tensor.dtype.name == "U8" else tensor.dtype
    found: dict[Block, Grid] = {}
    rows, columns = (1, 1, *shape)[-2:]
    if not math.prod(shape):
        return []
    if tensor.numel == 1:
        total = math.prod(shape) // columns
        size = next((size for size in blocks if _count((total, columns), size) == (1, 1)), None)
        if size is None:
            return []
        label = label_of(size, shape) if len(tensor.shape) > 1 else "per tensor"
        return [Grid(tensor, dtype, (1, 1), (total, columns), total, label)]
    if len(shape) not in (2, 3):
        return []
    for size in blocks:
        count = _count((rows, columns), size)
        if tensor.shape in _forms(shape[:-2], count):
            block = (min(size[0] or rows, rows), min(size[1] or columns, columns))
            grid = Grid(tensor, dtype, count, block, rows, label_of(size, shape))
            found.setdefault(block, grid)
    return list(found.values())


def label_of(block: Block, shape: tuple[int, ...]) -> str:
    """The size of a block in words."""
    if block == PER_TENSOR:
        return "per expert" if len(shape) == 3 else "per tensor"
    if block in (PER_CHANNEL, PER_COLUMN):
        return "per channel"
    return f"g{block[1]}" if block[0] == 1 else f"{block[0]}×{block[1]}"


def misfit(
    tensor: StoredTensor, shape: tuple[int, ...], blocks: Sequence[Block], found: list[Grid]
) -> str:
    """Why the numbers of a tensor cannot be laid over a weight of that shape."""
    if found:
        sizes = " and ".join(grid.label for grid in found)
        return f"{tensor.name}: the shape {tensor.shape} fits blocks of {sizes}; none is certain"
    rows, columns = (1, 1, *shape)[-2:]
    counts = dict.fromkeys(_count((rows, columns), size) for size in blocks)
    wanted = " or ".join(str((*shape[:-2], *count)) for count in counts)
    return f"{tensor.name}: expected the shape {wanted} beside {shape}, found {tensor.shape}"


def scaled(values: Float32, factors: Float32) -> Float32:
    """values · factors in float32; what overflows is Inf, as the official libraries have it."""
    with np.errstate(all="ignore"):
        return values * factors


def _count(size: Block, block: Block) -> Block:
    rows, columns = (-(-n // (b or max(1, n))) for n, b in zip(size, block, strict=True))
    return rows, columns


def _forms(items: tuple[int, ...], count: Block) -> set[tuple[int, ...]]:
    """The shapes that say the same: axes of one block may be left out, where it stays clear."""
    forms = {(*items, *count)}
    if count == (1, 1):
        forms.add(items)
    if count[1] == 1 and not items:
        forms.add(count[:1])
    return forms
