"""A name, a shape and a dtype to a role, by the tables of `families.py`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from paramscope.anatomy.config import Facts
from paramscope.anatomy.families import (
    ADAPTER,
    CODES,
    CODES_ENDING,
    CONTEXTS,
    MAGNITUDES,
    NOT_TRAINED,
    ROWS,
    Row,
)
from paramscope.anatomy.gguf_families import GGUF_CONTEXTS, GGUF_NOT_TRAINED, GGUF_ROWS
from paramscope.anatomy.names import Name
from paramscope.anatomy.roles import ROLES
from paramscope.checkpoint.dtypes import Dtype

_MAY_BE_PACKED = re.compile(
    r"(?:cross_)?attn\.|mlp\.|embed\.token|output|ssm|moe\.expert|projector"
)
_MIXER = re.compile(r"(?:cross_)?attn\.|mlp\.|moe\.|ssm")
_OTHER = Row("", "other")
_NOT_TRAINED = (*GGUF_NOT_TRAINED, *NOT_TRAINED)
_ROWS = (*GGUF_ROWS, *ROWS)
_CONTEXTS = (*GGUF_CONTEXTS, *CONTEXTS)


@dataclass(frozen=True, slots=True)
class Subject:
    """A stored tensor as the rows see it.

    Attributes:
        shape: of the tensor.
        weight: shape of the tensor, or of the weight that it is the bias of; None where a bias
            has no weight.
        weight_ending: what the weight's name ends with, where a bias is a parameter `x_bias`.
        is_turned: whether rows are outputs even where the family stores the inputs first.
        is_there: whether the checkpoint holds a module of this name beside the tensor's own.
    """

    name: Name
    shape: tuple[int, ...]
    weight: tuple[int, ...] | None
    weight_ending: str
    dtype: Dtype
    facts: Facts
    is_turned: bool
    is_there: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a tensor is, before it is cut.

    Attributes:
        row: the row of the table that fitted.
        role: the role of the whole tensor.
        is_bias: a vector that is added; its pieces are biases too.
        is_whole: it does not hold the weight's numbers in the weight's layout: not to be cut.
        renames: prefixes of roles that the context changes.
        note: why it is not to be cut.
        refusal: why its elements are no weights; empty where they are.
    """

    row: Row
    role: str
    is_bias: bool = False
    is_whole: bool = False
    renames: tuple[tuple[str, str], ...] = ()
    note: str = ""
    refusal: str = ""

    @property
    def is_mixer(self) -> bool:
        """Whether it is a weight of attention, an MLP, or another mixer."""
        return _MIXER.match(self.role) is not None

    def rename(self, role: str) -> str:
        """A role as the context has it, such as `moe.expert.up` for `mlp.up`.

        What the context has no role of its own for keeps its name.
        """
        for prefix, to in self.renames:
            renamed = to + role.removeprefix(prefix)
            if role.startswith(prefix) and renamed in ROLES:
                return renamed
        return role


def classify(subject: Subject) -> Meaning:
    """The meaning of a tensor, by the first row that fits."""
    name, is_integer = subject.name, subject.dtype.kind == "integer"
    full = f"{name.path}.{name.leaf}" if name.leaf else name.path
    for row in _NOT_TRAINED:
        if _fits(row, full, subject.shape, subject):
            return Meaning(row, row.role)
    if re.fullmatch(MAGNITUDES, name.leaf):
        return Meaning(_OTHER, "scale")
    path, row, is_bias = _find(subject)
    is_code = bool(re.fullmatch(CODES, name.leaf)) or (path != name.path and not is_bias)
    if is_integer and not is_code and not _holds_codes(subject, row, is_bias=is_bias):
        return Meaning(_OTHER, "buffer")
    renames = _renames(path, subject)
    role = Meaning(row, row.role, renames=renames).rename(row.role)
    if is_bias and role != "norm":
        role = "bias"
    note, refusal = "", ""
    if re.fullmatch(ADAPTER, name.leaf):
        note = f"{name.leaf.removesuffix('.weight')}: a factor of a low-rank adapter"
    elif is_integer or is_code:
        refusal = f"{subject.dtype.name} codes in a scheme that is not known, or without scales"
    return Meaning(
        row,
        role,
        is_bias=is_bias,
        is_whole=bool(note or refusal),
        renames=renames,
        note=note,
        refusal=refusal,
    )


def _holds_codes(subject: Subject, row: Row, *, is_bias: bool) -> bool:
    """Whether integers stand for weights: in a weight's place, and no wider than packers use."""
    is_matrix = len(subject.shape) >= 2 and subject.dtype.bits <= 32 and not is_bias
    return is_matrix and _MAY_BE_PACKED.match(row.role) is not None


def _find(subject: Subject) -> tuple[str, Row, bool]:
    """The path that a row fits, the row, and whether the tensor is a bias.

    A parameter `q_bias` is the bias of `q` where no row knows it by its own name.
    """
    path, leaf = subject.name.path, subject.name.leaf
    candidates = [(path, leaf == "bias")]
    if path.endswith("_bias") and not leaf:
        stem = path.removesuffix("_bias")
        if subject.weight is not None:
            candidates = [(stem + subject.weight_ending, True)]
        else:
            candidates += [(f"{stem}_weight", True), (stem, True)]
    elif path.endswith(CODES_ENDING) and not leaf:
        candidates.append((path.removesuffix(CODES_ENDING), False))
    for candidate, is_bias in candidates:
        for row in _ROWS:
            if _fits(row, candidate, subject.weight, subject):
                return candidate, row, is_bias
    return path, _OTHER, candidates[-1][1]


def _fits(row: Row, path: str, shape: tuple[int, ...] | None, subject: Subject) -> bool:
    if row.dims and (len(shape) not in row.dims if shape is not None else bool(row.leaf)):
        return False
    if not _at_end(row.pattern).search(path):
        return False
    if row.leaf and subject.name.leaf not in (row.leaf, "bias"):
        return False
    if row.models and not any(re.fullmatch(row.models, kind) for kind in subject.facts.model_types):
        return False
    if row.ratio and not _has_ratio(shape, row.ratio):
        return False
    if row.beside and not subject.is_there(row.beside):
        return False
    if row.not_beside and subject.is_there(row.not_beside):
        return False
    if row.when is not None:
        key, wanted, silent = row.when
        value = subject.facts.value(key)
        return bool((silent if value is None else value) == wanted)
    return True


def _has_ratio(shape: tuple[int, ...] | None, ratio: float) -> bool:
    return shape is not None and len(shape) == 2 and shape[0] == round(shape[1] * ratio)


@cache
def _at_end(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|\.)(?:{pattern})$")


@cache
def _anywhere(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|\.)(?:{pattern})(?:\.|$)")


def _renames(path: str, subject: Subject) -> tuple[tuple[str, str], ...]:
    dims = None if subject.weight is None else len(subject.weight)
    for context in _CONTEXTS:
        if _anywhere(context.pattern).search(path) and (not context.dims or dims in context.dims):
            return context.renames
    return ()
