"""Names of stored tensors: which numbers in them are layers and experts, which words a tower."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from paramscope.anatomy.families import (
    EXPERT_LISTS,
    GGUF_LISTS,
    LABELS,
    LAYER_LISTS,
    LAYER_SUBLISTS,
    LEAVES,
    NOISE,
    NOT_LAYER_LISTS,
    PER_KIND_LISTS,
    WRAPPED,
)
from paramscope.anatomy.gguf_families import TOWERS

# A number is a segment of its own, or ends `expert_3`. One that comes right before the leaf
# counts the children of a Sequential (`mlp.0.weight`, `mlp.2.weight`) and stays in the pattern.
_NUMBER = re.compile(r"(?:(?<![^.])|(?<=\.expert_))\d+(?=\.(?!(?:weight|bias)$))")
_LAYER_LIST = re.compile(LAYER_LISTS)
_NOT_LAYER_LIST = re.compile(NOT_LAYER_LISTS)
_PER_KIND_LIST = re.compile(PER_KIND_LISTS)
_SUBLIST = re.compile(LAYER_SUBLISTS)
_EXPERT_LIST = re.compile(EXPERT_LISTS)
_PLAIN_LIST = re.compile(r"layers?|h|blk|blocks?|resblocks|stages")
_GGUF_LIST = re.compile(GGUF_LISTS)
_NOISE = re.compile(NOISE)
_LEAF = re.compile(LEAVES)
_WRAPPED = re.compile(WRAPPED)
_LABELS = tuple((re.compile(pattern), label) for pattern, label in LABELS)


def normalise(name: str) -> tuple[str, list[str]]:
    """The name's pattern, in which `#` stands for a number, and the numbers, in order."""
    return _NUMBER.sub("#", name), _NUMBER.findall(name)


@dataclass(frozen=True, slots=True)
class Name:
    """A pattern taken apart.

    Attributes:
        path: the module, without the leaf and without wrappers; numbers are `#`.
        leaf: `weight`, `bias`, …; empty where the parameter is an attribute of its own.
        labels: words that may tell the tower, outermost first.
        stack: the list of layers it is in, as a path; empty outside the layers.
        layer_numbers: which numbers of the name are the layer: none, one, or stage and block.
        fixed_layer: the layer, where the number stayed in the pattern.
        expert_number: which number of the name is the expert.
    """

    path: str
    leaf: str
    labels: tuple[str, ...]
    stack: str
    layer_numbers: tuple[int, ...]
    fixed_layer: int | None
    expert_number: int | None


def take_apart(pattern: str) -> Name:
    """Read a pattern: leaf, layer list, expert list, and the words that may name a tower."""
    segments = [segment for segment in pattern.split(".") if not _NOISE.fullmatch(segment)]
    leaf = ""
    for length in (3, 2, 1):
        if len(segments) > length and _LEAF.fullmatch(".".join(segments[-length:])):
            leaf = ".".join(segments[-length:])
            del segments[-length:]
            break
    if len(segments) > 1 and (_GGUF_LIST.fullmatch(segments[1]) or not _is_layer_list(segments[1])):
        segments[0] = TOWERS.get(segments[0], segments[0])
    if len(segments) > 1 and segments[-1] == "linear" and _WRAPPED.fullmatch(segments[-2]):
        segments.pop()
    at, numbers = _layer_list(segments)
    stack = [] if at is None else segments[: at + 1]
    fixed = segments[at + 1] if at is not None else "#"
    if stack and _PER_KIND_LIST.fullmatch(stack[-1]):
        stack.pop()
    is_plain = bool(stack) and bool(_PLAIN_LIST.fullmatch(stack[-1]))
    return Name(
        path=".".join(segments),
        leaf=leaf,
        labels=labels(segments if at is None else stack[:-1] if is_plain else stack),
        stack="" if at is None else ".".join((*stack, "#")),
        layer_numbers=numbers,
        fixed_layer=int(fixed) if fixed.isdigit() else None,
        expert_number=_expert_number(segments),
    )


def labels(segments: Sequence[str]) -> tuple[str, ...]:
    """The words among segments that may name a tower; synonyms become one word."""
    found: list[str] = []
    for segment in segments:
        label = next((to for pattern, to in _LABELS if pattern.fullmatch(segment)), segment)
        for word in label.split("."):
            if word and "#" not in word and not word.isdigit() and word not in found[-1:]:
                found.append(word)
    return tuple(found)


def _layer_list(segments: Sequence[str]) -> tuple[int | None, tuple[int, ...]]:
    """Where the list of layers stands among segments, and which numbers count the layers."""
    number = 0
    for at, (word, index) in enumerate(pairwise(segments)):
        number += _is_number(word)
        if _PER_KIND_LIST.fullmatch(word) and (index == "#" or index.isdigit()):
            return at, (number,) if index == "#" else ()
        if index != "#" or at + 2 >= len(segments) or not _is_layer_list(word):
            continue
        if _SUBLIST.match(".".join(segments[at:])):
            return at, (number, number + 1)
        return at, (number,)
    return None, ()


def _is_layer_list(word: str) -> bool:
    return bool(_LAYER_LIST.fullmatch(word)) and not _NOT_LAYER_LIST.fullmatch(word)


def _is_number(segment: str) -> bool:
    return segment == "#" or segment.endswith("expert_#")


def _expert_number(segments: Sequence[str]) -> int | None:
    number = 0
    for before, segment in zip(("", *segments), segments, strict=False):
        if _is_number(segment):
            if _EXPERT_LIST.fullmatch(before) or segment != "#":
                return number
            number += 1
    return None
