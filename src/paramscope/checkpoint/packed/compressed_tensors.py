"""Integer weights of compressed-tensors: codes in I8, or packed close together in I32.

    w = (code - zero_point) · scale

`weight_packed` (rows, words) holds codes of 1 to 8 bits, dense, as unsigned numbers, 2^(bits-1)
above the signed ones; `weight_zero_point`, where it is I32, holds its own in the same way along
the rows. `weight_g_idx` gives the group of each column where the groups do not lie together. How
many bits and how large the groups are stands in the configuration; of several quantisations
there, the one that fits the shapes is meant.

Source: compressed-tensors `pack_quantized/{base,helpers}.py`, `naive_quantized/base.py`,
`quantization/lifecycle/forward_helpers.py`; for `weight_g_idx` `lifecycle/forward.py` of 0.9.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

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
from paramscope.checkpoint.packed.arguments import Arguments, weight_arguments
from paramscope.checkpoint.packed.bitstream import codes_of, elements
from paramscope.checkpoint.packed.grid import Grid, grids, scaled
from paramscope.checkpoint.packed.leftover import Leftover

_SCALES = ("F32", "BF16", "F16")
_SPARSE = "the values that are not zero, of a sparse format (2:4, bitmask) that is not read"


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the codes of one weight lie, and what goes with them.

    Attributes:
        offset: what an unsigned code is above the signed one.
        zero_points: as numbers, or the tensor that holds them in words along the rows.
        g_idx: the group of each column.
    """

    codes: StoredTensor
    shape: tuple[int, int]
    bits: int
    offset: int
    scales: Grid
    zero_points: Grid | StoredTensor | None = None
    g_idx: StoredTensor | None = None


def find(leftover: Leftover) -> Iterator[PackedTensor]:
    """Integer weights with their scales; what is packed in a way that is not read is refused."""
    for stem, _, tensor in leftover.ending(".compressed"):
        if leftover.get(f"{stem}.bitmask"):
            yield refused_tensor(tensor, _SPARSE)
    arguments = [found for found in weight_arguments(leftover.quantization) if found.kind == "int"]
    for stem, _, codes in leftover.ending(".weight_packed"):
        yield _weight(leftover, stem, codes, arguments)
    if leftover.quantization.get("quant_method") != "compressed-tensors":
        return
    for stem, _, codes in leftover.ending(".weight"):
        if codes.dtype.name == "I8" and leftover.get(f"{stem}.weight_scale"):
            yield _weight(leftover, stem, codes, arguments)


def _weight(
    leftover: Leftover, stem: str, codes: StoredTensor, arguments: Sequence[Arguments]
) -> PackedTensor:
    found = _layout(leftover, stem, codes, arguments)
    if isinstance(found, str):
        return refused_tensor(codes, found)
    beside = ("weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")
    parts = [leftover.get(f"{stem}.{name}") for name in beside]
    return packed_tensor(
        f"{stem}.weight",
        found.shape,
        (codes, *(part for part in parts if part is not None)),
        scheme=f"compressed-tensors int{found.bits} {found.scales.label}",
        decode=partial(_decode, found),
        by_rows=True,
    )


def _layout(
    leftover: Leftover, stem: str, codes: StoredTensor, arguments: Sequence[Arguments]
) -> _Layout | str:
    """The one layout that fits what is stored, or why there is none."""
    if leftover.get(f"{stem}.scale_packed"):
        return _SPARSE
    scales = leftover.get(f"{stem}.weight_scale")
    if scales is None or scales.dtype.name not in _SCALES:
        found = "none" if scales is None else scales.dtype.name
        return f"{stem}.weight_scale: expected scales in {', '.join(_SCALES)}, found {found}"
    if codes.dtype.name not in ("I32", "I8") or len(codes.shape) != 2 or not codes.numel:
        return (
            f"{codes.dtype.name} codes of shape {codes.shape}: expected I32 words (rows, words), "
            "or I8 (rows, columns), beside these scales"
        )
    if not arguments:
        return (
            "config.json has no quantization_config whose config_groups say how many bits the "
            "integer codes have"
        )
    fitting = _fitting(leftover, stem, codes, scales, arguments)
    if len(fitting) == 1:
        return fitting[0]
    named = "; ".join(f"{a.bits} bits, blocks {a.block}" for a in arguments[:4])
    problem = "expected shapes for" if not fitting else "more than one fits of"
    return (
        f"{problem} the quantisation that config.json names ({named}); found {codes.shape} codes "
        f"with {scales.shape} scales"
    )


def _fitting(
    leftover: Leftover,
    stem: str,
    codes: StoredTensor,
    scales: StoredTensor,
    arguments: Sequence[Arguments],
) -> list[_Layout]:
    """The layouts that fit, one per effect; the stored shape decides if need be.

    `weight_shape` is read only where the other shapes do not tell the number of columns.
    """
    found: list[_Layout] = []
    for one in arguments:
        columns = _columns(codes, scales, one)
        if columns is None:
            columns = _stored_columns(leftover, stem, codes)
        if columns is not None:
            found += _laid(leftover, stem, codes, scales, one, columns)
    if len(found) > 1:
        columns = _stored_columns(leftover, stem, codes)
        found = [layout for layout in found if columns in (None, layout.shape[1])]
    same = {(layout.shape, layout.bits, layout.scales.block): layout for layout in found[::-1]}
    return list(same.values())


