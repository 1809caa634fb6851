"""Open a checkpoint: choose the container among the source's files, read its headers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from paramscope.checkpoint import Checkpoint, read_json
from paramscope.checkpoint.choose import Choice, choose
from paramscope.checkpoint.packed import unpack
from paramscope.checkpoint.packed.lora import adapter_notes
from paramscope.checkpoint.safetensors import open_safetensors
from paramscope.source import Source

Opener = Callable[[Source, Sequence[str], str | None], Checkpoint]


def _opener(container: str) -> Opener:
    """From the files of one model to its stored tensors; only what is needed is imported."""
    if container == "gguf":
        from paramscope.checkpoint.gguf import open_gguf

        return open_gguf
    if container == "pytorch":
        from paramscope.checkpoint.pickle import open_pickle

        return open_pickle
    return open_safetensors


def open_checkpoint(source: Source, container: str | None = None) -> Checkpoint:
    """Read the headers of the source's weight files; no weight is read.

    Args:
        container: which copy of the weights to read where there are several: "safetensors",
            "pytorch" or "gguf"; by default the first of these that is there.

    Raises:
        NoCheckpointError: no weights in a supported format; the message says what is there.
        CheckpointError: the files break their format.
    """
    choice: Choice = choose(source, container)
    checkpoint = _opener(choice.container)(source, choice.files, choice.index)
    texts: dict[str, Any] = {}

    def read_text(file: str) -> Any:
        if file not in texts:
            texts[file] = read_json(source, file)
        return texts[file]

    parsed = read_text("config.json")
    # What the weight file says of itself wins: it describes the layout of its own tensors.
    config = {**(parsed if isinstance(parsed, dict) else {}), **checkpoint.config}
    tensors = unpack(checkpoint.tensors, config, read=checkpoint.read_stored, read_json=read_text)
    notes = adapter_notes(tensors, read_text)
    states = {file: source.state(file) for file in checkpoint.weight_files}
    return replace(
        checkpoint,
        tensors=tensors,
        config=config,
        digest=_digest(checkpoint.digest, states, texts),
        states=states,
        notes=(*choice.notes, *checkpoint.notes, *notes),
    )


def _digest(headers: str, states: Mapping[str, str], texts: Mapping[str, Any]) -> str:
    """Headers, contents, and what the configuration says of how matrices are cut and decoded."""
    said = json.dumps([states, texts], sort_keys=True)
    return hashlib.sha256(f"{headers}\0{said}".encode()).hexdigest()
