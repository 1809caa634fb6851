from __future__ import annotations

import numpy as np
import pytest

from paramscope.measure.arrangement import Arranging


def arrangement(W, step=None, threshold=0.0):
    arranging = Arranging(lambda codes: np.abs(codes) <= threshold)
    for start in range(0, len(W), step or max(1, len(W))):
        arranging.add(W[start : start + (step or len(W))])
    return arranging.result()


@pytest.fixture(name="W")
def some_matrix():
    return np.random.default_rng(0).standard_normal((1000, 77)).astype(np.float32)


@pytest.mark.parametrize("step", [1, 3, 107, 426, 999])
def test_blocks_change_nothing(W, step):
    W[[3, 500]] = 0.0
    W[:, [5, 76]] = 0.0
    assert arrangement(W, step) == arrangement(W)
    assert arrangement(W).zero_rows == 2
    assert arrangement(W).zero_columns == 2


def test_any_change_of_any_element_changes_the_hash(W):
    rng = np.random.default_rng(1)
    seen = {arrangement(W).content_hash}
    for _ in range(300):
        changed = W.copy()
        bits = changed.view(np.uint32)
        bits[rng.integers(1000), rng.integers(77)] ^= np.uint32(1 << rng.integers(32))
        seen.add(arrangement(changed).content_hash)
    assert len(seen) == 301


def test_order_and_length_count(W):
    swapped = W.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    longer = np.concatenate([W, np.zeros((1, 77), np.float32)])
    negated = W.copy()
    negated[::2] *= -1
    hashes = {arrangement(x).content_hash for x in (W, swapped, longer, negated, W[:-1], W[:, :-1])}
    assert len(hashes) == 6


def test_equal_content_has_equal_hash_wherever_it_lies(W):
    assert arrangement(W).content_hash == arrangement(np.asfortranarray(W)).content_hash


def test_zeros_are_what_the_threshold_says_and_nan_is_none():
    W = np.full((4, 100), 1e-9)
    W[0, 99] = 1.0
    W[1, 99] = np.nan
    found = arrangement(W, step=1, threshold=1e-8)
    assert (found.zero_rows, found.zero_columns) == (2, 99)


def test_nothing_has_no_zero_rows():
    found = arrangement(np.zeros((0, 5)))
    assert (found.zero_rows, found.zero_columns) == (0, 0)
    assert len(found.content_hash) == 16
