"""What depends on where the elements stand: a fingerprint of the content, rows of zeros.

The fingerprint is XXH3 (64 bits, seed 0) of the bytes as stored, row after row: made to find equal
matrices at the speed of memory, not to withstand an attack. Source: github.com/Cyan4973/xxHash.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

Codes = npt.NDArray[Any]
IsZero = Callable[[Codes], npt.NDArray[np.bool_]]

_FIRST_LOOK = 64  # elements of a row that are looked at before all of it


@dataclass(frozen=True, slots=True)
class Arrangement:
    """What one matrix holds, and where it holds nothing.

    Attributes:
        content_hash: 16 hexadecimal digits over the bytes in the order of the rows as stored;
            equal for equal matrices, whatever blocks they came in.
        zero_rows, zero_columns: how many are zero throughout.
    """

    content_hash: str
    zero_rows: int
    zero_columns: int


class Arranging:
    """Takes a matrix in by blocks of rows."""

    def __init__(self, is_zero: IsZero) -> None:
        """Begin; `is_zero` says which elements count as zero, for codes of any shape."""
        self._is_zero = is_zero
        self._fingerprint = xxhash.xxh3_64()
        self._zero_rows = 0
        self._zero_columns: npt.NDArray[np.intp] | None = None  # those zero as far as is known

    def add(self, block: Codes) -> None:
        """The next rows, shape (b, columns), contiguous."""
        if block.size == 0:
            return
        self._fingerprint.update(np.ascontiguousarray(block).data)
        self._zero_rows += self._rows_of_zeros(block)
        columns = self._zero_columns
        if columns is None:
            columns = np.flatnonzero(self._is_zero(block[0]))
        if columns.size:
            columns = columns[self._is_zero(block[-1, columns])]
        if columns.size:
            columns = columns[self._is_zero(block[:, columns]).all(axis=0)]
        self._zero_columns = columns

    def _rows_of_zeros(self, block: Codes) -> int:
        """Counted among the rows that begin with zeros, which in trained weights are few."""
        rows = np.flatnonzero(self._is_zero(block[:, 0]))
        for width in (_FIRST_LOOK, block.shape[1]):
            if rows.size:
                rows = rows[self._is_zero(block[rows, :width]).all(axis=1)]
        return int(rows.size)

    def result(self) -> Arrangement:
        """What was found in the blocks so far."""
        columns = 0 if self._zero_columns is None else int(self._zero_columns.size)
        return Arrangement(self._fingerprint.hexdigest(), self._zero_rows, columns)
