"""FP8 weights with scales: per tensor, per output channel, or per block.

    w = code · scale        the scale of the tensor, of the row, or of the block

`weight_scale_inv` holds factors too, despite its name. The last blocks may be partial. Scales
of activations (`input_scale`, `activation_scale`) are no part of the weight.

Source: `inference/kernel.py` of github.com/deepseek-ai/DeepSeek-V3; of transformers the
integrations `finegrained_fp8.py` (also for stacks of experts and the names that it maps:
`.scale` of DeepSeek-V4, `.qscale_weight` of Mistral) and `fbgemm_fp8.py` (stacks stored inputs
first, one scale per column); compressed-tensors `naive_quantized/base.py`, `mxfp8/base.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
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
from paramscope.checkpoint.packed.arguments import block_sizes
from paramscope.checkpoint.packed.grid import (
    EXPONENTS,
    PER_CHANNEL,
    PER_COLUMN,
    PER_TENSOR,
    WHOLE,
    Block,
    Grid,
    grids,
    misfit,
    scaled,
)
from paramscope.checkpoint.packed.leftover import Leftover

_FP8 = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
_SCALES = ("F32", "BF16", "F16", *EXPONENTS)
_DEFAULT_BLOCK = (128, 128)
_MX_BLOCK = (1, 32)  # of scales that are exponents


@dataclass(frozen=True, slots=True)
class _Form:
    """How the name of the codes ends, and that of their scales."""

    codes: str
    scales: str
    by_column: bool = False


_FORMS = (
    _Form(".weight", ".weight_scale_inv"),
    _Form(".weight", ".weight_scale"),
    _Form(".weight", ".scale"),
    _Form(".weight", ".qscale_weight"),
    _Form("_proj", "_proj_scale_inv"),
    _Form("_proj", "_proj_scale", by_column=True),
)


def find(leftover: Leftover) -> Iterator[PackedTensor]:
    """Weights in FP8 whose scales are beside them."""
    configured = list(block_sizes(leftover.quantization))
    for codes in leftover.tensors.values():
        if codes.dtype.name not in _FP8:
            continue
        for form in _FORMS:
            scales = leftover.get(codes.name.removesuffix(form.codes) + form.scales)
            if scales is not None and codes.name.endswith(form.codes):
                yield _weight(leftover, codes, scales, _blocks(form, codes, scales, configured))
                break


def _blocks(
    form: _Form, codes: StoredTensor, scales: StoredTensor, configured: list[Block]
) -> list[Block]:
    """The sizes of blocks that come into question."""
    if form.by_column:
        return [PER_COLUMN]
    blocks = [*(configured or [_DEFAULT_BLOCK]), PER_TENSOR, PER_CHANNEL]
    if scales.dtype.name in EXPONENTS:
        blocks.append(_MX_BLOCK)
    if codes.name.endswith("gate_up_proj") and not configured and codes.shape[-2:-1] > (1,):
        # One scale per expert is one for its gate and one for its up, the halves of the rows.
        blocks.append((-(-codes.shape[-2] // 2), WHOLE))
    return blocks


def _weight(
    leftover: Leftover, codes: StoredTensor, scales: StoredTensor, blocks: list[Block]
) -> PackedTensor:
    if scales.dtype.name not in _SCALES:
        return refused_tensor(
            codes,
            f"{scales.name}: expected scales in {', '.join(_SCALES)}, found {scales.dtype.name}",
        )
    if leftover.get(f"{codes.name}_zero_point"):
        return refused_tensor(codes, f"{codes.name}_zero_point: FP8 with zero points is not read")
    found = grids(_in_columns(scales) if blocks == [PER_COLUMN] else scales, codes.shape, blocks)
    if len(found) != 1:
        return refused_tensor(codes, misfit(scales, codes.shape, blocks, found))
    return packed_tensor(
        codes.name,
        codes.shape,
        (codes, scales),
        scheme=f"fp8 {codes.dtype.name.removeprefix('F8_').lower()} {found[0].label}",
        decode=partial(_decode, codes, found[0]),
        by_rows=True,
    )


def _in_columns(scales: StoredTensor) -> StoredTensor:
    """The same numbers, one per column: (experts, columns, 1) is (experts, 1, columns)."""
    if len(scales.shape) == 3 and scales.shape[-1] == 1:
        return replace(scales, shape=(scales.shape[0], 1, scales.shape[1]))
    return scales


def _decode(codes: StoredTensor, scales: Grid, read: ReadElements, window: Window) -> Float32:
    columns = (1, *codes.shape)[-1]
    rows = read(codes, window.row_start * columns, window.row_stop * columns)
    block = rows.reshape(-1, columns)[:, window.columns]
    table = codes.dtype.values().astype(np.float32)
    return scaled(table[block], scales.at(read, window))
