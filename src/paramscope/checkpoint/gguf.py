"""GGUF: llama.cpp's container. Headers first, then byte ranges, then blocks decoded by windows.

A model is one file, or a series whose files each have a header of their own; the metadata stands
in the first. Source: docs/gguf.md of github.com/ggml-org/ggml.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from paramscope.checkpoint import Checkpoint, TokenList, read_elements
from paramscope.checkpoint.gguf_config import config_of, notes_on
from paramscope.checkpoint.gguf_header import Header, LongArray, read_header
from paramscope.checkpoint.gguf_tensors import Placed, place, weights
from paramscope.checkpoint.scattered import each
from paramscope.errors import CheckpointError
from paramscope.source import Source

_MOST_TOKENS = 2**22


def open_gguf(source: Source, files: Sequence[str], index: str | None) -> Checkpoint:
    """Read the headers of every file and check that they hold together.

    Args:
        files: the weight files, POSIX paths within the source.
        index: always None: GGUF has no index.

    Raises:
        CheckpointError: a file breaks the format; the message names file and tensor.
        SourceError: a file cannot be read.
    """
    digest = hashlib.sha256()
    headers: list[Header] = []
    for header in each(source, partial(read_header, source), sorted(files)):
        digest.update(f"{header.file}\0{source.files()[header.file]}\0".encode())
        digest.update(header.content)
        headers.append(header)
    notes = list(_series_notes(headers))
    placed, unowned = _placed(source, headers)
    shapes = {one.stored.name: one.shape for one in placed}
    first = _main(headers).metadata
    if unowned:
        notes.append(f"{unowned:,} bytes of the data belong to no tensor; they are not measured.")
    return Checkpoint(
        source=source,
        format="gguf",
        tensors=tuple(weights(placed)),
        stored=tuple(one.stored for one in placed),
        weight_files=tuple(header.file for header in headers),
        read_stored=partial(read_elements, source),
        digest=digest.hexdigest(),
        config=_config(headers, shapes),
        notes=(*notes, *notes_on(first, shapes)),
        own_tokens=_own_tokens(source, _main(headers)),
    )


def _series_notes(headers: Sequence[Header]) -> Iterable[str]:
    """Check that the files of a series are all there and in order; say where one is read alone."""
    parts = [(_number(header, "split.no"), _number(header, "split.count")) for header in headers]
    if not any(count for _, count in parts):
        return
    first = headers[0]
    if len(headers) == 1:
        number, count = parts[0]
        if count != 1:
            yield (
                f"{first.file} is part {number + 1:,} of {count:,} and is read alone: the tensors "
                "of the other parts are not in the table."
            )
        return
    for index, (header, (number, count)) in enumerate(zip(headers, parts, strict=True)):
        if (number, count) != (index, len(headers)):
            raise CheckpointError(
                f"{header.file}: expected part {index + 1} of {len(headers)}, found part "
                f"{number + 1:,} of {count:,}. The files are not one series. "
                "Download them again, or give one file as MODEL to read it alone."
            )
    total = sum(len(header.tensors) for header in headers)
    announced = _number(first, "split.tensors.count") or total
    if announced != total:
        raise CheckpointError(
            f"{first.file}: announces {announced:,} tensors in all parts, found {total:,}. "
            "The parts are of different versions. Download them again."
        )


def _number(header: Header, key: str) -> int:
    value = header.metadata.get(key)
    return value if type(value) is int else 0


def _placed(source: Source, headers: Sequence[Header]) -> tuple[list[Placed], int]:
    """The tensors of all files, and how many bytes belong to none."""
    placed: list[Placed] = []
    owner: dict[str, str] = {}
    unowned = 0
    for header in headers:
        some, loose = place(header, source.files()[header.file])
        unowned += loose
        for one in some:
            name = one.stored.name
            if name in owner:
                raise CheckpointError(
                    f"{header.file}: tensor {name!r:.80} is also in {owner[name]}. Every tensor "
                    "may be stored once. Give one file as MODEL to read it alone."
                )
            owner[name] = header.file
            placed.append(one)
    return placed, unowned


def _is_projector(header: Header) -> bool:
    return header.metadata.get("general.architecture") == "clip"


def _main(headers: Sequence[Header]) -> Header:
    """The first file, but not the projector that lies beside a language model."""
    return next((header for header in headers if not _is_projector(header)), headers[0])


def _config(headers: Sequence[Header], shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Any]:
    main = _main(headers)
    is_whole = _number(main, "split.count") in (0, len(headers))
    config = config_of(main.metadata, shapes if is_whole else {})
    for header in headers:
        if header is not main and _is_projector(header):
            towers = config_of(header.metadata, {})
            config |= {word: towers[word] for word in towers if word.endswith("_config")}
    return config


def _own_tokens(source: Source, header: Header) -> TokenList | None:
    """The vocabulary that the file holds, its texts not yet read; None where it holds none."""
    found = header.metadata
    tokens, kinds = found.get("tokenizer.ggml.tokens"), found.get("tokenizer.ggml.token_type")
    count = tokens.count if isinstance(tokens, LongArray) else len(tokens or ())
    if not isinstance(tokens, LongArray | list) or not 0 < count <= _MOST_TOKENS:
        return None
    return TokenList(
        file=header.file,
        model=str(found.get("tokenizer.ggml.model", "")),
        texts=partial(_strings, source, tokens),
        kinds=partial(_integers, source, kinds),
    )


def _strings(source: Source, array: LongArray | list[Any]) -> list[str]:
    return [item for item in _items(source, array) if isinstance(item, str)]


def _integers(source: Source, array: Any) -> list[int]:
    return [item for item in _items(source, array) if type(item) is int]


def _items(source: Source, array: Any) -> list[Any]:
    if isinstance(array, LongArray):
        return array.read(source) if array.count <= _MOST_TOKENS else []
    return array if isinstance(array, list) else []
