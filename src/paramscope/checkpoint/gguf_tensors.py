"""From a GGUF header to tensors: where each one lies, and how a window of it is decoded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from paramscope.checkpoint import (
    Decode,
    ReadElements,
    StoredTensor,
    Window,
    packed_tensor,
)
from paramscope.checkpoint.dtypes import Codes
from paramscope.checkpoint.gguf_header import Header, TensorInfo
from paramscope.checkpoint.gguf_types import GgmlType, decode_columns, type_of
from paramscope.checkpoint.packed.leftover import by_item
from paramscope.errors import CheckpointError

# Of multi-head latent attention, one matrix per head. llama.cpp turns those of the keys, so that
# they read (heads, latent, d); as stored they would not be the rows of one matrix.
_TURNED_KEYS = ".attn_k_b.weight"
_VALUES = ".attn_v_b.weight"


@dataclass(frozen=True, slots=True)
class Placed:
    """A stored tensor with its type, and the shape of the weight that it holds."""

    stored: StoredTensor
    kind: GgmlType
    shape: tuple[int, ...]

    @property
    def columns(self) -> int:
        return self.shape[-1] if self.shape else 1

    @property
    def bits(self) -> int:
        """Of a decoded element: 64 where 32 would not hold it exactly."""
        return 64 if self.kind.plain in ("F64", "I64", "I32") else 32

    @property
    def row_elements(self) -> int:
        """Elements of one row as stored: bytes, where they are blocks."""
        return (
            self.columns
            if self.kind.plain
            else self.columns // self.kind.block * (self.kind.nbytes)
        )

    def decode(self, read: ReadElements, window: Window) -> Codes:
        """The values of a window of (prod(shape[:-1]), shape[-1]): of float64, or of float32."""
        width = self.row_elements
        codes = read(self.stored, window.row_start * width, window.row_stop * width)
        rows = codes.reshape(window.shape[0], width)
        if self.kind.plain:
            return self.stored.dtype.decode(rows[:, window.columns]).astype(f"<f{self.bits // 8}")
        return decode_columns(rows, self.kind, window.column_start, window.column_stop)


def place(header: Header, file_bytes: int) -> tuple[list[Placed], int]:
    """Every tensor of the file in the order of its bytes.

    Returns:
        The tensors, and how many bytes of the data belong to none of them, padding apart.

    Raises:
        CheckpointError: a tensor does not fit its type, the file, or its neighbours.
    """
    placed: list[Placed] = []
    end, unowned = header.data_start, 0
    infos = sorted(header.tensors, key=lambda info: info.offset_bytes)
    stops = [*(header.data_start + info.offset_bytes for info in infos[1:]), file_bytes]
    for info, stop in zip(infos, stops, strict=False):
        one = _placed(header, info, min(stop, file_bytes))
        start, nbytes = one.stored.offset_bytes, one.stored.nbytes
        if nbytes and start < end:
            raise _broken(header, info, f"its bytes from {start:,} on belong to others too")
        if start + nbytes > file_bytes:
            raise _broken(
                header, info, f"it ends at byte {start + nbytes:,}, the file at {file_bytes:,}"
            )
        if start - end >= header.alignment:
            unowned += start - end
        end = max(end, start + nbytes)
        placed.append(one)
    if file_bytes - end >= header.alignment:
        unowned += file_bytes - end
    return placed, unowned


def _placed(header: Header, info: TensorInfo, stop: int) -> Placed:
    kind = type_of(info.kind)
    numel = math.prod(info.shape)
    start = header.data_start + info.offset_bytes
    columns = info.shape[-1] if info.shape else 1
    if numel >= 2**63:
        raise _broken(header, info, f"the shape {info.shape} has too many elements")
    if info.offset_bytes % header.alignment:
        raise _broken(header, info, f"its offset is no multiple of {header.alignment}")
    if columns % kind.block:
        raise _broken(
            header, info, f"{columns:,} columns are no whole blocks of {kind.block} ({kind.name})"
        )
    known = numel // kind.block * kind.nbytes
    nbytes = known if kind.nbytes else max(0, stop - start)  # else up to the next tensor
    shape = info.shape
    if not kind.plain and nbytes:
        rows = numel // columns if numel else 0
        shape = (rows, nbytes // rows) if kind.nbytes and rows else (nbytes,)
    stored = StoredTensor(
        info.name, kind.dtype, shape, header.file, start, nbytes, math.prod(shape)
    )
    return Placed(stored, kind, info.shape)


def _broken(header: Header, info: TensorInfo, what: str) -> CheckpointError:
    return CheckpointError(
        f"{header.file}: tensor {info.name!r:.80}: {what}. "
        "The file was cut short, or its header is damaged. Download it again."
    )


def weights(placed: Sequence[Placed]) -> Iterator[StoredTensor]:
    """The tensors as the model has them, in the same order; scales go into their weights."""
    scales = dict(_scales(placed))
    folded = {scale.stored.name for scale in scales.values()}
    for one in placed:
        if one.stored.name not in folded:
            yield _weight(one, scales.get(one.stored.name))


def _scales(placed: Sequence[Placed]) -> Iterator[tuple[str, Placed]]:
    """(name of a weight, its scale): `x.scale` multiplies what `x.weight` gives.

    llama.cpp writes one per tensor, or per expert of a stack, for NVFP4 and ternary weights.
    """
    by_name: Mapping[str, Placed] = {one.stored.name: one for one in placed}
    for name, scale in by_name.items():
        weight = by_name.get(f"{name.removesuffix('.scale')}.weight")
        if name.endswith(".scale") and weight is not None and scale.kind.name == "F32":
            yield weight.stored.name, scale


def _weight(one: Placed, scale: Placed | None) -> StoredTensor:
    stored, kind = one.stored, one.kind
    is_per_head = len(one.shape) == 3 and stored.name.endswith((_TURNED_KEYS, _VALUES))
    if not stored.numel or (kind.plain and scale is None and not is_per_head):
        return stored
    parts = (stored,) if scale is None else (stored, scale.stored)
    decode = one.decode
    shape, by_rows = one.shape, True
    why = kind.refusal
    if scale is not None:
        decode = partial(_scaled, one, scale)
        if scale.stored.numel not in (1, one.shape[0] if len(one.shape) == 3 else 1):
            why = why or f"its scale has {scale.stored.numel:,} numbers, expected one, or one each"
    if is_per_head:
        heads, rows, columns = one.shape
        if stored.name.endswith(_VALUES):
            shape = (heads * rows, columns)
        else:
            decode, by_rows = partial(_turned, decode, rows, columns), False
            shape = (heads * columns, rows)
    weight = packed_tensor(
        stored.name,
        shape,
        parts,
        scheme=f"gguf {kind.name}" + (", scaled" if scale else ""),
        decode=decode,
        by_rows=by_rows,
        dtype=f"F{one.bits}",
    )
    return replace(weight, refused=why)


def _scaled(one: Placed, scale: Placed, read: ReadElements, window: Window) -> Codes:
    """Codes times the tensor's scale, or that of the row's expert."""
    values = one.decode(read, window)
    factors = read(scale.stored, 0, scale.stored.numel)
    each = math.prod(one.shape[1:-1]) if scale.stored.numel > 1 else max(1, math.prod(one.shape))
    rows = np.arange(window.row_start, window.row_stop) // each
    with np.errstate(all="ignore"):
        scaled: Codes = values * factors[rows, None]
    return scaled


def _turned(decode: Decode, rows: int, columns: int, read: ReadElements, window: Window) -> Codes:
    """A window of the matrices of all heads, one below the other, each stored transposed.

    Args:
        rows, columns: of one head as stored: latent × d; `window` counts d of all heads × latent.
    """
    pieces = [
        decode(
            read,
            Window(
                head * rows + within.column_start,
                head * rows + within.column_stop,
                within.row_start,
                within.row_stop,
            ),
        ).T
        for head, within in by_item(window, columns)
    ]
    return np.concatenate(pieces) if pieces else np.zeros(window.shape, np.float32)
