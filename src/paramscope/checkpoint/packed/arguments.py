"""How a configuration says that weights were quantised, as compressed-tensors writes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from paramscope.checkpoint.packed.grid import PER_CHANNEL, PER_TENSOR, Block


@dataclass(frozen=True, slots=True)
class Arguments:
    """The quantisation of one group of weights.

    Attributes:
        bits: of a code.
        kind: "int" or "float".
        block: the elements that share a scale.
        symmetric: whether there are no zero points.
    """

    bits: int
    kind: str
    block: Block
    symmetric: bool


def weight_arguments(quantization: Mapping[str, Any]) -> list[Arguments]:
    """The different quantisations that the groups of a configuration name.

    A group that does not say all that is needed, or says it in another way, is left out.

    Source: compressed-tensors `quantization/quant_args.py`, `quant_scheme.py`.
    """
    groups = quantization.get("config_groups")
    nodes = groups.values() if isinstance(groups, dict) else ()
    weights = (node.get("weights") for node in nodes if isinstance(node, dict))
    found = (_arguments(node) for node in weights if isinstance(node, dict))
    return list(dict.fromkeys(arguments for arguments in found if arguments is not None))


def block_sizes(quantization: Mapping[str, Any]) -> Iterator[Block]:
    """The sizes of blocks that a configuration names, in any of the ways it may."""
    block = _pair(quantization.get("weight_block_size"))
    if block is not None:
        yield block
    for arguments in weight_arguments(quantization):
        if arguments.block not in (PER_TENSOR, PER_CHANNEL):
            yield arguments.block


def _arguments(node: Mapping[str, Any]) -> Arguments | None:
    bits, kind = node.get("num_bits", 8), str(node.get("type", "int")).lower()
    block = _block(node)
    symmetric = node.get("symmetric", True)
    if type(bits) is not int or not 1 <= bits <= 8 or block is None:
        return None
    return Arguments(bits, kind, block, symmetric is not False)


def _block(node: Mapping[str, Any]) -> Block | None:
    """The block of a strategy; where none is named, the size of the group tells it."""
    size, strategy = node.get("group_size"), node.get("strategy")
    if strategy is None:
        strategy = {None: "tensor", -1: "channel"}.get(size, "group") if _plain(size) else ""
    match str(strategy).lower():
        case "tensor":
            return PER_TENSOR
        case "channel":
            return PER_CHANNEL
        case "block":
            return _pair(node.get("block_structure"))
        case "group" | "tensor_group":
            return (1, size) if type(size) is int and size > 0 else None
    return None


def _plain(size: Any) -> bool:
    return size is None or type(size) is int


def _pair(value: Any) -> Block | None:
    """Two positive integers, as a list or as `128x128`."""
    if isinstance(value, str):
        value = [int(part) if part.isdecimal() else 0 for part in value[:40].split("x")]
    if not isinstance(value, list) or len(value) != 2:
        return None
    if not all(type(part) is int and part > 0 for part in value):
        return None
    return value[0], value[1]
