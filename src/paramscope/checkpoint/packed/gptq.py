"""GPTQ weights: integer codes of 2, 3, 4 or 8 bits, with scales and zero points per group.

    W[o, i] = scales[g, o] · (q[i, o] − z[g, o]),    g = g_idx[i], or ⌊i / group size⌋

`qweight` holds q as 32-bit words packed along the inputs, shape (⌈in·bits/32⌉, out); `qzeros`
holds z packed along the outputs, shape (groups, ⌈out·bits/32⌉). Codes follow each other from the
lowest bits up; those of 3 bits straddle words. The format `gptq` stores z − 1, `gptq_v2` stores z.
With activation order, `g_idx` says which group each input belongs to.

Source: `nn_modules/qlinear/__init__.py` and `utils/model.py` of github.com/ModelCloud/GPTQModel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from paramscope.checkpoint import (
    Float32,
    PackedTensor,
    ReadElements,
    StoredTensor,
    Window,
    packed_tensor,
    refused_tensor,
)
from paramscope.checkpoint.packed.bits import (
    WORD_BITS,
    Small,
    codes_per_period,
    read_words,
    unpack,
    words_per_period,
)
from paramscope.checkpoint.packed.groups import (
    FLOATS,
    decode_by_inputs,
    floats,
    found,
    method_of,
    settings_of,
    whole,
)
from paramscope.checkpoint.packed.leftover import Leftover
from paramscope.errors import CheckpointError

_BITS = (2, 3, 4, 8)
# What is added to a stored zero point, per checkpoint format.
_ZERO_OFFSETS = {"gptq": 1, "gptq_v2": 0}


@dataclass(frozen=True, slots=True)
class _Layer:
    """One weight (outputs, inputs); `groups` is None where groups are runs of inputs."""

    codes: StoredTensor
    zeros: StoredTensor
    scales: StoredTensor
    groups: StoredTensor | None
    bits: int
    group_size: int
    zero_offset: int
    outputs: int
    inputs: int

    @property
    def parts(self) -> tuple[StoredTensor, ...]:
        parts = (self.codes, self.zeros, self.scales)
        return parts if self.groups is None else (*parts, self.groups)


def find(leftover: Leftover) -> Iterator[PackedTensor]:
    """Weights whose codes are a `qweight`, unless the configuration names another method."""
    settings = settings_of(leftover, "quantize_config.json")
    if method_of(settings) not in ("gptq", ""):
        return
    for stem, _, codes in leftover.ending(".qweight"):
        layer = _layer(leftover, stem, codes, settings)
        if isinstance(layer, str):
            yield refused_tensor(codes, f"GPTQ codes: {layer}")
        else:
            yield packed_tensor(
                f"{stem}.weight",
                (layer.outputs, layer.inputs),
                layer.parts,
                scheme=_label(layer, settings),
                decode=partial(_decode, layer),
                turned=True,
            )


def _label(layer: _Layer, settings: Mapping[str, Any]) -> str:
    group = "-1" if layer.group_size >= layer.inputs else str(layer.group_size)
    shuffled = settings.get("desc_act") is True and layer.groups is not None
    return f"gptq {layer.bits}-bit g{group}{' act-order' if shuffled else ''}"


def _layer(
    leftover: Leftover, stem: str, codes: StoredTensor, settings: Mapping[str, Any]
) -> _Layer | str:
    """The weight that these codes belong to, or why there is none."""
    layout = _format_of(settings)
    if layout not in _ZERO_OFFSETS:
        return f"expected the checkpoint format gptq or gptq_v2, found {layout!r:.40}"
    beside = _scales_and_zeros(leftover, stem, codes)
    if isinstance(beside, str):
        return beside
    scales, zeros, bits = beside
    words, outputs = codes.shape
    told = None if settings.get("dynamic") else whole(settings, "bits")
    if told not in (None, bits):
        return f"expected {told} bits, as the configuration says, found {bits} in the shapes"
    groups = leftover.get(f"{stem}.g_idx")
    inputs = words * WORD_BITS // bits if groups is None else groups.numel
    fits = words == -(-inputs * bits // WORD_BITS) and words % words_per_period(bits) == 0
    if not fits or (groups is not None and groups.dtype.name not in ("I32", "I64")):
        return f"expected a group for each of {words} words' inputs, found {found(groups)}"
    size = _group_size(scales.shape[0], inputs, groups, settings)
    if isinstance(size, str):
        return size
    offset = _ZERO_OFFSETS[layout]
    return _Layer(codes, zeros, scales, groups, bits, size, offset, outputs, inputs)


def _scales_and_zeros(
    leftover: Leftover, stem: str, codes: StoredTensor
) -> tuple[StoredTensor, StoredTensor, int] | str:
    """Scales, zero points, and the width of the codes that their shapes give; or what is amiss."""
    if codes.dtype.name not in ("I32", "U32") or len(codes.shape) != 2 or not codes.numel:
        return f"expected 32-bit words in two dimensions, found {found(codes)}"
    outputs = codes.shape[1]
    scales = leftover.get(f"{stem}.scales", *FLOATS)
    if scales is None or len(scales.shape) != 2 or scales.shape[1] != outputs or not scales.numel:
        beside = found(leftover.get(f"{stem}.scales"))
        return f"expected {stem}.scales of shape (groups, {outputs}), found {beside}"
    groups = scales.shape[0]
    zeros = leftover.get(f"{stem}.qzeros", "I32", "U32")
    bits = None if zeros is None else _bits_of(zeros, outputs, groups)
    if zeros is None or bits is None:
        beside = found(leftover.get(f"{stem}.qzeros"))
        return (
            f"expected {stem}.qzeros of 32-bit words ({groups}, {outputs}·bits/32) with bits "
            f"2, 3, 4 or 8, found {beside}"
        )
    return scales, zeros, bits


def _format_of(settings: Mapping[str, Any]) -> str:
    if settings.get("is_marlin_format") is True:
        return "marlin"
    layout = settings.get("checkpoint_format") or settings.get("format") or "gptq"
    return str(layout).lower()


def _bits_of(zeros: StoredTensor, outputs: int, groups: int) -> int | None:
    """The width of the codes, which the zero points' shape gives."""
    for bits in _BITS:
        words = -(-outputs * bits // WORD_BITS)
        if zeros.shape == (groups, words) and words % words_per_period(bits) == 0:
            return bits
    return None


def _group_size(
    groups: int, inputs: int, index: StoredTensor | None, settings: Mapping[str, Any]
) -> int | str:
    """How many inputs share a scale, or how the configuration contradicts the shapes."""
    told = None if settings.get("dynamic") else whole(settings, "group_size")
    size = -(-inputs // groups) if told is None else told
    if told is not None and told <= 0:
        size = inputs
    if -(-inputs // size) != groups:
        return f"expected {-(-inputs // size)} groups of {size} of {inputs} inputs, found {groups}"
    if index is None and settings.get("desc_act") is True and groups > 1:
        return "expected g_idx, since the inputs are in activation order, found none"
    return size


def _decode(layer: _Layer, read: ReadElements, window: Window) -> Float32:
    words = read_words(read, layer.codes, 0, layer.codes.numel).reshape(layer.codes.shape)
    words = words[:, window.rows]
    per_period, period = codes_per_period(layer.bits), words_per_period(layer.bits)

    def codes(start: int, stop: int) -> Small:
        last = -(-stop // per_period) * period
        block = words[start // per_period * period : last]
        return unpack(block, layer.bits, 0)[: stop - start]

    return decode_by_inputs(
        window,
        _groups(layer, read)[window.columns],
        _zeros(layer, read)[:, window.rows].astype(np.float32),
        floats(read, layer.scales)[:, window.rows],
        codes,
        per_period,
    )


def _groups(layer: _Layer, read: ReadElements) -> npt.NDArray[np.intp]:
    """The group of every input.

    Raises:
        CheckpointError: `g_idx` names a group that there is not.
    """
    index, count = layer.groups, layer.scales.shape[0]
    if index is None:
        return np.arange(layer.inputs, dtype=np.intp) // layer.group_size
    groups = read(index, 0, index.numel).astype(np.intp)
    if groups.min() < 0 or groups.max() >= count:
        raise CheckpointError(
            f"{index.file}: tensor {index.name!r}: expected groups from 0 to {count - 1}, found "
            f"{groups.min()} to {groups.max()}. The file is damaged; download it again."
        )
    return groups


def _zeros(layer: _Layer, read: ReadElements) -> Small:
    """The zero points, shape (groups, outputs).

    Of 2, 4 and 8 bits, whole words are added to, as the library does when it reads and when it
    writes: a zero point of 0, stored as −1, borrows from the next one.
    """
    words = read_words(read, layer.zeros, 0, layer.zeros.numel).reshape(layer.zeros.shape)
    straddling = WORD_BITS % layer.bits != 0
    if layer.zero_offset and not straddling:
        words = words + np.uint32((2**WORD_BITS - 1) // (2**layer.bits - 1))
    zeros = unpack(words, layer.bits, 1)
    if layer.zero_offset and straddling:
        zeros = (zeros + np.uint8(1)) & np.uint8(2**layer.bits - 1)
    return zeros[:, : layer.outputs]
