"""NVFP4 weights: 16 FP4 codes share a scale in FP8, and all of them one in float32.

    w = value[code] · (scale / global)        as compressed-tensors stores it
    w = value[code] · (scale · global)        as NVIDIA ModelOpt stores it

Source: compressed-tensors `nvfp4/base.py`, `quantization/lifecycle/forward_helpers.py`; NVIDIA
ModelOpt `quantization/qtensor/nvfp4_tensor.py`. Both compute in float32, in this order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
from paramscope.checkpoint.packed.bitstream import MINIFLOATS, codes_of
from paramscope.checkpoint.packed.grid import PER_TENSOR, Grid, grids, scaled
from paramscope.checkpoint.packed.leftover import Leftover

_GROUP = 16


@dataclass(frozen=True, slots=True)
class _Form:
    """How the names of the codes and of the global scale end, and what is done with the latter."""

    codes: str
    common: str
    divides: bool


_FORMS = (
    _Form(".weight_packed", ".weight_global_scale", divides=True),
    _Form(".weight", ".weight_scale_2", divides=False),
)


def find(leftover: Leftover) -> Iterator[PackedTensor]:
    """Weights in FP4 whose scales are FP8, one per 16."""
    for form in _FORMS:
        for stem, _, codes in leftover.ending(form.codes):
            scales = leftover.get(f"{stem}.weight_scale", "F8_E4M3")
            if codes.dtype.name == "U8" and scales is not None:
                yield _weight(stem, form, codes, scales, leftover.get(stem + form.common))


def _weight(
    stem: str,
    form: _Form,
    codes: StoredTensor,
    scales: StoredTensor,
    common: StoredTensor | None,
) -> PackedTensor:
    if common is None or common.dtype.name != "F32":
        found = "is not there" if common is None else f"is {common.dtype.name}, expected F32"
        return refused_tensor(
            codes, f"FP4 codes without their global scale: {stem}{form.common} {found}"
        )
    shape = (*codes.shape[:-1], 2 * (0, *codes.shape)[-1])
    whole = grids(common, shape, [PER_TENSOR])
    fitting = grids(scales, shape, [(1, _GROUP)]) if shape[-1] % _GROUP == 0 else []
    if len(fitting) != 1 or len(whole) != 1 or len(scales.shape) != len(shape):
        return refused_tensor(
            codes,
            f"{scales.name}: expected one scale per 16 codes beside {codes.shape}, and one for "
            f"all, found {scales.shape} and {common.shape}",
        )
    return packed_tensor(
        f"{stem}.weight",
        shape,
        (codes, scales, common),
        scheme="nvfp4 g16",
        decode=partial(_decode, codes, fitting[0], whole[0], form.divides),
        by_rows=True,
    )


def _decode(
    codes: StoredTensor,
    scales: Grid,
    common: Grid,
    divides: bool,
    read: ReadElements,
    window: Window,
) -> Float32:
    factors, whole = scales.at(read, window), common.at(read, window)
    with np.errstate(all="ignore"):
        factors = factors / whole if divides else factors * whole
    return scaled(MINIFLOATS[4][codes_of(codes, 4, read, window)], factors)
