"""What the splits need to know of `config.json`: heads and widths, for each tower."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from paramscope.anatomy.families import DIMENSIONS, SIGNS
from paramscope.anatomy.names import labels as tower_labels

# Towers whose numbers are never those of the config's top level, where it has sub-configs.
_MODAL = frozenset({"vision", "audio", "video"})


class Facts:
    """The config of one tower, under one set of words.

    Looks a number up in the tower's own sub-config, and never in another tower's.
    """

    def __init__(self, node: Mapping[str, Any], *, side: str, model_types: Iterable[str]) -> None:
        self._node = node
        self._side = side
        self.model_types = tuple(model_types)

    @property
    def heads(self) -> int | None:
        """Query heads, H."""
        return self._dimension("heads")

    @property
    def groups(self) -> int | None:
        """Key-value heads, G; as many as query heads where the config names none."""
        return self._dimension("groups") or self.heads

    @property
    def hidden(self) -> int | None:
        """Width of the residual stream."""
        return self._dimension("hidden")

    @property
    def experts(self) -> int | None:
        """Routed experts per layer."""
        return self._dimension("experts")

    @property
    def has_groups(self) -> bool:
        """Whether the config says how many key-value heads there are."""
        return self._dimension("groups") is not None

    @property
    def own_head_dim(self) -> int | None:
        """Width of one head, where the config says it."""
        return self._dimension("head_dim")

    @property
    def head_dim(self) -> int | None:
        """Width of one head; hidden / heads where the config does not say."""
        hidden, heads = self.hidden, self.heads
        fallback = hidden // heads if hidden and heads and hidden % heads == 0 else None
        return self.own_head_dim or fallback

    def value(self, key: str) -> Any:
        """A config value by its own name, or None."""
        return self._node.get(key)

    def number(self, *keys: str) -> int | None:
        """The first of the keys that holds an integer; `attn_config.x` looks one level down."""
        for key in keys:
            node: Any = self._node
            for part in key.split("."):
                node = node.get(part) if isinstance(node, Mapping) else None
            if type(node) is int:
                return node
        return None

    def _dimension(self, name: str) -> int | None:
        keys = DIMENSIONS[name]
        sided = [f"{self._side}_{key}" for key in keys] if self._side else []
        return self.number(*sided, *keys)


def facts_for(
    config: Mapping[str, Any], labels: Sequence[str], *, signs: Sequence[str] = ()
) -> Facts:
    """The part of the config that speaks of the tower with these labels.

    `signs` are model types that the tensors themselves give away.
    """
    node: Mapping[str, Any] = config
    types = [_model_type(config), *signs]
    descended = False
    for label in labels:
        below = _sub_config(node, label)
        if below is not None:
            node, descended = below, True
            types.append(_model_type(node))
    if not descended and _MODAL.intersection(labels) and _sub_configs(config):
        node = {}
    if not any(node.get(key) for key in DIMENSIONS["hidden"]):
        below = _sub_config(node, "text")
        if below is not None:
            node = below
            types.append(_model_type(node))
    side = next((label for label in labels if label in ("encoder", "decoder")), "")
    return Facts(node, side=side, model_types=(kind for kind in types if kind))


def signs_of(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Model types that the names and shapes of a checkpoint give away."""
    found: list[str] = []
    for pattern, ratio, model_type in SIGNS:
        fits = re.compile(pattern).fullmatch
        for name, shape in shapes.items():
            if len(shape) == 2 and shape[0] == round(shape[1] * ratio) and fits(name):
                found.append(model_type)
                break
    return tuple(found)


def _sub_configs(node: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Sub-configs of a node that describe a model, by their tower's word."""
    found: dict[str, Mapping[str, Any]] = {}
    for key, value in node.items():
        if isinstance(value, Mapping) and (key.endswith("_config") or "model_type" in value):
            words = tower_labels((key.removesuffix("_config"),))
            found.setdefault(words[0] if words else "text", value)
    return found


def _sub_config(node: Mapping[str, Any], label: str) -> Mapping[str, Any] | None:
    found = _sub_configs(node)
    if label in found:
        return found[label]
    for wrapper in ("thinker", "talker"):
        if wrapper in found and label in _sub_configs(found[wrapper]):
            return _sub_configs(found[wrapper])[label]
    return None


def _model_type(node: Mapping[str, Any]) -> str:
    kind = node.get("model_type")
    return kind if isinstance(kind, str) else ""
