import numpy as np
import pytest

from paramscope.checkpoint.packed.bits import codes_per_period, unpack, words_per_period


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_are_read_from_the_lowest_bit_of_the_first_word_up(bits: int, axis: int) -> None:
    rng = np.random.default_rng(bits)
    periods = 3
    codes = rng.integers(0, 2**bits, (periods * codes_per_period(bits), 5))
    words = np.zeros((periods * words_per_period(bits), 5), np.uint32)
    for column in range(5):
        stream = sum(int(code) << (bits * place) for place, code in enumerate(codes[:, column]))
        for word in range(len(words)):
            words[word, column] = stream >> (32 * word) & 0xFFFFFFFF

    found = unpack(words if axis == 0 else np.ascontiguousarray(words.T), bits, axis)

    np.testing.assert_array_equal(found if axis == 0 else found.T, codes)


def test_codes_out_of_order_are_put_in_order() -> None:
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    word = np.array([[sum(number << (4 * place) for place, number in enumerate(order))]], np.uint32)

    np.testing.assert_array_equal(unpack(word, 4, 1, order), [range(8)])
