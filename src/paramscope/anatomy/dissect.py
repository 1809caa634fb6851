"""Stored tensors to matrices: the pieces together cover every element exactly once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paramscope.anatomy import Matrix
from paramscope.anatomy.classify import Meaning, Subject, classify
from paramscope.anatomy.config import Facts, facts_for
from paramscope.anatomy.names import Name, Stack, name_towers, normalise, take_apart
from paramscope.anatomy.pieces import Piece, pieces_of
from paramscope.checkpoint import StoredTensor
from paramscope.checkpoint.dtypes import Dtype

# Where the weight of a module is found, and that of a parameter with a `_bias` of its own.
_WEIGHT_LEAVES = (
    ".weight",
    ".qweight",
    ".weight_v",
    ".parametrizations.weight.original1",
    "",
    "_weight",
)

_Kind = tuple[str, tuple[int, ...], str]


@dataclass(slots=True)
class _Plan:
    """What all tensors of one pattern, shape and dtype have in common."""

    name: Name
    meaning: Meaning
    pieces: tuple[Piece, ...]
    tower: str = ""


def dissect(tensors: Sequence[StoredTensor], config: Mapping[str, Any]) -> list[Matrix]:
    """Every stored tensor as one or more matrices, in order; nothing is dropped.

    Args:
        tensors: the stored tensors of one checkpoint.
        config: its `config.json`, or {}.

    Returns:
        Per tensor its matrices, which are disjoint and together cover it. What is not known has
        the role `other`; a fused tensor that cannot be split for want of a number in the config
        stays whole, and its `note` says what is missing.

    Cost: one classification per distinct name pattern, shape and dtype; about 3 µs per tensor.
    """
    planner = _Planner(tensors, config)
    planned = [(tensor, *planner.plan(tensor)) for tensor in tensors]
    planner.name_towers()
    layers = _layer_indices([(plan, numbers) for _, plan, numbers in planned])
    matrices: list[Matrix] = []
    for (tensor, plan, numbers), layer in zip(planned, layers, strict=True):
        own = plan.name.expert_number
        expert = None if own is None else int(numbers[own])
        for piece in plan.pieces:
            matrices.append(
                Matrix(
                    tensor,
                    piece.part,
                    piece.role,
                    plan.tower,
                    layer,
                    expert if piece.expert is None else piece.expert,
                    piece.view,
                    piece.transposed,
                    piece.note,
                )
            )
    return matrices


class _Planner:
    """Makes one plan per pattern, shape and dtype, when it is first met."""

    def __init__(self, tensors: Sequence[StoredTensor], config: Mapping[str, Any]) -> None:
        self._config = config
        self._shapes = {tensor.name: tensor.shape for tensor in tensors}
        self._plans: dict[_Kind, _Plan] = {}
        self._names: dict[str, Name] = {}
        self._facts: dict[tuple[str, ...], Facts] = {}

    def plan(self, tensor: StoredTensor) -> tuple[_Plan, list[str]]:
        pattern, numbers = normalise(tensor.name)
        kind = (pattern, tensor.shape, tensor.dtype.name)
        plan = self._plans.get(kind)
        if plan is None:
            plan = self._plans[kind] = self._make(pattern, tensor.name, tensor.shape, tensor.dtype)
        return plan, numbers

    def _make(self, pattern: str, full: str, shape: tuple[int, ...], dtype: Dtype) -> _Plan:
        name = self._names.get(pattern)
        if name is None:
            name = self._names[pattern] = take_apart(pattern)
        facts = self._facts.get(name.labels)
        if facts is None:
            facts = self._facts[name.labels] = facts_for(self._config, name.labels)
        subject = Subject(
            name,
            shape,
            self._weight_of(full, shape),
            dtype,
            facts,
            lambda module: self._is_beside(full, name, module),
        )
        meaning = classify(subject)
        return _Plan(name, meaning, pieces_of(meaning, subject))

    def _weight_of(self, full: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """The shape of the weight that a bias is added after; its own of what is no bias."""
        if not full.endswith(("bias", "_bias")):
            return shape
        stem = full.removesuffix("bias").removesuffix(".").removesuffix("_")
        for leaf in _WEIGHT_LEAVES:
            weight = self._shapes.get(stem + leaf)
            if weight is not None:
                return weight
        return None

    def _is_beside(self, full: str, name: Name, module: str) -> bool:
        stem = full.removesuffix(name.leaf).removesuffix(".")
        parent = stem.rpartition(".")[0]
        return any(f"{parent}.{module}{leaf}" in self._shapes for leaf in (".weight", "", ".qweight"))

    def name_towers(self) -> None:
        """Give every plan its tower, once all the lists of layers are known."""
        by_path: dict[str, Stack] = {}
        for plan in self._plans.values():
            path = plan.name.stack
            if path:
                known = by_path.get(path)
                is_main = plan.meaning.is_mixer or (known is not None and known.is_main)
                by_path[path] = Stack(path, plan.name.labels, is_main)
        towers = name_towers(list(by_path.values()))
        for plan in self._plans.values():
            if plan.name.stack:
                plan.tower = towers[plan.name.stack]
            else:
                plan.tower = _tower_outside(plan.name, by_path, towers)


def _tower_outside(name: Name, stacks: Mapping[str, Stack], towers: Mapping[str, str]) -> str:
    """The tower of what is in no layer: of the stack with which it shares the longest prefix."""
    best, length = "", 0
    for path, stack in stacks.items():
        shared = 0
        for mine, theirs in zip(name.labels, stack.labels, strict=False):
            if mine != theirs:
                break
            shared += 1
        if stack.is_main and shared > length:
            best, length = towers[path], shared
    return best


def _layer_indices(planned: Sequence[tuple[_Plan, list[str]]]) -> list[int | None]:
    """The layer of each tensor; blocks of stages are counted through."""
    raw = [tuple(int(numbers[at]) for at in plan.name.layer_numbers) for plan, numbers in planned]
    staged: dict[str, set[tuple[int, ...]]] = {}
    for (plan, _), index in zip(planned, raw, strict=True):
        if len(index) == 2:
            staged.setdefault(plan.name.stack, set()).add(index)
    ranks = {
        stack: {index: rank for rank, index in enumerate(sorted(indices))}
        for stack, indices in staged.items()
    }
    layers: list[int | None] = []
    for (plan, _), index in zip(planned, raw, strict=True):
        in_stages = ranks.get(plan.name.stack)
        if in_stages is not None:
            layers.append(in_stages.get(index))
        elif index:
            layers.append(index[0])
        else:
            layers.append(plan.name.fixed_layer)
    return layers
