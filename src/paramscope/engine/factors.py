"""A matrix that its files hold as two factors: cut from them, never multiplied out as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paramscope.anatomy import Matrix
from paramscope.anatomy.view import View
from paramscope.checkpoint import Factors, PackedTensor, ReadElements
from paramscope.checkpoint.dtypes import Codes
from paramscope.measure.spectrum import Float64

Indices = slice | npt.NDArray[np.intp]


def factors_of(matrix: Matrix) -> Factors | None:
    """The factors of the tensor, where rows of one times columns of the other are the matrix."""
    tensor = matrix.tensor
    if not isinstance(tensor, PackedTensor) or tensor.factors is None or tensor.numel == 0:
        return None
    is_product = _rows_and_columns(matrix.view, tensor.numel // tensor.shape[0]) is not None
    return tensor.factors if is_product else None


@dataclass(frozen=True, slots=True)
class ProductCut:
    """Cuts blocks, as values, out of left·right.

    Attributes:
        left: shape (rows of the tensor, r), float64.
        right: shape (r, columns of the tensor), float64.
    """

    left: Float64
    right: Float64

    @classmethod
    def read(cls, factors: Factors, read: ReadElements) -> ProductCut:
        return cls(*factors.read(read))

    def factors(self, view: View) -> tuple[Float64, Float64]:
        """Those of a part of the tensor, shapes (rows, r) and (r, columns)."""
        indices = _rows_and_columns(view, self.right.shape[1])
        if indices is None:
            raise ValueError("rows and columns of the view are not rows and columns of the tensor")
        rows, columns = indices
        return self.left[rows], self.right[:, columns]

    def __call__(self, block: View) -> Codes:
        """The values of a block, shape (rows, columns), float64."""
        left, right = self.factors(block)
        return left @ right


def _rows_and_columns(view: View, width: int) -> tuple[Indices, Indices] | None:
    """Which rows and columns of a tensor of `width` columns make up the view.

    None where an axis of the view steps through the other dimension of the tensor.
    """
    first_row, first_column = divmod(view.offset, width)
    steps = [divmod(stride, width) for stride in view.strides]
    split = len(view.shape) - view.column_axes
    rows_only = all(
        inner == 0 or n == 1 for n, (_, inner) in zip(view.shape[:split], steps, strict=False)
    )
    columns_only = all(
        outer == 0 or n == 1
        for n, (outer, _) in zip(view.shape[split:], steps[split:], strict=True)
    )
    rows = _positions(first_row, view.shape[:split], [outer for outer, _ in steps[:split]])
    columns = _positions(first_column, view.shape[split:], [inner for _, inner in steps[split:]])
    fits = rows_only and columns_only and (columns.size == 0 or int(columns[-1]) < width)
    return (_as_slice(rows), _as_slice(columns)) if fits else None


def _positions(first: int, shape: Sequence[int], steps: Sequence[int]) -> npt.NDArray[np.intp]:
    """first + Σ iₐ·stepsₐ for all 0 ≤ iₐ < shapeₐ, the last axis the fastest."""
    positions = np.array([first], dtype=np.intp)
    for n, step in zip(shape, steps, strict=True):
        positions = (positions[:, None] + step * np.arange(n, dtype=np.intp)).reshape(-1)
    return positions


def _as_slice(positions: npt.NDArray[np.intp]) -> Indices:
    """Positions that follow each other as a slice, which copies nothing."""
    if positions.size and int(positions[-1]) - int(positions[0]) + 1 == positions.size:
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return positions
