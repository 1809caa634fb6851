"""safetensors: header first, then byte ranges. One reader for files and for HTTP ranges.

A file is an 8-byte little-endian header length N, N bytes of JSON, then the tensors' bytes;
`data_offsets` count from 8 + N. Source: github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, TypeGuard

from paramscope.checkpoint import Checkpoint, StoredTensor, read_elements
from paramscope.checkpoint.dtypes import DTYPES
from paramscope.checkpoint.scattered import each
from paramscope.checkpoint.shards import Shard, merge, read_weight_map
from paramscope.errors import CheckpointError
from paramscope.source import Source

MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation


def open_safetensors(source: Source, files: Sequence[str], index: str | None) -> Checkpoint:
    """Read the headers of every shard and check that they hold together.

    Args:
        files: the weight files, POSIX paths within the source.
        index: the index file that names the shards, or None.

    Raises:
        CheckpointError: a file breaks the format; the message names file and tensor.
        SourceError: a file cannot be read.
    """
    weight_map = read_weight_map(source, index)
    files = sorted({*weight_map.values()}) or list(files)
    headers = each(source, lambda file: _header_bytes(source, file), files)
    shards = (
        Shard(file, header, tuple(_tensors(source, file, header)))
        for file, header in zip(files, headers, strict=True)
    )
    merged = merge(source, shards, weight_map, index)
    return Checkpoint(
        source=source,
        format="safetensors",
        tensors=merged.tensors,
        stored=merged.tensors,
        weight_files=tuple(files),
        read_stored=partial(read_elements, source),
        digest=merged.digest,
        notes=merged.notes,
    )


def _header_bytes(source: Source, file: str) -> bytes:
    file_bytes = source.files()[file]
    if file_bytes < 8:
        raise CheckpointError(
            f"{file}: expected a safetensors header, found {file_bytes} bytes. "
            "The file is empty or was cut short. Download it again."
        )
    length = int.from_bytes(source.read(file, 0, 8), "little")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{file}: the header claims to be {length:,} bytes long, more than the format allows "
            f"({MAX_HEADER_BYTES:,}). This is not a safetensors file, or it is damaged."
        )
    if length < 2 or 8 + length > file_bytes:
        raise CheckpointError(
            f"{file}: the header claims to be {length:,} bytes long, the file has {file_bytes:,}. "
            "The file was cut short, or it is not safetensors. Download it again."
        )
    return source.read(file, 8, length)


def _tensors(source: Source, file: str, header: bytes) -> Iterator[StoredTensor]:
    entries = _parse_header(file, header)
    data_start = 8 + len(header)
    data_bytes = source.files()[file] - data_start
    end = 0
    entries.sort(key=lambda entry: (entry.offset_bytes, entry.offset_bytes + entry.nbytes))
    for entry in entries:
        if entry.offset_bytes != end:
            problem = "overlaps the one before it" if entry.offset_bytes < end else "leaves a gap"
            raise CheckpointError(
                f"{file}: the bytes of tensor {entry.name!r} start at {entry.offset_bytes:,}, "
                f"expected {end:,}: it {problem}. The header is damaged; download the file again."
            )
        end += entry.nbytes
    if end != data_bytes:
        raise CheckpointError(
            f"{file}: header says {data_start + end:,} bytes, the file has "
            f"{data_start + data_bytes:,}. The file "
            f"{'was cut short' if data_bytes < end else 'has bytes that no tensor owns'}. "
            "Download it again."
        )
    for entry in entries:
        yield StoredTensor(
            entry.name,
            entry.dtype,
            entry.shape,
            file,
            data_start + entry.offset_bytes,
            entry.nbytes,
            entry.numel,
        )


def _parse_header(file: str, header: bytes) -> list[StoredTensor]:
    """The header's entries; offsets still count from the end of the header."""
    try:
        parsed = json.loads(header, object_pairs_hook=_no_duplicates)
    except _DuplicateNameError as error:
        raise CheckpointError(f"{file}: the header names {error} twice. It is damaged.") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{file}: expected JSON in the header, found something else ({error}). "
            "This is not a safetensors file, or it is damaged."
        ) from None
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{file}: expected a JSON object in the header. It is damaged.")
    return [_entry(file, name, entry) for name, entry in parsed.items() if name != "__metadata__"]


class _DuplicateNameError(Exception):
    pass


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _DuplicateNameError(repr(name))
            seen.add(name)
    return result


def _entry(file: str, name: str, entry: Any) -> StoredTensor:
    def broken(expected: str, found: object) -> CheckpointError:
        return CheckpointError(
            f"{file}: tensor {name!r}: expected {expected}, found {found!r:.80}. "
            "The header is damaged; download the file again."
        )

    if not isinstance(entry, dict):
        raise broken("an object with dtype, shape and data_offsets", entry)
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    dtype = DTYPES.get(str(entry.get("dtype")))
    if dtype is None:
        raise CheckpointError(
            f"{file}: tensor {name!r} has the dtype {entry.get('dtype')!r:.40}, which "
            f"is not known. Known: {', '.join(DTYPES)}."
        )
    if not _non_negative_integers(shape):
        raise broken("a shape of non-negative integers", shape)
    if not (_non_negative_integers(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1]):
        raise broken("data_offsets [begin, end] with 0 <= begin <= end", offsets)
    numel = math.prod(shape)
    bits = numel * dtype.bits
    nbytes = offsets[1] - offsets[0]
    if bits != nbytes * 8:
        raise broken(f"{-(-bits // 8):,} bytes for {dtype.name} {tuple(shape)}", nbytes)
    return StoredTensor(name, dtype, tuple(shape), file, offsets[0], nbytes, numel)


def _non_negative_integers(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
