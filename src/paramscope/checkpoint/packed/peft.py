"""What `adapter_config.json` says of an adapter: the rank and the scale of each adapted module.

    scale = alpha / r, with `use_rslora` alpha / √r; in AdaLoRA alpha / (init_r + 1e-5)

`rank_pattern` and `alpha_pattern` hold values for modules by name: the first key k in the order of
the file for which `(.*\\.)?(k)$` matches the module's name. A key that is a plain name is looked
up. Other keys are expressions from an untrusted file: only simple ones are matched, whose time is
bounded; where another one comes first, the value is not known.

Source: github.com/huggingface/peft: `LoraLayer.update_layer` in tuners/lora/layer.py,
`get_pattern_key` in utils/other.py, `SVDLinear.get_delta_weight` in tuners/adalora/layer.py.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from paramscope.errors import CheckpointError

CONFIG = "adapter_config.json"
PREFIX = "base_model.model."  # of every module's name in an adapter's file

_PLAIN = re.compile(r"[\w.-]+")
# Characters, classes, two repeats, one group that does not repeat: no more than cubic in length.
_SIMPLE = re.compile(
    r"\^?(?:[\w.-]|\\[.dw]|\[(?:\w(?:-\w)?)+\]|\((?:\?:)?|\)|\||(?<![*+(|)])[*+])*\$?"
)
_MOST_REPEATS = 2
_LONGEST_NAME = 256
_MOST_CHARACTERS = 20_000  # of all expressions together
_MOST_SECONDS = 0.7


class AdapterConfig:
    """One `adapter_config.json`; what it lacks has the default that peft gives it."""

    def __init__(self, node: Mapping[str, Any]) -> None:
        self._node = node

    @property
    def kind(self) -> str:
        """The `peft_type`, such as "LORA"; empty where there is none."""
        kind = self._node.get("peft_type")
        return kind if isinstance(kind, str) else ""

    @property
    def base_model(self) -> str:
        """The model that was adapted; empty where the config does not say."""
        name = self._node.get("base_model_name_or_path")
        return name if isinstance(name, str) else ""

    @property
    def makes_products(self) -> bool:
        """Whether factors are named and shaped as in plain LoRA and their product is the update.

        In QALoRA A works on averages of inputs, in BD-LoRA a factor holds the blocks of a diagonal.
        """
        variants = (self._node.get("use_qalora"), self._node.get("use_bdlora"))
        return self.kind in ("", "LORA", "ADALORA") and not any(variants)

    @property
    def inputs_first(self) -> bool:
        """Whether the adapted weights have the inputs first, as Conv1D of transformers has."""
        return self._node.get("fan_in_fan_out") is True

    def rank(self, module: str) -> int | None:
        """The rank of a module; None where it is not known."""
        if self.kind != "LORA":
            return None
        value = self._ranks.value(module.removeprefix(PREFIX), self._node.get("r", 8))
        return value if type(value) is int else None

    def scale(self, module: str, rank: int) -> float | None:
        """What the product of a module's factors is multiplied by; None where it is not known."""
        if not self.kind:
            return None
        default = self._node.get("lora_alpha", 8)
        if self.kind == "ADALORA":
            alpha, initial = _number(default), _number(self._node.get("init_r", 12))
            if alpha is None or initial is None or initial <= 0:
                return None
            return (alpha if alpha > 0 else rank) / (initial + 1e-5)
        alpha = _number(self._alphas.value(module.removeprefix(PREFIX), default))
        if alpha is None:
            return None
        return alpha / (math.sqrt(rank) if self._node.get("use_rslora") is True else rank)

    @cached_property
    def _ranks(self) -> _Patterns:
        return _Patterns(self._node.get("rank_pattern"))

    @cached_property
    def _alphas(self) -> _Patterns:
        return _Patterns(self._node.get("alpha_pattern"))


def config_of(file: str, read_json: Callable[[str], Any]) -> AdapterConfig:
    """The configuration beside a weight file; an empty one where there is none."""
    node = read_json(str(PurePosixPath(file).parent / CONFIG))
    return AdapterConfig(node if isinstance(node, dict) else {})


class _Patterns:
    """`rank_pattern` or `alpha_pattern`: values by patterns of module names."""

    def __init__(self, node: Any) -> None:
        items = list(node.items()) if isinstance(node, dict) else []
        self._values = [value for _, value in items]
        self._plain: dict[str, int] = {}
        self._others: list[tuple[int, re.Pattern[str] | None]] = []
        self._spent_s = 0.0
        characters = 0
        for position, (key, _) in enumerate(items):
            if _PLAIN.fullmatch(key):
                self._plain[key] = position
                continue
            characters += len(key)
            simple = characters <= _MOST_CHARACTERS and _is_simple(key)
            self._others.append((position, _compiled(key) if simple else None))

    def value(self, module: str, default: Any) -> Any:
        """The value for a module, or the default; None where that cannot be told.

        Raises:
            CheckpointError: matching takes too long.
        """
        if not self._values:
            return default
        if len(module) > _LONGEST_NAME:
            return None
        at = min(
            (self._plain[ending] for ending in _endings(module) if ending in self._plain),
            default=len(self._values),
        )
        for position, pattern in self._others:
            if position > at:
                break
            if pattern is None:
                return None
            if self._matches(pattern, module):
                at = position
        return self._values[at] if at < len(self._values) else default

    def _matches(self, pattern: re.Pattern[str], module: str) -> bool:
        started = time.thread_time()
        matches = pattern.match(module) is not None
        self._spent_s += time.thread_time() - started
        if self._spent_s > _MOST_SECONDS:
            raise CheckpointError(
                f"{CONFIG}: expected patterns that are matched at once, found some that take more "
                f"than {_MOST_SECONDS} s. Give rank_pattern and alpha_pattern by plain names."
            )
        return matches


def _endings(module: str) -> Iterator[str]:
    """The name, and what follows each of its dots."""
    yield module
    for dot in re.finditer(r"\.", module):
        yield module[dot.end() :]


def _is_simple(key: str) -> bool:
    repeats = key.count("*") + key.count("+")
    return bool(_SIMPLE.fullmatch(key)) and repeats <= _MOST_REPEATS and key.count("(") <= 1


def _compiled(key: str) -> re.Pattern[str] | None:
    try:
        return re.compile(rf"(?:.*\.)?(?:{key})$")
    except re.error:
        return None


def _number(value: Any) -> float | None:
    """A finite number of the configuration."""
    if type(value) not in (int, float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
