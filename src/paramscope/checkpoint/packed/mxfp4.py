"""Microscaling FP4 and FP6 weights: 32 codes share a scale that is a power of two.

    w = value[code] · 2^(scale - 127)

The experts of gpt-oss are stored as rows of outputs, and are used with the inputs first: the
weight has the shape (experts, in, out) that the model without quantisation gives it.

Source: OCP Microscaling formats v1.0; transformers `integrations/mxfp4.py` for gpt-oss and
`integrations/finegrained_fp8.py` for the FP4 experts of DeepSeek-V4; compressed-tensors
`mxfp4/base.py`, `mxfp6/helpers.py`; NVIDIA ModelOpt `qtensor/mxfp4_tensor.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

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
from paramscope.checkpoint.packed.bitstream import MINIFLOATS, codes_of, elements
from paramscope.checkpoint.packed.grid import EXPONENTS, Grid, grids, scaled
from paramscope.checkpoint.packed.leftover import Leftover, by_item

_GROUP = 32
_GPT_OSS = ("_proj_blocks", "_proj_scales", "_proj")

# How the codes end, their scales, the weight that they make up, and how many bits a code may have.
_FORMS = (
    (".weight_packed", ".weight_scale", ".weight", (4, 6)),
    (".weight", ".weight_scale", ".weight", (4,)),
    (".weight", ".weight_scale_inv", ".weight", (4,)),
    (".weight", ".scale", ".weight", (4,)),
    ("_proj", "_proj_scale_inv", "_proj", (4,)),
)
_LABELS = {4: "mxfp4 g32", 6: "mxfp6 g32"}


def find(leftover: Leftover) -> Iterator[PackedTensor]:
    """Weights in FP4 or FP6 whose scales are exponents."""
    for codes in leftover.tensors.values():
        if codes.dtype.name == "U8" and codes.name.endswith(_GPT_OSS[0]):
            yield _stack(leftover, codes)
        elif codes.dtype.name in ("U8", "I8"):
            yield from _rows(leftover, codes)


def _rows(leftover: Leftover, codes: StoredTensor) -> Iterator[PackedTensor]:
    """Codes (…, rows, bytes) with scales (…, rows, columns / 32)."""
    for codes_ending, scales_ending, ending, widths in _FORMS:
        stem = codes.name.removesuffix(codes_ending)
        scales = leftover.get(stem + scales_ending, *EXPONENTS)
        if stem == codes.name or scales is None or not codes.numel:
            continue
        columns = _GROUP * (0, *scales.shape)[-1]
        bits = next((b for b in widths if columns * b == 8 * (0, *codes.shape)[-1]), None)
        shape = (*codes.shape[:-1], columns)
        found = grids(scales, shape, [(1, _GROUP)]) if bits else []
        if bits is None or len(found) != 1 or len(scales.shape) != len(shape):
            yield refused_tensor(
                codes,
                f"{scales.name}: expected one scale per 32 codes of "
                f"{' or '.join(map(str, widths))} bits beside {codes.shape}, found {scales.shape}",
            )
        else:
            yield packed_tensor(
                stem + ending,
                shape,
                (codes, scales),
                scheme=_LABELS[bits],
                decode=partial(_decode, codes, bits, found[0]),
                by_rows=True,
            )
        return


def _decode(
    codes: StoredTensor, bits: int, scales: Grid, read: ReadElements, window: Window
) -> Float32:
    values = MINIFLOATS[bits][codes_of(codes, bits, read, window)]
    return scaled(values, scales.at(read, window))


def _stack(leftover: Leftover, codes: StoredTensor) -> PackedTensor:
    """Experts of gpt-oss: blocks (experts, out, in / 32, 16), scales (experts, out, in / 32)."""
    stem = codes.name.removesuffix(_GPT_OSS[0])
    scales = leftover.get(stem + _GPT_OSS[1], "U8")
    if scales is None:
        return refused_tensor(
            codes, f"FP4 codes without scales: {stem}{_GPT_OSS[1]} is not there in U8"
        )
    shape = codes.shape
    if len(shape) != 4 or shape[3] != _GROUP // 2 or not codes.numel or scales.shape != shape[:3]:
        return refused_tensor(
            codes,
            f"{scales.name}: expected blocks (experts, out, in / 32, 16) and scales of the first "
            f"three of these, found {shape} and {scales.shape}",
        )
    experts, outputs, inputs = shape[0], shape[1], shape[2] * _GROUP
    (grid,) = grids(scales, (experts, outputs, inputs), [(1, _GROUP)])
    return packed_tensor(
        stem + _GPT_OSS[2],
        (experts, inputs, outputs),
        (codes, scales),
        scheme=_LABELS[4],
        decode=partial(_decode_inputs_first, codes, grid),
    )


def _decode_inputs_first(
    codes: StoredTensor, scales: Grid, read: ReadElements, window: Window
) -> Float32:
    """A window of (experts · in, out); of each expert that it touches all codes are read."""
    _, outputs, groups, width = codes.shape
    size = outputs * groups * width
    values = np.empty(window.shape, np.float32)
    done = 0
    for expert, part in by_item(window, groups * _GROUP):
        block = read(codes, expert * size, (expert + 1) * size).reshape(outputs, -1)
        nibbles = elements(block[part.columns], 4, part.row_start, part.row_stop)
        stored = Window(
            expert * outputs + part.column_start,
            expert * outputs + part.column_stop,
            part.row_start,
            part.row_stop,
        )
        rows = part.row_stop - part.row_start
        decoded = scaled(MINIFLOATS[4][nibbles], scales.at(read, stored))
        values[done : done + rows] = decoded.T
        done += rows
    return values