def _columns(codes: StoredTensor, scales: StoredTensor, one: Arguments) -> int | None:
    """The columns of the weight, as far as the shapes of codes and scales tell."""
    if codes.dtype.name == "I8":
        return codes.shape[1]
    # One group may be shorter than its size; of several the last is whole.
    if one.block[0] == 1 and one.block[1] and len(scales.shape) == 2 and scales.shape[1] > 1:
        columns = scales.shape[1] * one.block[1]
        if _words(columns, one.bits) == codes.shape[1]:
            return columns
    return None


def _stored_columns(leftover: Leftover, stem: str, codes: StoredTensor) -> int | None:
    shape = leftover.get(f"{stem}.weight_shape", "I64", "I32")
    if shape is None or shape.numel != 2:
        return None
    rows, columns = (int(size) for size in leftover.read(shape, 0, 2))
    return columns if rows == codes.shape[0] and columns > 0 else None


def _words(elements: int, bits: int) -> int | None:
    """32-bit words for that many codes in a row; None where the packing cannot be told.

    Older versions let no code straddle two words: 3-bit codes go ten to a word there. That way is
    not read, and where it takes as many words, the two are not told apart.
    """
    words = -(-elements * bits // 32)
    return words if 32 % bits == 0 or words != -(-elements // (32 // bits)) else None


def _laid(
    leftover: Leftover,
    stem: str,
    codes: StoredTensor,
    scales: StoredTensor,
    one: Arguments,
    columns: int,
) -> Iterator[_Layout]:
    """The layout of a weight of so many columns, where all its parts have the shapes it needs."""
    packed = codes.dtype.name == "I32"
    rows = codes.shape[0]
    laid = grids(scales, (rows, columns), [one.block])
    if not laid or (packed and _words(columns, one.bits) != codes.shape[1]):
        return
    zero_points = leftover.get(f"{stem}.weight_zero_point")
    points = _zero_points(zero_points, laid[0], one, (rows, columns)) if zero_points else None
    if points is None and (zero_points is not None or not one.symmetric):
        return
    g_idx = leftover.get(f"{stem}.weight_g_idx")
    if g_idx is not None and (g_idx.dtype.name not in ("I32", "I64") or g_idx.shape != (columns,)):
        return
    yield _Layout(
        codes=codes,
        shape=(rows, columns),
        bits=one.bits if packed else 8,
        offset=2 ** (one.bits - 1) if packed else 0,
        scales=laid[0],
        zero_points=points,
        g_idx=g_idx,
    )


def _zero_points(
    tensor: StoredTensor, scales: Grid, one: Arguments, shape: tuple[int, int]
) -> Grid | StoredTensor | None:
    """Zero points of the shape that goes with these scales; None where it does not."""
    if tensor.dtype.name == "I8":
        return next(iter(grids(tensor, shape, [one.block])), None)
    in_words = (-(-shape[0] * one.bits // 32), scales.blocks[1])
    packed = tensor.dtype.name == "I32" and one.block[0] == 1 and not one.symmetric
    return tensor if packed and tensor.shape == in_words else None


def _decode(layout: _Layout, read: ReadElements, window: Window) -> Float32:
    codes = codes_of(layout.codes, layout.bits, read, window)
    signed = codes if layout.offset else codes.view(np.int8)
    values = signed.astype(np.float32) - np.float32(layout.offset)
    across = _groups(layout, read)
    if isinstance(layout.zero_points, Grid):
        values -= layout.zero_points.at(read, window, across)
    elif layout.zero_points is not None:
        values -= _unpacked_zero_points(layout, layout.zero_points, read, window, across)
    return scaled(values, layout.scales.at(read, window, across))


def _groups(layout: _Layout, read: ReadElements) -> npt.NDArray[np.intp] | None:
    """The group of each column, (columns,); None where the groups lie together.

    The groups are numbered in the order of their values; -1 stands in an index not filled in.
    """
    if layout.g_idx is None:
        return None
    index = read(layout.g_idx, 0, layout.g_idx.numel)
    if (index == -1).any():
        return None
    group = np.unique(index, return_inverse=True)[1].reshape(-1)
    return np.minimum(group, layout.scales.blocks[1] - 1)


def _unpacked_zero_points(
    layout: _Layout,
    tensor: StoredTensor,
    read: ReadElements,
    window: Window,
    across: npt.NDArray[np.intp] | None,
) -> Float32:
    """Zero points in words along the rows, (words, groups), for a window of the weight."""
    bits, groups = layout.bits, tensor.shape[1]
    first = window.row_start // 32  # 32 rows take as many words as a code has bits
    last = min(-(-window.row_stop // 32) * bits, tensor.shape[0])
    words = read(tensor, first * bits * groups, last * groups).reshape(-1, groups)
    rows = np.ascontiguousarray(words.T).view(np.uint8)
    points = elements(rows, bits, window.row_start - 32 * first, window.row_stop - 32 * first).T
    if across is None:
        across = np.arange(layout.shape[1]) // layout.scales.block[1]
    columns = across[window.columns]
    signed: Float32 = points[:, columns].astype(np.float32) - np.float32(layout.offset)
    return signed
