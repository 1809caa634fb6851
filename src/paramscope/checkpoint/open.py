"""Open a checkpoint: choose the container among the source's files, read its headers."""

from __future__ import annotations

from dataclasses import replace

from paramscope.checkpoint import Checkpoint, read_json
from paramscope.checkpoint.choose import Choice, choose
from paramscope.checkpoint.gguf import open_gguf
from paramscope.checkpoint.packed import unpack
from paramscope.checkpoint.pickle import open_pickle
from paramscope.checkpoint.safetensors import open_safetensors
from paramscope.source import Source

# One opener per container: from the files of one model to its stored tensors.
_OPENERS = {"safetensors": open_safetensors, "pytorch": open_pickle, "gguf": open_gguf}


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
    checkpoint = _OPENERS[choice.container](source, choice.files, choice.index)
    parsed = read_json(source, "config.json")
    config = parsed if isinstance(parsed, dict) else checkpoint.config
    tensors = unpack(
        checkpoint.tensors,
        config,
        read=checkpoint.read_stored,
        read_json=lambda file: read_json(source, file),
    )
    return replace(
        checkpoint,
        tensors=tensors,
        config=config,
        notes=(*choice.notes, *checkpoint.notes),
    )
