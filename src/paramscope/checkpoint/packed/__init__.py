"""Packed weights: codes with scales, or factors, become the weights that the model has.

A scheme is one module with one function, `find`, and one row of `SCHEMES`. It looks at the names,
dtypes and shapes of the stored tensors, never at their elements, and says which of them make up
which weight, and how a window of that weight is decoded. A stored tensor that no scheme claims
stays as it is: codes are refused then, never cast.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from paramscope.checkpoint import PackedTensor, ReadElements, StoredTensor, refused_tensor
from paramscope.checkpoint.packed import (
    awq,
    bitsandbytes,
    compressed_tensors,
    fp8,
    gptq,
    lora,
    mlx,
    mxfp4,
    not_read,
    nvfp4,
)
from paramscope.checkpoint.packed.leftover import Leftover

# In this order: a scheme sees what those before it have left.
SCHEMES: tuple[Callable[[Leftover], Iterable[PackedTensor]], ...] = (
    fp8.find,
    nvfp4.find,
    mxfp4.find,
    compressed_tensors.find,
    bitsandbytes.find,
    awq.find,
    gptq.find,
    mlx.find,
    lora.find,
    not_read.find,
)


def unpack(
    stored: Sequence[StoredTensor],
    config: Mapping[str, Any],
    *,
    read: ReadElements,
    read_json: Callable[[str], Any],
) -> tuple[StoredTensor, ...]:
    """Every tensor as the model has it, in the order of the files.

    Args:
        stored: the stored tensors of one checkpoint.
        config: its `config.json`, or {}.
        read: reads elements of a stored tensor, for the few whose content says how others lie.
        read_json: reads a small JSON file of the checkpoint, None where there is none.

    Returns:
        Tensors that together own each stored tensor exactly once; a weight stands where its codes
        stood.
    """
    if not any(map(_may_be_a_part, stored)):
        return tuple(stored)
    left = {tensor.name: tensor for tensor in stored}
    packed: dict[str, PackedTensor] = {}  # by the name of the codes
    names = set(left)
    for find in SCHEMES:
        leftover = Leftover(dict(left), config, read, read_json)
        for found in find(leftover):
            weight = _alone(found, left, names)
            for part in weight.parts:
                del left[part.name]
            packed[weight.parts[0].name] = weight
            names.add(weight.name)
    return tuple(_in_order(stored, left, packed))


def _may_be_a_part(tensor: StoredTensor) -> bool:
    """Whether a packed weight may be made of it: every scheme has codes, or states of its own."""
    return tensor.dtype.kind != "float" or "lora" in tensor.name or "quant" in tensor.name


def _alone(
    weight: PackedTensor, left: Mapping[str, StoredTensor], names: Collection[str]
) -> PackedTensor:
    """The weight; refused where its name or one of its parts belongs to another one too."""
    codes = weight.parts[0]
    if weight.name != codes.name and weight.name in names:
        return refused_tensor(codes, f"decoded it is {weight.name!r}, and there is one already")
    shared = next((part.name for part in weight.parts if part.name not in left), None)
    if shared is not None:
        return refused_tensor(codes, f"{shared!r} belongs to another weight too")
    return weight


def _in_order(
    stored: Sequence[StoredTensor],
    left: Mapping[str, StoredTensor],
    packed: Mapping[str, PackedTensor],
) -> Iterator[StoredTensor]:
    for tensor in stored:
        if tensor.name in packed:
            yield packed[tensor.name]
        elif tensor.name in left:
            yield tensor
