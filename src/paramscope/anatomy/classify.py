"""A name, a shape and a dtype to a role, by the tables of `families.py`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from paramscope.anatomy.config import Facts
from paramscope.anatomy.families import BUFFERS, CONTEXTS, PACKING, ROWS, Row
from paramscope.anatomy.names import Name
from paramscope.checkpoint.dtypes import Dtype

_MIXER = re.compile(r"(?:cross_)?attn\.|mlp\.|moe\.|ssm")


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a tensor is, before it is cut.

    Attributes:
        row: the row of the table that fitted, or None.
        role: the role of the whole tensor.
        is_bias: a vector that is added; its pieces are biases too.
        renames: prefixes of roles that the context changes.
        is_packed: codes, which can be cut only once they are decoded.
        is_mixer: a weight of attention, an MLP, or another mixer.
    """

    row: Row | None
    role: str
    is_bias: bool = False
    renames: tuple[tuple[str, str], ...] = ()
    is_packed: bool = False
    is_mixer: bool = False

    def rename(self, role: str) -> str:
        """A role as the context has it, such as `moe.expert.up` for `mlp.up`."""
        for prefix, to in self.renames:
            if role.startswith(prefix):
                return to + role.removeprefix(prefix)
        return role


def classify(name: Name, shape: tuple[int, ...], dtype: Dtype, facts: Facts) -> Meaning:
    """The meaning of a tensor, by the first row that fits."""
    full = f"{name.path}.{name.leaf}" if name.leaf else name.path
    if any(_fits(row, full, shape, facts) for row in BUFFERS):
        return Meaning(None, "buffer")
    if re.fullmatch(PACKING, full):
        return Meaning(None, "packing")
    is_bias = name.leaf == "bias"
    path = name.path
    row = _find(path, shape, facts)
    if row is None and path.endswith("_bias"):
        path, is_bias = path.removesuffix("_bias"), True
        row = _find(path, shape, facts)
    if dtype.kind == "integer" and (row is None or len(shape) < 2):
        return Meaning(None, "buffer")
    if row is None:
        return Meaning(None, "bias" if is_bias else "other", is_bias)
    renames = _renames(path)
    meaning = Meaning(row, row.role, is_bias, renames, dtype.kind == "integer")
    role = meaning.rename(row.role)
    if is_bias and role != "norm":
        return Meaning(row, "bias", is_bias, renames, meaning.is_packed)
    is_mixer = _MIXER.match(role) is not None
    return Meaning(row, role, is_bias, renames, meaning.is_packed, is_mixer)


def _find(path: str, shape: tuple[int, ...], facts: Facts) -> Row | None:
    return next((row for row in ROWS if _fits(row, path, shape, facts)), None)


def _fits(row: Row, path: str, shape: tuple[int, ...], facts: Facts) -> bool:
    if row.dims and len(shape) not in row.dims:
        return False
    if not _at_end(row.pattern).search(path):
        return False
    if row.models and not any(re.fullmatch(row.models, kind) for kind in facts.model_types):
        return False
    if row.when is not None:
        key, wanted, silent = row.when
        value = facts.value(key)
        return bool((silent if value is None else value) == wanted)
    return True


@cache
def _at_end(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|\.)(?:{pattern})$")


def _renames(path: str) -> tuple[tuple[str, str], ...]:
    for pattern, renames in CONTEXTS:
        if re.search(rf"(?:^|\.)(?:{pattern})(?:\.|$)", path):
            return tuple(renames.items())
    return ()
