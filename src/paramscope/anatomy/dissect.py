"""Stored tensors to matrices: the pieces together cover every element exactly once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paramscope.anatomy import Matrix
from paramscope.anatomy.classify import Meaning, Subject, classify
from paramscope.anatomy.config import Facts, facts_for, signs_of
from paramscope.anatomy.names import Name, normalise, take_apart
from paramscope.anatomy.pieces import Piece, pieces_of
from paramscope.anatomy.towers import Stack, name_towers, tower_outside
from paramscope.checkpoint import StoredTensor

# Where the weight of a bias is found, after `bias` or `_bias` is taken off its name.
_WEIGHTS = (
    ".weight",
    ".qweight",
    ".weight_packed",
    ".weight_v",
    ".parametrizations.weight.original1",
    "",
    "_weight",
    "_blocks",
)
_MODULES = (".weight", ".qweight", "")


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

    Cost: one classification per distinct name pattern, shape and dtype; then some µs a tensor.
    """
    planner = _Planner(tensors, config)
    planned = [planner.plan(tensor) for tensor in tensors]
    planner.name_towers()
    matrices: list[Matrix] = []
    for tensor, (plan, numbers), layer in zip(
        tensors, planned, _layer_indices(planned), strict=True
    ):
        own = plan.name.expert_number
        expert = None if own is None else int(numbers[own])
        for piece, nbytes in zip(plan.pieces, _shares(tensor, plan.pieces), strict=True):
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
                    tensor.refusal or piece.refusal,
                    nbytes,
                )
            )
    return matrices


def _shares(tensor: StoredTensor, pieces: Sequence[Piece]) -> Iterator[int]:
    """Each piece's share of the tensor's bytes; they add up to all of them."""
    before = 0
    for piece in pieces:
        after = before + piece.view.size
        total = max(1, tensor.numel)
        yield tensor.nbytes * after // total - tensor.nbytes * before // total
        before = after


class _Planner:
    """Makes one plan per pattern, shape and dtype, when it is first met."""

    def __init__(self, tensors: Sequence[StoredTensor], config: Mapping[str, Any]) -> None:
        self._config = config
        self._shapes = {tensor.name: tensor.shape for tensor in tensors}
        self._signs = signs_of(self._shapes)
        self._plans: dict[tuple[str, tuple[int, ...], str, bool], _Plan] = {}
        self._names: dict[str, Name] = {}
        self._facts: dict[tuple[str, ...], Facts] = {}

    def plan(self, tensor: StoredTensor) -> tuple[_Plan, list[str]]:
        pattern, numbers = normalise(tensor.name)
        kind = (pattern, tensor.shape, tensor.dtype.name, tensor.is_turned)
        plan = self._plans.get(kind)
        if plan is None:
            plan = self._plans[kind] = self._make(pattern, tensor)
        return plan, numbers

    def name_towers(self) -> None:
        """Give every plan its tower, once all the lists of layers are known."""
        by_path: dict[str, Stack] = {}
        for plan in self._plans.values():
            path = plan.name.stack
            if path:
                was_main = path in by_path and by_path[path].is_main
                is_main = was_main or plan.meaning.is_mixer
                by_path[path] = Stack(path, plan.name.labels, is_main)
        stacks = list(by_path.values())
        towers = name_towers(stacks)
        for plan in self._plans.values():
            path = plan.name.stack
            plan.tower = towers[path] if path else tower_outside(plan.name.labels, stacks, towers)

    def _make(self, pattern: str, tensor: StoredTensor) -> _Plan:
        name = self._names.get(pattern)
        if name is None:
            name = self._names[pattern] = take_apart(pattern)
        facts = self._facts.get(name.labels)
        if facts is None:
            facts = self._facts[name.labels] = facts_for(
                self._config, name.labels, signs=self._signs
            )
        weight, ending = self._weight_of(tensor)
        subject = Subject(
            name=name,
            shape=tensor.shape,
            weight=weight,
            weight_ending=ending if ending == "_weight" else "",
            dtype=tensor.dtype,
            facts=facts,
            is_turned=tensor.is_turned,
            is_there=lambda module: self._is_beside(tensor, name, module),
        )
        meaning = classify(subject)
        return _Plan(name, meaning, pieces_of(meaning, subject))

    def _weight_of(self, tensor: StoredTensor) -> tuple[tuple[int, ...] | None, str]:
        """The shape of the weight that a bias belongs to, and how its name ends.

        What is no bias is its own weight.
        """
        if not tensor.name.endswith((".bias", "_bias")):
            return tensor.shape, ""
        stem = tensor.name.removesuffix("bias")[:-1]
        found = ((self._shapes.get(stem + ending), ending) for ending in _WEIGHTS)
        return next((weight for weight in found if weight[0] is not None), (None, ""))

    def _is_beside(self, tensor: StoredTensor, name: Name, module: str) -> bool:
        stem = tensor.name.removesuffix(name.leaf).removesuffix(".")
        parent = stem.rpartition(".")[0]
        return any(f"{parent}.{module}{leaf}" in self._shapes for leaf in _MODULES)


def _layer_indices(planned: Sequence[tuple[_Plan, list[str]]]) -> list[int | None]:
    """The layer of each tensor; blocks of stages are counted through all stages."""
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
        else:
            layers.append(index[0] if index else plan.name.fixed_layer)
    return layers
