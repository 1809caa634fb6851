"""The stored tensors of one checkpoint: headers first, then one range of elements at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from paramscope.checkpoint.dtypes import Codes, Dtype
from paramscope.source import Source


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor as a file holds it.

    `offset_bytes` counts from the start of the file; `nbytes` is what the tensor takes there.
    """

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    file: str
    offset_bytes: int
    nbytes: int
    numel: int


ReadElements = Callable[[StoredTensor, int, int], Codes]


@dataclass(frozen=True)
class Checkpoint:
    """One model at one revision, its headers read, its weights untouched.

    Attributes:
        tensors: every stored tensor, in the order of the files and of their headers.
        config: `config.json`, or {} where there is none that can be read.
        read: elements `start … stop` of a tensor in C order, as codes, 1-D; thread-safe.
        header_digest: SHA-256 over names, sizes and headers of the weight files; the identity
            of the checkpoint as far as it is known without reading every byte.
        notes: what a user should know about the files, in sentences.
    """

    source: Source
    format: str
    tensors: tuple[StoredTensor, ...]
    weight_files: tuple[str, ...]
    read: ReadElements
    header_digest: str
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_json(source: Source, file: str) -> Any:
    """A small JSON file of the source, or None where there is none or it cannot be read."""
    size_bytes = source.files().get(file)
    if size_bytes is None or size_bytes > 64 * 2**20:
        return None
    try:
        return json.loads(source.read(file, 0, size_bytes))
    except (ValueError, RecursionError):
        return None
