"""AWQ weights: integer codes of 4 bits, with scales and zero points per group of inputs.

    W[o, i] = (q[i, o] − z[g, o]) · scales[g, o],    g = ⌊i / group size⌋

The version `gemm` packs eight outputs into a word, the even ones in its lower half: `qweight` has
shape (in, out/8), `qzeros` (groups, out/8), `scales` (groups, out). The version `gemv` packs eight
inputs, in order: `qweight` (out, in/8), and zero points and scales of an output in one row, padded
to (out, width) and (out, 8·width).

Source: `modules/linear/gemm.py` and `gemv.py` of github.com/casper-hansen/AutoAWQ.
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
from paramscope.checkpoint.packed.bits import Small, Words, read_words, unpack
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

_BITS = 4
_PER_WORD = 8
# Which of eight outputs each place of a word holds, from the lowest bits up.
_GEMM_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One weight (outputs, inputs) in one of the two versions."""

    codes: StoredTensor
    zeros: StoredTensor
    scales: StoredTensor
    is_gemm: bool
    group_size: int
    outputs: int
    inputs: int


def find(leftover: Leftover) -> Iterator[PackedTensor]:
    """Weights whose codes are a `qweight`, where the configuration, or else the shape, says AWQ."""
    settings = settings_of(leftover, "quant_config.json")
    method = method_of(settings)
    if method not in ("awq", ""):
        return
    for stem, _, codes in leftover.ending(".qweight"):
        scales = leftover.get(f"{stem}.scales")
        if not method and not _looks_like_gemm(codes, scales):
            continue
        layer = _layer(leftover, stem, codes, settings)
        if isinstance(layer, str):
            yield refused_tensor(codes, f"AWQ codes: {layer}")
        else:
            size = "-1" if layer.group_size == layer.inputs else str(layer.group_size)
            yield packed_tensor(
                f"{stem}.weight",
                (layer.outputs, layer.inputs),
                (layer.codes, layer.zeros, layer.scales),
                scheme=f"awq {_BITS}-bit g{size}",
                decode=partial(_decode_gemm if layer.is_gemm else _decode_gemv, layer),
                by_rows=not layer.is_gemm,
                turned=True,
            )


def _looks_like_gemm(codes: StoredTensor, scales: StoredTensor | None) -> bool:
    if scales is None or len(codes.shape) != 2 or len(scales.shape) != 2:
        return False
    return codes.shape[1] * _PER_WORD == scales.shape[1]


def _layer(
    leftover: Leftover, stem: str, codes: StoredTensor, settings: Mapping[str, Any]
) -> _Layer | str:
    """The weight that these codes belong to, or why there is none."""
    version = str(settings.get("version") or settings.get("format") or "gemm").lower()
    if version not in ("gemm", "gemv"):
        return f"expected the version gemm or gemv, found {version!r:.40}"
    bits = whole(settings, "bits", "w_bit")
    if bits not in (None, _BITS):
        return f"expected {_BITS} bits, found {bits}"
    if codes.dtype.name not in ("I32", "U32") or len(codes.shape) != 2 or not codes.numel:
        return f"expected 32-bit words in two dimensions, found {found(codes)}"
    zeros = leftover.get(f"{stem}.qzeros", "I32", "U32")
    scales = leftover.get(f"{stem}.scales", *FLOATS)
    told = whole(settings, "group_size", "q_group_size")
    if scales is None or len(scales.shape) != 2 or not scales.numel:
        return f"expected {stem}.scales of 16-bit floats, found {found(scales)}"
    is_gemm = version == "gemm"
    outputs, inputs = codes.shape[::-1] if is_gemm else codes.shape
    outputs, inputs = (outputs * 8, inputs) if is_gemm else (outputs, inputs * 8)
    if told is None:
        told = inputs // scales.shape[0] if is_gemm else 0
    size = inputs if told < 0 else told
    if size <= 0 or inputs % size:
        return f"expected groups that divide {inputs} inputs, found groups of {size}"
    beside = _shapes(outputs, inputs // size, size, is_gemm=is_gemm)
    if zeros is None or (zeros.shape, scales.shape) != beside:
        return (
            f"expected {stem}.qzeros of 32-bit words {beside[0]} and {stem}.scales {beside[1]}, "
            f"found {found(leftover.get(f'{stem}.qzeros'))} and {found(scales)}"
        )
    return _Layer(codes, zeros, scales, is_gemm, size, outputs, inputs)


def _shapes(
    outputs: int, groups: int, group_size: int, *, is_gemm: bool
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The shapes of `qzeros` and `scales`; a row of the version `gemv` is padded."""
    if is_gemm:
        return (groups, outputs // _PER_WORD), (groups, outputs)
    multiple = {64: 2, 32: 4}.get(group_size, 1)
    width = -(-groups // (_PER_WORD * multiple)) * multiple
    return (outputs, width), (outputs, width * _PER_WORD)


def _decode_gemm(layer: _Layer, read: ReadElements, window: Window) -> Float32:
    first, last = window.row_start // _PER_WORD, -(-window.row_stop // _PER_WORD)
    rows = slice(window.row_start - first * _PER_WORD, window.row_stop - first * _PER_WORD)

    def outputs_of(words: Words) -> Small:
        return unpack(words, _BITS, 1, _GEMM_ORDER)[:, rows]

    words = read_words(read, layer.codes, 0, layer.codes.numel).reshape(layer.codes.shape)
    words = words[:, first:last]
    zeros = read_words(read, layer.zeros, 0, layer.zeros.numel).reshape(layer.zeros.shape)
    return decode_by_inputs(
        window,
        np.arange(window.column_start, window.column_stop, dtype=np.intp) // layer.group_size,
        outputs_of(zeros[:, first:last]).astype(np.float32),
        floats(read, layer.scales)[:, window.rows],
        lambda start, stop: outputs_of(words[start:stop]),
        1,
    )


def _decode_gemv(layer: _Layer, read: ReadElements, window: Window) -> Float32:
    def rows_of(tensor: StoredTensor) -> Words:
        width = tensor.shape[1]
        words = read_words(read, tensor, window.row_start * width, window.row_stop * width)
        return words.reshape(-1, width)

    width = layer.scales.shape[1]
    first, last = window.column_start // _PER_WORD, -(-window.column_stop // _PER_WORD)
    columns = slice(window.column_start - first * _PER_WORD, window.column_stop - first * _PER_WORD)
    values = unpack(rows_of(layer.codes)[:, first:last], _BITS, 1)[:, columns].astype(np.float32)
    groups = np.arange(window.column_start, window.column_stop) // layer.group_size
    values -= unpack(rows_of(layer.zeros), _BITS, 1)[:, groups]
    stored = read(layer.scales, window.row_start * width, window.row_stop * width)
    with np.errstate(all="ignore"):  # scales may be Inf or NaN
        scales = layer.scales.dtype.decode(stored).astype(np.float32).reshape(-1, width)
        values *= scales[:, groups]
    return values
