"""Open a checkpoint: choose the container among the source's files, read its headers."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import PurePath, PurePosixPath

from paramscope.checkpoint import Checkpoint, read_json
from paramscope.checkpoint.packed import unpack
from paramscope.checkpoint.safetensors import INDEX, open_safetensors
from paramscope.errors import CheckpointError, NoCheckpointError
from paramscope.source import Source

INDEX_ENDING = ".safetensors.index.json"
_SERIES = re.compile(r"-(\d{2,9})-of-(\d{2,9})\.safetensors$")

# Endings of weight files that other tools read, so that a refusal can name what is there.
OTHER_FORMATS = {
    ".bin": "PyTorch pickle",
    ".pt": "PyTorch pickle",
    ".pth": "PyTorch pickle",
    ".ckpt": "PyTorch pickle",
    ".gguf": "GGUF",
    ".h5": "Keras",
    ".msgpack": "Flax",
    ".onnx": "ONNX",
    ".npz": "NumPy",
}


def open_checkpoint(source: Source) -> Checkpoint:
    """Read the headers of the source's weight files; no weight is read.

    Raises:
        NoCheckpointError: no weights in a supported format; the message says what is there.
        CheckpointError: the files break their format.
    """
    files = sorted(source.files())
    chosen = _choose(source, [file for file in files if file.endswith(".safetensors")], files)
    checkpoint = open_safetensors(source, chosen.shards, chosen.index)
    parsed = read_json(source, "config.json")
    config = parsed if isinstance(parsed, dict) else {}
    tensors = unpack(
        checkpoint.stored,
        config,
        read=checkpoint.read_stored,
        read_json=lambda file: read_json(source, file),
    )
    return replace(
        checkpoint,
        tensors=tensors,
        config=config,
        notes=(*chosen.notes, *checkpoint.notes),
    )


@dataclass(frozen=True, slots=True)
class _Choice:
    shards: list[str]
    index: str | None
    notes: tuple[str, ...]


def _choose(source: Source, weights: list[str], files: list[str]) -> _Choice:
    """One model among the weight files: the top folder's, an index before a single file."""
    if not weights:
        raise NoCheckpointError(_nothing_to_read(source, files))
    folder = min((PurePosixPath(file).parent for file in weights), key=_depth)
    here = [file for file in weights if PurePosixPath(file).parent == folder]
    indices = [
        file
        for file in files
        if file.endswith(INDEX_ENDING) and PurePosixPath(file).parent == folder
    ]
    index = next((file for file in indices if file.endswith(INDEX)), next(iter(indices), None))
    single = str(folder / "model.safetensors")
    if index is not None:
        return _Choice(here, index, ())
    shards = [single] if single in here else here
    if PurePath(source.location).name != shards[0]:  # a file asked for by name is read alone
        _demand_complete_series(shards)
    return _Choice(shards, None, _left_out(shards, weights))


def _depth(folder: PurePosixPath) -> tuple[int, str]:
    return len(folder.parts), str(folder)


def _left_out(shards: list[str], weights: list[str]) -> tuple[str, ...]:
    others = [file for file in weights if file not in shards]
    if not others:
        return ()
    return (
        f"Only {shards[0]}{' and its series' if len(shards) > 1 else ''} is read; also here: "
        f"{', '.join(others[:3])}{', …' if len(others) > 3 else ''}. "
        "Give such a file as MODEL to read it.",
    )


def _demand_complete_series(shards: list[str]) -> None:
    """Files named `…-00002-of-00003` without an index: all of them, or an error."""
    for match in filter(None, (_SERIES.search(shard) for shard in shards)):
        total = int(match[2])
        missing = [
            name
            for number in range(1, min(total, 100_000) + 1)
            if (
                name := f"{match.string[: match.start(1)]}{number:0{len(match[1])}d}"
                f"-of-{match[2]}.safetensors"
            )
            not in shards
        ]
        if missing:
            raise CheckpointError(
                f"{match.string}: is one of {total} shards, of which {len(missing)} are missing: "
                f"{', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}. "
                "Download the checkpoint again, or give one shard as MODEL to read it alone."
            )
        return


def _nothing_to_read(source: Source, files: list[str]) -> str:
    found = sorted(
        {name for file in files for ending, name in OTHER_FORMATS.items() if file.endswith(ending)}
    )
    if found:
        return (
            f"{source.location}: the weights are in a format that is not read: "
            f"{', '.join(found)}. Supported: safetensors (.safetensors). "
            "Convert it, for example with save_pretrained(..., safe_serialization=True)."
        )
    contents = "it is empty" if not files else f"it holds {', '.join(files[:5])}"
    return f"{source.location}: expected weights (.safetensors), found none; {contents}."
