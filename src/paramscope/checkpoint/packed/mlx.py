"""MLX weights: codes of a few bits in 32-bit words along the inputs, with scales per group.

    affine                 W[o, i] = scales[o, g] · q[o, i] + biases[o, g]
    mxfp4, mxfp8, nvfp4    W[o, i] = scales[o, g] · value(q[o, i])

with g = ⌊i / group size⌋. Codes follow each other from the lowest bits of a row's words up. The
last three modes hold 4-bit (E2M1) or 8-bit (E4M3) floats, and scales of 8 bits: powers of two
(E8M0), or E4M3 for nvfp4.

Affine values are rounded to the dtype of the scales after the product and after the sum, as the
library computes them on a CPU.

Source: `mlx.core.quantize`, ml-explore.github.io/mlx, and `mlx/nn/layers/quantized.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from paramscope.checkpoint import (
    Float32,
    PackedTensor,
    ReadElements,
    StoredTensor,
    Window,
    packed_tensor,
    refused_tensor,
)
from paramscope.checkpoint.dtypes import DTYPES
from paramscope.checkpoint.packed.bits import (
    WORD_BITS,
    Words,
    codes_per_period,
    read_words,
    unpack,
    words_per_period,
)
from paramscope.checkpoint.packed.bitstream import MINIFLOATS
from paramscope.checkpoint.packed.groups import AT_ONCE, FLOATS, found, whole
from paramscope.checkpoint.packed.leftover import Leftover

_AFFINE_BITS = (1, 2, 3, 4, 5, 6, 8)
_AFFINE_GROUPS = (32, 64, 128)


@dataclass(frozen=True, slots=True)
class _Float:
    """A mode of small floats: its code's bits, its group size, what its scales are."""

    bits: int
    group_size: int
    scale: str


_FLOAT_MODES = {
    "mxfp4": _Float(4, 32, "F8_E8M0"),
    "mxfp8": _Float(8, 32, "F8_E8M0"),
    "nvfp4": _Float(4, 16, "F8_E4M3"),
}


@dataclass(frozen=True, slots=True)
class _Layer:
    """One weight (…, outputs, inputs); only the mode `affine` has biases."""

    codes: StoredTensor
    scales: StoredTensor
    biases: StoredTensor | None
    mode: str
    bits: int
    group_size: int

    @property
    def parts(self) -> tuple[StoredTensor, ...]:
        parts = (self.codes, self.scales)
        return parts if self.biases is None else (*parts, self.biases)

    @property
    def inputs(self) -> int:
        return self.scales.shape[-1] * self.group_size


def find(leftover: Leftover) -> Iterator[PackedTensor]:
    """Weights of 32-bit words, where scales are beside them or the configuration is MLX's."""
    settings = _settings(leftover)
    for stem, _, codes in leftover.ending(".weight"):
        beside = leftover.get(f"{stem}.scales")
        if codes.dtype.name != "U32" or len(codes.shape) < 2 or not (settings or beside):
            continue
        layer = _layer(leftover, stem, codes, settings)
        if isinstance(layer, str):
            yield refused_tensor(codes, f"MLX codes: {layer}")
        else:
            mode = f"{layer.bits}-bit" if layer.mode == "affine" else layer.mode
            yield packed_tensor(
                codes.name,
                (*codes.shape[:-1], layer.inputs),
                layer.parts,
                scheme=f"mlx {mode} g{layer.group_size}",
                decode=partial(_decode, layer),
                by_rows=True,
            )


def _settings(leftover: Leftover) -> Mapping[str, Any]:
    """What MLX writes: `quantization`, and a copy of it as `quantization_config`."""
    for node in (leftover.config.get("quantization"), leftover.quantization):
        if isinstance(node, dict) and "group_size" in node and "quant_method" not in node:
            return node
    return {}


