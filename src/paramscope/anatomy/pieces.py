"""A meaning and a shape to pieces: experts apart, fused matrices apart, oriented."""

from __future__ import annotations

from dataclasses import dataclass, replace

from paramscope.anatomy.classify import Meaning, Subject
from paramscope.anatomy.split import LAYOUTS, Fused, cut
from paramscope.anatomy.view import View

# Roles of tensors that hold several matrices; one that stays whole says why.
_FUSED = ("attn.qkv", "cross_attn.qkv", "mlp.gate_up", "moe.expert.gate_up", "moe.shared.gate_up")

_NOT_KNOWN = "fused; the order of its parts is not known for this family"


@dataclass(frozen=True, slots=True)
class Piece:
    """A matrix as a part of any tensor of its kind."""

    part: str
    role: str
    expert: int | None
    view: View
    transposed: bool = False
    note: str = ""
    refusal: str = ""


def pieces_of(meaning: Meaning, subject: Subject) -> tuple[Piece, ...]:
    """The matrices of a tensor, disjoint, which together cover it."""
    whole = View.whole(subject.shape)
    if meaning.is_whole:
        return (Piece("", meaning.role, None, whole, note=meaning.note, refusal=meaning.refusal),)
    experts = _stack(meaning, subject, whole)
    if experts is None:
        return _cut(meaning, subject, whole, "", None)
    is_shared = meaning.rename(meaning.row.role).startswith("moe.shared")
    pieces: list[Piece] = []
    for index, view in enumerate(experts):
        expert = None if is_shared else index
        pieces += _cut(meaning, subject, view, f"expert.{index}.", expert)
    return tuple(pieces) or (Piece("", meaning.role, None, whole),)


def _stack(meaning: Meaning, subject: Subject, whole: View) -> list[View] | None:
    """One view per expert, or None where the tensor is not a stack."""
    dims, shape = len(subject.shape), subject.shape
    if meaning.row.stack == "rows" and dims == 2:
        experts = subject.facts.experts
        if not experts or shape[0] % experts:
            return None
        whole = whole.split(0, experts, shape[0] // experts)
        return [whole.pick(0, expert) for expert in range(experts)]
    in_experts = meaning.rename(meaning.row.role).startswith(("moe.expert.", "moe.shared."))
    is_stack = meaning.row.stack == "axis" or (in_experts and subject.name.expert_number is None)
    if not is_stack or not whole.size or dims != (2 if meaning.is_bias else 3):
        return None
    if not meaning.is_bias:
        return [whole.pick(0, expert) for expert in range(shape[0])]
    rows = [whole.take(0, expert, expert + 1) for expert in range(shape[0])]
    return [replace(row, column_axes=1) for row in rows]


def _cut(
    meaning: Meaning, subject: Subject, view: View, prefix: str, expert: int | None
) -> tuple[Piece, ...]:
    row = meaning.row
    transposed = not meaning.is_bias and _inputs_first(meaning, subject)
    part = prefix + row.role.rpartition(".")[2] if prefix else ""
    whole = Piece(part, meaning.role, expert, view, transposed)
    if meaning.role == "norm" or not row.layout:
        is_fused = meaning.rename(row.role) in _FUSED
        return (replace(whole, note=_NOT_KNOWN if is_fused else ""),)
    on_columns = meaning.is_bias or transposed
    axis = len(view.shape) - view.column_axes if on_columns else 0
    weight = subject.weight or ()
    inputs_at = 0 if row.inputs_first and not subject.is_turned else -1
    inputs = weight[inputs_at] if len(weight) > 1 else None
    layout = LAYOUTS[row.layout]
    measured = layout.measure(Fused(subject.facts, view.shape[axis], inputs))
    if measured is None:
        return (whole,)
    if isinstance(measured, str):
        return (replace(whole, note=f"not split: {measured}"),)
    return tuple(
        replace(
            whole,
            part=f"{prefix}{part}",
            role="bias" if meaning.is_bias else meaning.rename(role),
            view=piece,
        )
        for piece, (part, role) in zip(cut(view, axis, *measured), layout.pieces, strict=True)
    )


def _inputs_first(meaning: Meaning, subject: Subject) -> bool:
    """Whether rows are inputs: in a stack of experts the hidden size tells, else the row."""
    if subject.is_turned:
        return False
    shape, hidden = subject.shape, subject.facts.hidden
    if len(shape) != 3 or shape[1] == shape[2] or hidden not in shape[1:] or meaning.row.stack:
        return meaning.row.inputs_first and len(shape) in (2, 3)
    if not meaning.rename(meaning.row.role).startswith("moe."):
        return meaning.row.inputs_first
    into_hidden = meaning.row.role.endswith("down")
    return (shape[2] if into_hidden else shape[1]) == hidden
