"""Rows of bytes that hold codes of 1 to 8 bits close together, and the small floats they mean.

Element i of a row begins at bit i · bits, counted from the lowest bit of the row's first byte:
of two FP4 codes in a byte the first is the low nibble.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from paramscope.checkpoint import Float32, ReadElements, StoredTensor, Window
from paramscope.checkpoint.packed.bits import (
    WORD_BITS,
    codes_per_period,
    unpack,
    words_per_period,
)

Bytes = npt.NDArray[np.uint8]


def _minifloats(*, exponent_bits: int, mantissa_bits: int) -> Float32:
    """The value of every code of sign, exponent and mantissa; there is no Inf and no NaN.

    Source: OCP Microscaling formats v1.0: E2M1 (FP4) and E2M3 (FP6), bias 1.
    """
    codes = np.arange(2 ** (1 + exponent_bits + mantissa_bits))
    exponent = codes >> mantissa_bits & (2**exponent_bits - 1)
    fraction = (codes & (2**mantissa_bits - 1)) / 2.0**mantissa_bits
    bias = 2 ** (exponent_bits - 1) - 1
    size = np.ldexp((exponent > 0) + fraction, np.maximum(exponent, 1) - bias)
    negative = codes >> (exponent_bits + mantissa_bits) == 1
    return np.asarray(np.where(negative, -size, size), np.float32)


# By their bits: ±{0, ½, 1, 1½, 2, 3, 4, 6}, and ±{0, ⅛, …, 7½}.
MINIFLOATS = {
    4: _minifloats(exponent_bits=2, mantissa_bits=1),
    6: _minifloats(exponent_bits=2, mantissa_bits=3),
}


def elements(rows: Bytes, bits: int, start: int, stop: int) -> Bytes:
    """The codes of elements `start … stop` of every row.

    Args:
        rows: shape (n, bytes).

    Returns:
        Shape (n, stop - start).
    """
    if bits == 8:
        return rows[:, start:stop]
    period, nbytes = codes_per_period(bits), words_per_period(bits) * (WORD_BITS // 8)
    first, last = start // period, -(-stop // period)
    taken = np.zeros((len(rows), (last - first) * nbytes), np.uint8)
    there = rows[:, first * nbytes : last * nbytes]  # the last period of a row may be cut short
    taken[:, : there.shape[1]] = there
    begin = start - first * period
    return unpack(taken.view("<u4"), bits, axis=1)[:, begin : begin + stop - start]


def codes_of(tensor: StoredTensor, bits: int, read: ReadElements, window: Window) -> Bytes:
    """The codes in a window of a weight whose rows are the rows of a stored tensor.

    Args:
        tensor: shape (…, words), of bytes or of little-endian words.

    Returns:
        Shape `window.shape`.
    """
    words = tensor.shape[-1]
    flat = read(tensor, window.row_start * words, window.row_stop * words)
    rows = flat.view(np.uint8).reshape(-1, words * (tensor.dtype.bits // 8))
    return elements(rows, bits, window.column_start, window.column_stop)
