"""GGUF files: written by the reference library, and by hand where it would refuse to."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

SCALARS = {bool: "add_bool", int: "add_uint32", float: "add_float32", str: "add_string"}


def write(
    path: Path,
    tensors: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
    *,
    architecture: str = "llama",
    kinds: Mapping[str, GGMLQuantizationType] | None = None,
) -> Path:
    """A file by the reference library; a tensor of a kind in `kinds` is given as its bytes."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (metadata or {}).items():
        name = "add_array" if isinstance(value, list) else SCALARS[type(value)]
        getattr(writer, name)(key, value)
    for name, array in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(array), raw_dtype=(kinds or {}).get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def blocks(kind: GGMLQuantizationType, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Random bytes of blocks, shape (rows, bytes per row), whose 16-bit scales are finite."""
    block, nbytes = GGML_QUANT_SIZES[kind]
    codes = np.random.default_rng(seed).integers(
        0, 256, (rows, columns // block, nbytes), dtype=np.uint8
    )
    codes[..., 1::2] &= 0xBF  # no half-precision number has all exponent bits set
    return codes.reshape(rows, -1)


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def info(name: str, ne: Sequence[int], kind: int, offset: int) -> bytes:
    extents = struct.pack(f"<{len(ne)}Q", *ne)
    return text(name) + struct.pack("<I", len(ne)) + extents + struct.pack("<IQ", kind, offset)


def by_hand(
    infos: Sequence[bytes] = (),
    pairs: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    counts: tuple[int, int] | None = None,
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    tensor_count, pair_count = counts or (len(infos), len(pairs))
    header = b"GGUF" + struct.pack("<IQQ", version, tensor_count, pair_count)
    header += b"".join(pairs) + b"".join(infos)
    return header + b"\0" * (-len(header) % alignment) + data
