"""Names of stored tensors: which numbers in them are layers and experts, which words a tower."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paramscope.anatomy.families import (
    EXPERT_LISTS,
    LABELS,
    LAYER_LISTS,
    LAYER_SUBLISTS,
    LEAVES,
    NOISE,
    NOT_LAYER_LISTS,
    PER_KIND_LISTS,
    WRAPPED,
)

# A number is a segment of its own, or ends `expert_3`. One that comes right before the leaf
# counts the children of a Sequential (`mlp.0.weight`, `mlp.2.weight`) and stays in the pattern.
_NUMBER = re.compile(r"(?:(?<![^.])|(?<=\.expert_))\d+(?=\.(?!(?:weight|bias)$))")
_LAYER_LIST = re.compile(LAYER_LISTS)
_NOT_LAYER_LIST = re.compile(NOT_LAYER_LISTS)
_SUBLIST = re.compile(LAYER_SUBLISTS)
_EXPERT_LIST = re.compile(EXPERT_LISTS)
_PLAIN_LIST = re.compile(r"layers?|h|blocks?|resblocks|stages")
_NOISE = re.compile(NOISE)
_LEAF = re.compile(LEAVES)
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
    if len(segments) > 1 and segments[-1] == "linear" and re.fullmatch(WRAPPED, segments[-2]):
        segments.pop()
    at, numbers = _layer_list(segments)
    fixed_layer = None
    if at is not None and segments[at + 1].isdigit():
        fixed_layer = int(segments[at + 1])
    stack_words = segments if at is None else segments[: at + 1]
    if (at is not None and _PLAIN_LIST.fullmatch(segments[at])) or (
        at is not None and re.fullmatch(PER_KIND_LISTS, segments[at])
    ):
        stack_words = segments[:at]
    return Name(
        path=".".join(segments),
        leaf=leaf,
        labels=labels(stack_words),
        stack="" if at is None else ".".join((*segments[: at + 1], "#")),
        layer_numbers=numbers,
        fixed_layer=fixed_layer,
        expert_number=_expert_number(segments),
    )


def labels(segments: Sequence[str]) -> tuple[str, ...]:
    """The words among segments that may name a tower; synonyms become one word."""
    found: list[str] = []
    for segment in segments:
        label = next((to for pattern, to in _LABELS if pattern.fullmatch(segment)), segment)
        if label and "#" not in label and not label.isdigit() and label not in found[-1:]:
            found.append(label)
    return tuple(found)


def _layer_list(segments: Sequence[str]) -> tuple[int | None, tuple[int, ...]]:
    """Where the list of layers stands among segments, and which numbers count the layers."""
    number = -1
    for at, (word, index) in enumerate(zip(segments, segments[1:], strict=False)):
        number += word == "#" or word.endswith("expert_#")
        if re.fullmatch(PER_KIND_LISTS, word) and (index == "#" or index.isdigit()):
            return at, (number + 1,) if index == "#" else ()
        if index != "#" or at + 2 >= len(segments) or not _is_layer_list(word):
            continue
        inner = ".".join(segments[at : at + 4])
        if _SUBLIST.fullmatch(inner) and len(segments) > at + 4:
            return at, (number + 1, number + 2)
        return at, (number + 1,)
    return None, ()


def _is_layer_list(word: str) -> bool:
    return bool(_LAYER_LIST.fullmatch(word)) and not _NOT_LAYER_LIST.fullmatch(word)


def _expert_number(segments: Sequence[str]) -> int | None:
    number = -1
    for before, segment in zip(("", *segments), segments, strict=False):
        numbered = segment == "#" or segment.endswith("expert_#")
        number += numbered
        if numbered and (_EXPERT_LIST.fullmatch(before) or segment != "#"):
            return number
    return None


@dataclass(frozen=True, slots=True)
class Stack:
    """A list of layers: its labels, and whether it holds attention, an MLP or another mixer."""

    path: str
    labels: tuple[str, ...]
    is_main: bool


def name_towers(stacks: Sequence[Stack]) -> Mapping[str, str]:
    """A tower for each list of layers, by its path.

    The name is the fewest leading labels that tell a stack from the others; labels that all
    stacks begin with say nothing and go. One stack alone has the tower "".
    """
    main = [stack for stack in stacks if stack.is_main] or list(stacks)
    common = _common_length([stack.labels for stack in main])
    names: dict[str, str] = {}
    for stack in stacks:
        if stack in main:
            others = {other.labels[common:] for other in main} - {stack.labels[common:]}
            names[stack.path] = _distinct(stack.labels[common:], others)
        else:
            names[stack.path] = ".".join(stack.labels) or stack.path.split(".")[-2]
    modal = any(name.split(".")[0] in ("vision", "audio", "video") for name in names.values())
    return {path: name or ("text" if modal else "") for path, name in names.items()}


def _distinct(own: tuple[str, ...], others: set[tuple[str, ...]]) -> str:
    for length in range(min(1, len(own)), len(own)):
        if not any(other[:length] == own[:length] for other in others):
            return ".".join(own[:length])
    return ".".join(own)


def _common_length(many: Sequence[tuple[str, ...]]) -> int:
    if not many:
        return 0
    first = many[0]
    if len(set(many)) == 1:
        return len(first)
    length = 0
    while length < len(first) and all(one[: length + 1] == first[: length + 1] for one in many):
        length += 1
    return length
