"""Which of the things in a pickle are the weights of the model, and what they are called.

A training run saves its weights inside a dict, beside its optimizer and its counters. The dict is
unwrapped, what is no weight is left out and told, and nested dicts become names with dots.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from paramscope.checkpoint.pickle_records import (
    BrokenError,
    Items,
    Pairs,
    SavedTensor,
    Unreadable,
)

# Under one of these a training run keeps the weights; the first that holds tensors is taken.
_WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "network",
    "params",
    "weights",
)
_COPY = re.compile(r"(.*_)?ema(_.*)?", re.IGNORECASE)
_TRAINING = re.compile(
    r"opt|optim(izer)?s?(_.*)?|.*_optimizers?(_.*)?|(lr_)?sched.*|.*scaler.*|amp|.*rng.*"
    r"|.*random_state.*|callbacks|loops|loss_.*",
    re.IGNORECASE,
)
# What parallel training and compilation put before every name.
_PREFIXES = ("module.", "_orig_mod.", "_forward_module.")

_MOST_VISITS = 300_000
_MOST_TENSORS = 100_000
_MOST_NAME_CHARACTERS = 2**26
_LONGEST_KEY = 1_024
_DEEPEST_WRAPPER = 8
_TOLD = 5

Saved = SavedTensor | Unreadable


@dataclass(slots=True)
class StateDict:
    """The weights by name, and the keys that were left out: training's, and averaged copies."""

    tensors: dict[str, SavedTensor] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)

    def notes(self) -> tuple[str, ...]:
        """What a user should know of what is left out, in sentences that lack the file's name."""
        found = []
        if self.left_out:
            found.append(f"left out, as no weights of the model: {few(self.left_out)}.")
        if self.copies:
            found.append(f"left out, as a copy (moving average) of weights: {few(self.copies)}.")
        return tuple(found)


def state_dict(value: object) -> StateDict:
    """The weights in what a pickle describes.

    Raises:
        BrokenError: there are none, or two have one name, or one has no elements to read.
    """
    found = StateDict()
    budget = _Budget()
    for _ in range(_DEEPEST_WRAPPER):
        if not isinstance(value, (Items, Pairs)):
            break
        entries = list(_entries(value))
        inner = _wrapper(dict(entries), budget)
        for key, part in entries:
            if key != inner:
                _sort(found, key, part, budget)
        if inner is None:
            break
        value = dict(entries)[inner]
    else:
        raise BrokenError(f"refused: its weights are wrapped more than {_DEEPEST_WRAPPER} deep.")
    if not isinstance(value, (Items, Pairs)):
        for key, part in _children(value) if isinstance(value, (list, tuple)) else [("0", value)]:
            _sort(found, key, part, budget)
    if not found.tensors:
        inside = f"; it has {few(found.left_out)}" if found.left_out else ""
        raise BrokenError(f"holds no tensor that could be a weight{inside}.")
    return found


def without_prefix(names: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """What all names begin with that is no part of them, and a note on it.

    Returns:
        The prefix, which may be empty or `module.module.`, and sentences.
    """
    names = list(names)
    prefix = ""
    while longer := _longer(prefix, names):
        prefix = longer
    return prefix, (f"{prefix!r} stands before every name and is left away.",) if prefix else ()


def _longer(prefix: str, names: list[str]) -> str:
    """The prefix and one more that all names share, and that is not all of a name."""
    for more in _PREFIXES:
        longer = prefix + more
        if names and all(name.startswith(longer) and name != longer for name in names):
            return longer
    return ""


@dataclass(slots=True)
class _Budget:
    """What a pickle that refers to itself, or to one thing a million times, may cost."""

    visits: int = _MOST_VISITS
    tensors: int = _MOST_TENSORS
    characters: int = _MOST_NAME_CHARACTERS

    def visit(self, name: str = "", tensors: int = 0) -> None:
        self.visits -= 1
        self.tensors -= tensors
        self.characters -= len(name)
        if min(self.visits, self.tensors, self.characters) < 0:
            raise BrokenError(
                f"refused: its pickle names more than {_MOST_TENSORS:,} tensors, or "
                f"{_MOST_VISITS:,} things, or at too great length, for the weights of a model."
            )


def _wrapper(entries: dict[str, object], budget: _Budget) -> str | None:
    """The key under which the weights are, where they are one level down."""
    averaged = [key for key in entries if _COPY.fullmatch(key)]
    for key in (*_WRAPPERS, *averaged):
        part = entries.get(key)
        if isinstance(part, (Items, Pairs)) and _holds_tensor(part, budget):
            return key
    return None


def _sort(found: StateDict, key: str, part: object, budget: _Budget) -> None:
    """Put an entry where it belongs: to the weights, or to what is left out."""
    if isinstance(part, (SavedTensor, Unreadable)):
        _add(found, key, part, budget)
    elif not _holds_tensor(part, budget) or _TRAINING.fullmatch(key):
        found.left_out.append(key)
    elif _COPY.fullmatch(key):
        found.copies.append(key)
    else:
        _flatten(found, key, part, budget)


def _flatten(found: StateDict, name: str, part: object, budget: _Budget) -> None:
    """The tensors below a key, in order, their keys joined by dots; what is none is left out."""
    waiting = [(name, part)]
    while waiting:
        name, part = waiting.pop()
        budget.visit(name)
        if isinstance(part, (SavedTensor, Unreadable)):
            _add(found, name, part, budget)
            continue
        below = list(_children(part))
        if not below:
            found.left_out.append(name)
        for key, child in reversed(below):
            budget.visit()
            waiting.append((f"{name}.{key}", child))


def _add(found: StateDict, name: str, tensor: Saved, budget: _Budget) -> None:
    budget.visit(name, tensors=1)
    if isinstance(tensor, Unreadable):
        raise BrokenError(
            f"tensor {name!r:.200} is {tensor.what}. Make it a plain tensor and save it again."
        )
    if name in found.tensors:
        raise BrokenError(f"two tensors are called {name!r:.200}. Save them under other names.")
    found.tensors[name] = tensor


def _holds_tensor(part: object, budget: _Budget) -> bool:
    """Whether a tensor is anywhere below; each thing is looked at once."""
    seen: set[int] = set()
    waiting = [part]
    while waiting:
        found = waiting.pop()
        if isinstance(found, (SavedTensor, Unreadable)):
            return True
        if isinstance(found, (Items, Pairs, list, tuple)) and id(found) not in seen:
            seen.add(id(found))
            for _, child in _children(found):
                budget.visit()
                waiting.append(child)
    return False


def _children(part: object) -> Iterator[tuple[str, object]]:
    if isinstance(part, (Items, Pairs)):
        yield from _entries(part)
    elif isinstance(part, (list, tuple)):
        for index, child in enumerate(part):
            yield str(index), child


def _entries(items: Items | Pairs) -> Iterator[tuple[str, object]]:
    """Keys and values; a key that is no text and no number cannot be part of a name."""
    pairs: Iterable[object] = (
        zip(items[::2], items[1::2], strict=True) if isinstance(items, Items) else items.pairs
    )
    for pair in pairs:
        match pair:
            case (str() | int() as key, value) if len(name := str(key)) <= _LONGEST_KEY:
                yield name, value
            case (_, value):
                yield "a key that is no name", value
            case _:
                raise BrokenError("a dict in its pickle is damaged. Download the file again.")


def few(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _TOLD:,} more" if len(names) > _TOLD else ""
    shown = (name if name.isprintable() else ascii(name) for name in names[:_TOLD])
    return ", ".join(f"{name:.60}" for name in shown) + more
