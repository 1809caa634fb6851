"""Codes of a few bits each, packed into 32-bit words, the lowest bits first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from paramscope.checkpoint import ReadElements, StoredTensor

Words = npt.NDArray[np.uint32]
Small = npt.NDArray[np.uint8]

WORD_BITS = 32


def codes_per_period(bits: int) -> int:
    """How many codes fill whole words: 32 where codes of that width straddle them."""
    return WORD_BITS if WORD_BITS % bits else WORD_BITS // bits


def words_per_period(bits: int) -> int:
    """How many words these codes fill."""
    return codes_per_period(bits) * bits // WORD_BITS


def read_words(read: ReadElements, tensor: StoredTensor, start: int, stop: int) -> Words:
    """Elements `start … stop` of a tensor of 32-bit integers as unsigned words, 1-D."""
    return read(tensor, start, stop).view(np.uint32)


def unpack(words: Words, bits: int, axis: int, order: Sequence[int] | None = None) -> Small:
    """The codes in a stream of words, which may straddle them.

    Args:
        words: uint32; along `axis` a whole number of periods.
        bits: width of a code, 1 to 8.
        axis: along which the codes follow each other; 0 ≤ axis.
        order: where the codes of a period belong, for layouts that shuffle them: the code in
            place j of the stream is number `order[j]`. By default they are in order.

    Returns:
        uint8, the axis longer by the factor 32/bits.

    Cost: one pass over the words per code of a period; one byte per code.
    """
    period, per_period = words_per_period(bits), codes_per_period(bits)
    before, length, after = words.shape[:axis], words.shape[axis], words.shape[axis + 1 :]
    grouped = words.reshape(*before, length // period, period, *after)
    codes = np.empty((*before, length // period, per_period, *after), np.uint8)
    mask = np.uint32(2**bits - 1)

    def at(place: int) -> tuple[slice | int, ...]:
        return (*(slice(None),) * (axis + 1), place)

    for place in range(per_period):
        word, shift = divmod(place * bits, WORD_BITS)
        field = grouped[at(word)] >> np.uint32(shift)
        if shift + bits > WORD_BITS:
            field |= grouped[at(word + 1)] << np.uint32(WORD_BITS - shift)
        number = place if order is None else order[place]
        np.bitwise_and(field, mask, out=codes[at(number)], casting="unsafe")
    return codes.reshape(*before, length // period * per_period, *after)
