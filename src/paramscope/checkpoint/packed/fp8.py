"""FP8 weights with scales: per tensor, per output channel, or per block.

    w = code · scale        the scale of the tensor, of the row, or of the block

`weight_scale_inv` (DeepSeek-V3) holds factors too, despite its name: block (i, j) of `weight`
is multiplied by element (i, j). The last blocks may be partial.

Source: `inference/kernel.py` of github.com/deepseek-ai/DeepSeek-V3.
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
)
from paramscope.checkpoint.packed.leftover import Leftover

_BLOCK = 128


def find(leftover: Leftover) -> Iterator[PackedTensor]:
    """Weights in FP8 whose scales are beside them."""
    for stem, _, codes in leftover.ending(".weight"):
        scales = leftover.get(f"{stem}.weight_scale_inv", "F32", "BF16")
        if codes.dtype.name != "F8_E4M3" or scales is None or len(codes.shape) != 2:
            continue
        blocks = tuple(-(-size // _BLOCK) for size in codes.shape)
        if scales.shape == blocks:
            yield packed_tensor(
                codes.name,
                codes.shape,
                (codes, scales),
                scheme=f"fp8 e4m3, blocks of {_BLOCK}×{_BLOCK}",
                decode=partial(_decode_blocks, codes, scales),
                by_rows=True,
            )


def _decode_blocks(
    codes: StoredTensor, scales: StoredTensor, read: ReadElements, window: Window
) -> Float32:
    columns = codes.shape[-1]
    block = read(codes, window.row_start * columns, window.row_stop * columns)
    values = codes.dtype.decode(block.reshape(-1, columns)[:, window.columns]).astype(np.float32)
    factors = scales.dtype.decode(read(scales, 0, scales.numel)).reshape(scales.shape)
    rows = np.arange(window.row_start, window.row_stop) // _BLOCK
    across = np.arange(window.column_start, window.column_stop) // _BLOCK
    return values * factors.astype(np.float32)[rows[:, None], across]