def _layer(
    leftover: Leftover, stem: str, codes: StoredTensor, settings: Mapping[str, Any]
) -> _Layer | str:
    """The weight that these codes belong to, or why there is none."""
    own = settings.get(stem)
    how = _mode(own if isinstance(own, dict) else settings)
    if isinstance(how, str):
        return how
    mode, bits, size = how
    inputs = codes.shape[-1] * WORD_BITS // bits
    beside = (*codes.shape[:-1], inputs // size)
    if not codes.numel or inputs % size or codes.shape[-1] % words_per_period(bits):
        return f"expected rows of {bits}-bit codes in groups of {size}, found {found(codes)}"
    dtypes = FLOATS if mode == "affine" else ("U8",)
    scales = leftover.get(f"{stem}.scales", *dtypes)
    if scales is None or scales.shape != beside:
        there = found(leftover.get(f"{stem}.scales"))
        return f"expected {stem}.scales {'/'.join(dtypes)} {beside}, found {there}"
    if mode != "affine":
        return _Layer(codes, scales, None, mode, bits, size)
    biases = leftover.get(f"{stem}.biases", scales.dtype.name)
    if biases is None or biases.shape != beside:
        there = found(leftover.get(f"{stem}.biases"))
        return f"expected {stem}.biases {scales.dtype.name} {beside}, found {there}"
    return _Layer(codes, scales, biases, mode, bits, size)


def _mode(settings: Mapping[str, Any]) -> tuple[str, int, int] | str:
    """The mode, the bits of a code and the size of a group, or what is wrong with the settings."""
    bits, size = whole(settings, "bits"), whole(settings, "group_size")
    mode = settings.get("mode", "affine")
    floats = _FLOAT_MODES.get(mode) if isinstance(mode, str) else None
    if floats is not None:
        if (bits or floats.bits, size or floats.group_size) == (floats.bits, floats.group_size):
            return mode, floats.bits, floats.group_size
        known = f"{floats.bits} bits in groups of {floats.group_size}"
        return f"expected {known} in the mode {mode}, found {bits} in groups of {size}"
    if bits is None or size is None:
        return "expected bits and group_size in the configuration, found none"
    if mode != "affine":
        return f"expected the mode affine, {', '.join(_FLOAT_MODES)}, found {mode!r:.40}"
    if bits not in _AFFINE_BITS or size not in _AFFINE_GROUPS:
        return f"expected 1 to 8 bits in groups of 32, 64 or 128, found {bits} in groups of {size}"
    return mode, bits, size


def _decode(layer: _Layer, read: ReadElements, window: Window) -> Float32:
    """The window, from the whole periods and groups of its rows that it touches, some at a time."""
    step = max(layer.group_size, codes_per_period(layer.bits))
    first = window.column_start // step * step
    last = min(-(-window.column_stop // step) * step, layer.inputs)
    width = layer.codes.shape[-1]
    words = read_words(read, layer.codes, window.row_start * width, window.row_stop * width)
    across = slice(first * layer.bits // WORD_BITS, last * layer.bits // WORD_BITS)
    words = words.reshape(-1, width)[:, across]
    groups = slice(first // layer.group_size, last // layer.group_size)
    scales = _of_groups(layer.scales, _scale_dtype(layer), read, window, groups)
    biases = None
    if layer.biases is not None:
        biases = _of_groups(layer.biases, layer.biases.dtype.name, read, window, groups)
    values = np.empty(window.shape, np.float32)
    columns = slice(window.column_start - first, window.column_stop - first)
    at_once = max(1, AT_ONCE // (last - first))
    for start in range(0, len(values), at_once):
        rows = slice(start, start + at_once)
        beside = None if biases is None else biases[rows]
        values[rows] = _values(layer, words[rows], scales[rows], beside)[:, columns]
    return values


def _values(layer: _Layer, words: Words, scales: Float32, biases: Float32 | None) -> Float32:
    """Whole groups of some rows: words (rows, words), scales and biases (rows, groups)."""
    codes = unpack(words, layer.bits, 1)
    if biases is not None:
        values = codes.astype(np.float32)
    else:
        values = MINIFLOATS[4][codes] if layer.bits == 4 else _float32("F8_E4M3", codes)
    grouped = values.reshape(len(values), -1, layer.group_size)
    with np.errstate(all="ignore"):
        grouped *= scales[:, :, None]
        if biases is not None:
            _round_to(layer.scales.dtype.name, grouped)
            grouped += biases[:, :, None]
            _round_to(layer.scales.dtype.name, grouped)
    return values


def _scale_dtype(layer: _Layer) -> str:
    mode = _FLOAT_MODES.get(layer.mode)
    return layer.scales.dtype.name if mode is None else mode.scale


def _of_groups(
    tensor: StoredTensor, dtype: str, read: ReadElements, window: Window, groups: slice
) -> Float32:
    """Some groups' scales or biases in the window's rows, their codes taken for `dtype`'s."""
    width = tensor.shape[-1]
    stored = read(tensor, window.row_start * width, window.row_stop * width)
    return _float32(dtype, stored.reshape(-1, width)[:, groups])


def _float32(dtype: str, codes: np.ndarray[Any, Any]) -> Float32:
    with np.errstate(all="ignore"):
        return DTYPES[dtype].decode(codes).astype(np.float32)


def _round_to(dtype: str, values: Float32) -> None:
    """Round float32 values to a 16-bit dtype, to the nearest, ties to even; in place."""
    if dtype == "F16":
        values[...] = values.astype(np.float16)
    elif dtype == "BF16":
        bits = values.view(np.uint32)
        finite = np.isfinite(values)
        np.add(
            bits,
            np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)),
            out=bits,
            where=finite,
        )
        bits &= np.uint32(0xFFFF0000)
