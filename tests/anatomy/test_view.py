"""Views against numpy: the same operations on an array of indices must give the same elements."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paramscope.anatomy.view import View


def indices(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(math.prod(shape), dtype=np.int64)


def elements(view: View, shape: tuple[int, ...]) -> np.ndarray:
    return view.cut(indices(shape), 0)


SHAPES = st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple)


@st.composite
def views_and_arrays(draw: st.DrawFn) -> tuple[View, np.ndarray, tuple[int, ...]]:
    """A view after some random operations, and the numpy array after the same ones."""
    shape = draw(SHAPES)
    view = View.whole(shape)
    array = indices(shape).reshape(shape)
    for _ in range(draw(st.integers(0, 3))):
        axis = draw(st.integers(0, array.ndim - 1))
        length = array.shape[axis]
        kind = draw(st.sampled_from(("split", "take", "pick")))
        if kind == "split":
            inner = draw(st.sampled_from([n for n in range(1, length + 1) if length % n == 0]))
            view = view.split(axis, length // inner, inner)
            parts = (length // inner, inner)
            array = array.reshape(*array.shape[:axis], *parts, *array.shape[axis + 1 :])
        elif kind == "take":
            start, stop = sorted((draw(st.integers(0, length)), draw(st.integers(0, length))))
            step = draw(st.integers(1, 3))
            if start == stop:
                continue
            view = view.take(axis, start, stop, step)
            array = array[(slice(None),) * axis + (slice(start, stop, step),)]
        elif array.ndim > 1:
            index = draw(st.integers(0, length - 1))
            view = view.pick(axis, index)
            array = array.take(index, axis=axis)
    return view, array, shape


@given(views_and_arrays())
def test_a_view_selects_what_numpy_selects(
    drawn: tuple[View, np.ndarray, tuple[int, ...]],
) -> None:
    view, array, shape = drawn
    assert view.shape == array.shape
    assert view.size == array.size == view.rows * view.columns
    cut = elements(view, shape)
    assert cut.shape == (view.rows, view.columns)
    assert np.array_equal(cut.ravel(), array.ravel())
    assert view.span == (array.min(), array.max() + 1)


@given(views_and_arrays())
def test_a_view_needs_only_its_span(drawn: tuple[View, np.ndarray, tuple[int, ...]]) -> None:
    view, array, shape = drawn
    first, last = view.span
    window = indices(shape)[first:last]
    assert np.array_equal(view.cut(window, first).ravel(), array.ravel())
    if window.size > 1:
        with pytest.raises(ValueError, match="are not in"):
            view.cut(window[1:], first + 1)


@given(views_and_arrays(), st.integers(1, 40))
def test_blocks_are_the_rows_in_order(
    drawn: tuple[View, np.ndarray, tuple[int, ...]], max_size: int
) -> None:
    view, array, shape = drawn
    blocks = list(view.blocks(max_size))
    taken = [elements(block, shape) for block in blocks]
    assert np.array_equal(np.concatenate([block.ravel() for block in taken]), array.ravel())
    assert all(block.columns == view.columns for block in blocks)
    assert all(block.size <= max(max_size, view.columns) for block in blocks)


@given(views_and_arrays(), st.integers(1, 40))
def test_column_blocks_are_the_columns_in_order(
    drawn: tuple[View, np.ndarray, tuple[int, ...]], max_size: int
) -> None:
    view, array, shape = drawn
    taken = [elements(block, shape) for block in view.column_blocks(max_size)]
    joined = np.concatenate([block.reshape(view.rows, -1) for block in taken], axis=1)
    assert np.array_equal(joined, array.reshape(view.rows, view.columns))


@given(st.lists(st.integers(0, 5), max_size=4).map(tuple))
def test_the_whole_is_every_element_with_the_first_axis_as_rows(shape: tuple[int, ...]) -> None:
    view = View.whole(shape)
    rows = shape[0] if len(shape) > 1 else 1
    assert view.rows == rows
    assert view.rows * view.columns == view.size == math.prod(shape)
    assert np.array_equal(elements(view, shape).ravel(), indices(shape))


def test_an_expert_picked_from_a_stack_has_outputs_as_rows() -> None:
    shape = (3, 4, 5)
    expert = View.whole(shape).pick(0, 1)
    assert (expert.rows, expert.columns) == (4, 5)
    assert np.array_equal(elements(expert, shape), indices(shape).reshape(shape)[1])


def test_interleaved_heads_are_taken_without_the_others() -> None:
    heads, width, hidden = 4, 3, 5
    shape = (heads * 3 * width, hidden)
    array = indices(shape).reshape(heads, 3, width, hidden)
    keys = View.whole(shape).split(0, heads, 3, width).pick(1, 1)
    assert np.array_equal(elements(keys, shape), array[:, 1].reshape(heads * width, hidden))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda view: view.split(0, 2, 2),
        lambda view: view.take(0, 2, 1),
        lambda view: view.take(1, 0, 6),
        lambda view: view.take(1, 0, 1, 0),
        lambda view: view.pick(0, 3),
        lambda view: view.pick(0, 0).pick(0, 0),
    ],
)
def test_what_is_not_there_cannot_be_taken(wrong) -> None:
    with pytest.raises(ValueError, match=r"axis|elements"):
        wrong(View.whole((3, 5)))
