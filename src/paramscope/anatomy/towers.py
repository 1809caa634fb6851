"""Towers: one name for each list of layers, and the one that a tensor outside them belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_MODALITIES = ("vision", "audio", "video")


@dataclass(frozen=True, slots=True)
class Stack:
    """A list of layers: its path, its labels, and whether it holds attention or an MLP."""

    path: str
    labels: tuple[str, ...]
    is_main: bool


def name_towers(stacks: Sequence[Stack]) -> Mapping[str, str]:
    """A tower for each list of layers, by its path.

    The name is the fewest leading labels that tell a stack from the others; labels that all
    stacks begin with say nothing and go. One stack alone has the tower "", and so has the main
    one among several where nothing names it, except beside vision or audio, where it is "text".
    Lists that hold only convolutions and the like have names, but do not make others need one.
    """
    main = [stack for stack in stacks if stack.is_main] or list(stacks)
    common = _common_length([stack.labels for stack in main])
    names = {
        stack.path: ".".join(stack.labels) or stack.path.removesuffix(".#") for stack in stacks
    }
    for stack in main:
        others = {other.labels[common:] for other in main} - {stack.labels[common:]}
        names[stack.path] = _distinct(stack.labels[common:], others)
    for stack in main:
        twins = [other for other in main if other.labels == stack.labels]
        if len(twins) > 1:
            names[stack.path] = stack.path.removesuffix(".#")
    is_multimodal = any(name.split(".")[0] in _MODALITIES for name in names.values())
    return {path: name or ("text" if is_multimodal else "") for path, name in names.items()}


def tower_outside(
    labels: tuple[str, ...], stacks: Sequence[Stack], towers: Mapping[str, str]
) -> str:
    """The tower of a tensor in no layer: of the stack with which it shares most labels."""
    best, length = "", 0
    for stack in stacks:
        shared = _common_length([labels, stack.labels])
        if stack.is_main and shared > length:
            best, length = towers[stack.path], shared
    return best


def _distinct(own: tuple[str, ...], others: set[tuple[str, ...]]) -> str:
    for length in range(min(1, len(own)), len(own)):
        if not any(other[:length] == own[:length] for other in others):
            return ".".join(own[:length])
    return ".".join(own)


def _common_length(many: Sequence[tuple[str, ...]]) -> int:
    """How many leading labels all have; all of them where they are the same."""
    length = 0
    for words in zip(*many, strict=False):
        if len(set(words)) > 1:
            break
        length += 1
    return length
