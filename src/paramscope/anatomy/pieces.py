"""A meaning and a shape to pieces: experts apart, fused matrices apart, oriented."""

from __future__ import annotations

from dataclasses import dataclass, replace

from paramscope.anatomy.classify import Meaning
from paramscope.anatomy.config import Facts
from paramscope.anatomy.split import LAYOUTS, Fused, cut
from paramscope.anatomy.view import View


@dataclass(frozen=True, slots=True)
class Piece:
    """A matrix as a part of any tensor of its kind."""

    part: str
    role: str
    expert: int | None
    view: View
    transposed: bool = False
    note: str = ""


def pieces_of(
    meaning: Meaning, shape: tuple[int, ...], weight: tuple[int, ...], facts: Facts
) -> tuple[Piece, ...]:
    """The matrices of a tensor; `weight` is the shape of the weight that a bias belongs to."""
    whole = View.whole(shape)
    row = meaning.row
    if row is None:
        return (Piece("", meaning.role, None, whole),)
    if meaning.is_packed:
        return (Piece("", meaning.role, None, whole, note="packed codes, not yet decoded"),)
    stacked = row.stack == "axis" and len(shape) == (2 if meaning.is_bias else 3)
    transposed = not meaning.is_bias and _inputs_first(meaning, shape, facts)
    if not stacked:
        inputs = _inputs(meaning, shape, weight)
        return tuple(_cut(meaning, whole, transposed, inputs, facts, prefix="", expert=None))
    pieces: list[Piece] = []
    for expert in range(shape[0]):
        view = whole.pick(0, expert)
        if meaning.is_bias:
            view = replace(view, shape=(1, *view.shape), strides=(view.size, *view.strides))
        prefix = f"expert.{expert}"
        pieces += _cut(meaning, view, transposed, None, facts, prefix=prefix, expert=expert)
    return tuple(pieces) or (Piece("", meaning.role, None, whole),)


def _cut(
    meaning: Meaning,
    view: View,
    transposed: bool,  # noqa: FBT001
    inputs: int | None,
    facts: Facts,
    *,
    prefix: str,
    expert: int | None,
) -> list[Piece]:
    assert meaning.row is not None
    layout = LAYOUTS.get(meaning.row.layout)
    if layout is None:
        part = meaning.role.rpartition(".")[2] if prefix else ""
        part = f"{prefix}.{meaning.row.role.rpartition('.')[2]}" if prefix else ""
        return [Piece(part, meaning.role, expert, view, transposed)]
    on_columns = meaning.is_bias or transposed
    length = view.columns if on_columns else view.rows
    measured = layout.measure(Fused(facts, length, inputs))
    if isinstance(measured, str):
        part = f"{prefix}.{meaning.row.role.rpartition('.')[2]}" if prefix else ""
        return [Piece(part, meaning.role, expert, view, transposed, f"not split: {measured}")]
    axis = len(view.shape) - view.column_axes if on_columns else 0
    views = cut(view, axis, *measured)
    return [
        Piece(
            f"{prefix}.{part}" if prefix else part,
            "bias" if meaning.is_bias else meaning.rename(role),
            expert,
            piece,
            transposed,
        )
        for piece, (part, role) in zip(views, layout.pieces, strict=True)
    ]


def _inputs_first(meaning: Meaning, shape: tuple[int, ...], facts: Facts) -> bool:
    assert meaning.row is not None
    first = meaning.row.inputs_first
    if meaning.row.stack != "axis" or len(shape) != 3 or shape[1] == shape[2]:
        return first
    hidden = facts.hidden
    if hidden not in shape[1:]:
        return first
    into_hidden = meaning.row.role.endswith("down")
    return (shape[2] if into_hidden else shape[1]) == hidden


def _inputs(meaning: Meaning, shape: tuple[int, ...], weight: tuple[int, ...]) -> int | None:
    assert meaning.row is not None
    shape = weight if meaning.is_bias else shape
    if len(shape) < 2:
        return None
    return shape[0] if meaning.row.inputs_first else shape[1]
