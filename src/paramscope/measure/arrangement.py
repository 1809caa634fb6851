"""What depends on where the elements stand: a fingerprint of the content, rows of zeros.

The fingerprint is made to find equal matrices at the speed of memory, not to withstand an
attack. The bytes are taken in chunks of 256 KiB as 64-bit words w, and each chunk gives

    h = Σ uᵢ·rᵢ  mod 2⁶⁴        u = w xor ⌊w / 2²⁹⌋,  r: fixed odd numbers that look random

Multiplication carries upwards only: without the xor, which is one to one, the sum would hardly
tell the highest bits of its words apart, such as the signs of every other float32. Of all sums and
the length BLAKE2b makes 64 bits. Source: Dietzfelbinger 1996, hashing by multilinear sums.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[Any]
IsZero = Callable[[Codes], npt.NDArray[np.bool_]]

_CHUNK_WORDS = 2**15  # 256 KiB: stays in the cache, and is worth a call
_CHUNK_BYTES = 8 * _CHUNK_WORDS
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
        self._fingerprint = _Fingerprint()
        self._zero_rows = 0
        self._zero_columns: npt.NDArray[np.intp] | None = None  # those zero as far as is known

    def add(self, block: Codes) -> None:
        """The next rows, shape (b, columns), contiguous."""
        if block.size == 0:
            return
        self._fingerprint.add(block)
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


class _Fingerprint:
    """A hash of a stream of bytes that does not depend on how it is cut into blocks."""

    def __init__(self) -> None:
        self._rest = np.zeros(0, dtype=np.uint8)
        self._sums: list[int] = []
        self._size_bytes = 0

    def add(self, block: Codes) -> None:
        data = np.ascontiguousarray(block).reshape(-1).view(np.uint8)
        self._size_bytes += data.size
        if self._rest.size:
            missing = _CHUNK_BYTES - self._rest.size
            self._rest = np.concatenate([self._rest, data[:missing]])
            data = data[missing:]
            if self._rest.size < _CHUNK_BYTES:
                return
            self._take(self._rest)
        whole = data.size - data.size % _CHUNK_BYTES
        self._take(data[:whole])
        self._rest = data[whole:].copy()

    def _take(self, data: npt.NDArray[np.uint8]) -> None:
        for start in range(0, data.size, _CHUNK_BYTES):
            self._sums.append(_sum(data[start : start + _CHUNK_BYTES]))

    def hexdigest(self) -> str:
        last = np.zeros(-(-self._rest.size // 8) * 8, dtype=np.uint8)
        last[: self._rest.size] = self._rest
        numbers = [*self._sums, _sum(last), self._size_bytes]
        packed = b"".join(number.to_bytes(8, "little") for number in numbers)
        return hashlib.blake2b(packed, digest_size=8).hexdigest()


def _sum(chunk: npt.NDArray[np.uint8]) -> int:
    words = chunk.view("<u8")
    mixed = words >> np.uint64(29)
    mixed ^= words
    return int(mixed @ _weights()[: len(mixed)])


@cache
def _weights() -> npt.NDArray[np.uint64]:
    """Odd 64-bit numbers: SplitMix64 (Steele, Lea & Flood 2014) of 1, 2, 3, …"""
    with np.errstate(over="ignore"):
        z = np.arange(1, _CHUNK_WORDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        weights = np.asarray((z ^ (z >> np.uint64(31))) | np.uint64(1))
    weights.flags.writeable = False
    return weights
