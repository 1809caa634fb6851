"""bitsandbytes weights: 4-bit codes of a table with a scale per block, or 8-bit integers per row.

    NF4, FP4    w[k] = quant_map[q[k]] · absmax[⌊k / blocksize⌋]      k counts the flattened weight
    INT8        W[o, i] = q[o, i] · SCB[o] / 127

Two 4-bit codes share a byte, the first one in its upper half. A nested scale is itself a code:

    absmax[b] = nested_quant_map[c[b]] · nested_absmax[⌊b / nested_blocksize⌋] + nested_offset

`quant_state.bitsandbytes__nf4`, or `__fp4`, holds JSON as bytes: the shape, the block sizes, the
offset. The weight's bytes may be stored as another dtype; they are the same bytes.

Source: `functional.py` (QuantState, dequantize_4bit), `backends/default/ops.py` and `_ops.py`
(int8_vectorwise_dequant) of github.com/bitsandbytes-foundation/bitsandbytes; arXiv:2305.14314.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
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
from paramscope.checkpoint.dtypes import Codes
from paramscope.checkpoint.packed.groups import FLOATS, floats, found, method_of, whole
from paramscope.checkpoint.packed.leftover import Leftover

Bytes = npt.NDArray[np.uint8]

_STATES = (".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4")
_BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
_MOST_STATE_BYTES = 4096  # the library writes some 200
_MOST_DIMENSIONS = 8
_READS_AT_ONCE = 8
_PER_127 = np.float32(7.874015718698502e-3)  # the library multiplies by this
_LARGEST = float(np.finfo(np.float32).max)
_STORAGE = ("U8", "I8", "F16", "BF16", "F32")


def find(leftover: Leftover) -> Iterator[PackedTensor]:
    """4-bit weights that have a `quant_state`, and 8-bit weights that have an `SCB`."""
    claimed: set[str] = set()
    for weight in chain(_four_bits(leftover), _eight_bits(leftover)):
        parts = {part.name for part in weight.parts}
        if claimed.isdisjoint(parts):  # names may be such that two weights would share a part
            claimed |= parts
            yield weight


@dataclass(frozen=True, slots=True)
class _Scales:
    """The scale of every block; `nested` is None where they are floats as they stand."""

    absmax: StoredTensor
    nested: tuple[StoredTensor, StoredTensor] | None = None  # absmax, quant_map
    nested_block: int = 1
    offset: float = 0.0

    def of_blocks(self, read: ReadElements, start: int, stop: int) -> Float32:
        """The scales of blocks `start … stop`, rounded where the library rounds."""
        stored = read(self.absmax, start, stop)
        with np.errstate(all="ignore"):
            if self.nested is None:
                return self.absmax.dtype.decode(stored).astype(np.float32)
            absmax, table = (floats(read, tensor).reshape(-1) for tensor in self.nested)
            blocks = np.arange(start, stop) // self.nested_block
            values: Float32 = table[stored] * absmax[blocks] + np.float32(self.offset)
        return values


@dataclass(frozen=True, slots=True)
class _Layer:
    """One 4-bit weight; `parts` are all its tensors, the codes first."""

    codes: StoredTensor
    table: StoredTensor
    scales: _Scales
    block: int
    shape: tuple[int, ...]
    parts: tuple[StoredTensor, ...]


def _four_bits(leftover: Leftover) -> Iterator[PackedTensor]:
    states = [state for _, _, state in leftover.ending(*_STATES)]
    contents = dict(zip((state.name for state in states), _small(leftover, states), strict=True))
    for stem, ending, state in leftover.ending(*_STATES):
        codes = leftover.get(stem)
        if codes is None:
            continue
        kind = ending[-3:]
        layer = _layer(leftover, codes, state, kind, contents[state.name])
        if isinstance(layer, str):
            yield refused_tensor(codes, f"bitsandbytes {kind} codes: {layer}")
        else:
            nested = " nested" if layer.scales.nested else ""
            yield packed_tensor(
                codes.name,
                layer.shape,
                layer.parts,
                scheme=f"bnb {kind} g{layer.block}{nested}",
                decode=partial(_decode_4bit, layer),
                by_rows=True,
                turned=True,
            )
    for stem, _, _ in leftover.ending(".quant_map"):
        codes = leftover.get(stem, *_STORAGE)
        if codes is not None and not any(stem + ending in leftover.tensors for ending in _STATES):
            yield refused_tensor(
                codes, f"bitsandbytes 4-bit codes: expected {stem}{_STATES[0]}, found none"
            )


def _small(leftover: Leftover, tensors: Sequence[StoredTensor]) -> Iterable[Codes | None]:
    """The content of small tensors of bytes; None for what is not small, or no bytes."""

    def content(tensor: StoredTensor) -> Codes | None:
        fits = tensor.dtype.name == "U8" and 0 < tensor.numel <= _MOST_STATE_BYTES
        return leftover.read(tensor, 0, tensor.numel) if fits else None

    if not tensors:
        return []
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:  # over a network each is a request
        return list(pool.map(content, tensors))


def _layer(
    leftover: Leftover, codes: StoredTensor, state: StoredTensor, kind: str, content: Codes | None
) -> _Layer | str:
    """The weight that these codes belong to, or why there is none."""
    if all(codes.name + ending in leftover.tensors for ending in _STATES):
        return f"expected one {codes.name}.quant_state, found two"
    parsed = _json(content)
    if parsed is None or parsed.get("quant_type") != kind:
        return f"expected JSON with quant_type {kind} in {state.name}, found something else"
    shape, block = _shape(parsed.get("shape")), whole(parsed, "blocksize")
    if shape is None or block not in _BLOCK_SIZES:
        return (
            f"expected a shape and a block size in {state.name}, found "
            f"{parsed.get('shape')!r:.40} and {parsed.get('blocksize')!r:.20}"
        )
    numel = math.prod(shape)
    if codes.dtype.name not in _STORAGE or not 0 <= codes.nbytes - -(-numel // 2) < _bytes(codes):
        return f"expected two codes of the shape {shape} in a byte, found {found(codes)}"
    table = leftover.get(f"{codes.name}.quant_map", "F32")
    if table is None or table.numel != 16:
        beside = found(leftover.get(f"{codes.name}.quant_map"))
        return f"expected {codes.name}.quant_map F32 (16,), found {beside}"
    scales = _scales(leftover, codes.name, -(-numel // block), parsed)
    if isinstance(scales, str):
        return scales
    parts = (codes, scales.absmax, table, *(scales.nested or ()), state)
    return _Layer(codes, table, scales, block, shape, parts)


def _scales(leftover: Leftover, name: str, blocks: int, state: Mapping[str, Any]) -> _Scales | str:
    """The scales of so many blocks, or why there are none."""
    nested = leftover.get(f"{name}.nested_absmax", "F32")
    is_nested = nested is not None or "nested_blocksize" in state
    dtypes = ("U8",) if is_nested else FLOATS
    absmax = leftover.get(f"{name}.absmax", *dtypes)
    if absmax is None or absmax.numel != blocks:
        beside = found(leftover.get(f"{name}.absmax"))
        return f"expected {name}.absmax {'/'.join(dtypes)} ({blocks},), found {beside}"
    if not is_nested:
        return _Scales(absmax)
    size, offset = whole(state, "nested_blocksize"), state.get("nested_offset")
    if size not in _BLOCK_SIZES or not isinstance(offset, float) or not abs(offset) <= _LARGEST:
        return f"expected nested_blocksize and nested_offset, found {size} and {offset!r:.20}"
    table = leftover.get(f"{name}.nested_quant_map", "F32")
    if nested is None or nested.numel != -(-blocks // size) or table is None or table.numel != 256:
        return (
            f"expected {name}.nested_absmax F32 ({-(-blocks // size)},) and .nested_quant_map F32 "
            f"(256,), found {found(nested)} and {found(table)}"
        )
    return _Scales(absmax, (nested, table), size, offset)


def _json(content: Codes | None) -> Mapping[str, Any] | None:
    if content is None:
        return None
    try:
        parsed = json.loads(content.tobytes())
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _shape(value: Any) -> tuple[int, ...] | None:
    """A shape of at least one element, from JSON."""
    if not isinstance(value, list) or not 0 < len(value) <= _MOST_DIMENSIONS:
        return None
    if not all(type(size) is int and 0 < size < 2**48 for size in value):
        return None
    return tuple(value)


def _bytes(tensor: StoredTensor) -> int:
    return tensor.dtype.bits // 8


def _decode_4bit(layer: _Layer, read: ReadElements, window: Window) -> Float32:
    """The window: of rows that hold whole blocks, the blocks that it touches; else whole rows."""
    columns, block = layer.shape[-1], layer.block
    table = floats(read, layer.table).reshape(-1)
    pairs = np.stack([table[np.arange(256) >> 4], table[np.arange(256) & 15]], axis=1)
    start, stop = window.row_start * columns, window.row_stop * columns
    first = start // block
    last = -(-stop // block)
    data = _bytes_of(layer, read, first * block, min(last * block, math.prod(layer.shape)))
    scales = layer.scales.of_blocks(read, first, last)
    if columns % block:
        values = _values(pairs, data.reshape(1, -1), scales.reshape(1, -1), block)[0]
        flat: Float32 = values[start - first * block : stop - first * block]
        return flat.reshape(-1, columns)[:, window.columns]
    across = slice(window.column_start // block, -(-window.column_stop // block))
    data = data.reshape(-1, columns // 2)[:, across.start * block // 2 : across.stop * block // 2]
    rows = _values(pairs, data, scales.reshape(-1, columns // block)[:, across], block)
    offset = window.column_start - across.start * block
    return rows[:, offset : offset + window.shape[1]]


def _values(pairs: Float32, data: Bytes, scales: Float32, block: int) -> Float32:
    """Rows of bytes, shape (rows, bytes), with scales (rows, blocks); the last may be partial."""
    values: Float32 = pairs[data].reshape(len(data), -1)
    full = values.shape[1] // block
    with np.errstate(all="ignore"):  # scales may be Inf
        blocks = values[:, : full * block].reshape(len(data), full, block)
        blocks *= scales[:, :full, None]
        values[:, full * block :] *= scales[:, full:]
    return values


def _bytes_of(layer: _Layer, read: ReadElements, start: int, stop: int) -> Bytes:
    """The bytes with codes `start … stop`, whatever dtype they are stored as; start is even."""
    size = _bytes(layer.codes)
    first, last = start // 2, -(-stop // 2)
    element = first // size
    data = read(layer.codes, element, -(-last // size)).view(np.uint8)
    return data[first - element * size : last - element * size]


def _eight_bits(leftover: Leftover) -> Iterator[PackedTensor]:
    formats = {
        tensor.name: tensor
        for _, _, tensor in leftover.ending(".weight_format")
        if tensor.numel == 1
    }
    contents = dict(zip(formats, _small(leftover, list(formats.values())), strict=True))
    is_ours = method_of(leftover.quantization) == "bitsandbytes"
    for stem, _, codes in leftover.ending(".weight"):
        scales = leftover.get(f"{stem}.SCB")
        if codes.dtype.name != "I8" or len(codes.shape) != 2 or not (scales or is_ours):
            continue
        layout = formats.get(f"{stem}.weight_format")
        content = None if layout is None else contents[layout.name]
        if layout is not None and (content is None or content[0] != 0):
            value = "something else" if content is None else f"weight_format {content[0]}"
            why = f"expected rows in order (weight_format 0), found {value}"
            yield refused_tensor(codes, f"bitsandbytes int8 codes: {why}")
        elif scales is None or (*scales.shape, scales.dtype.name) != (*codes.shape[:-1], "F32"):
            why = f"expected {stem}.SCB F32 {codes.shape[:-1]}, found {found(scales)}"
            yield refused_tensor(codes, f"bitsandbytes int8 codes: {why}")
        else:
            parts = (codes, scales) if layout is None else (codes, scales, layout)
            yield packed_tensor(
                codes.name,
                codes.shape,
                parts,
                scheme="bnb int8",
                decode=partial(_decode_8bit, codes, scales),
                by_rows=True,
                turned=True,
            )


def _decode_8bit(
    codes: StoredTensor, scales: StoredTensor, read: ReadElements, window: Window
) -> Float32:
    columns = codes.shape[1]
    block = read(codes, window.row_start * columns, window.row_stop * columns).view(np.int8)
    values = block.reshape(-1, columns)[:, window.columns].astype(np.float32)
    with np.errstate(all="ignore"):  # scales may be Inf
        values *= read(scales, window.row_start, window.row_stop)[:, None]
        values *= _PER_127
    return values
