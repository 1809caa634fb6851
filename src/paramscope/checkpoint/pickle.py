"""PyTorch pickles."""

from __future__ import annotations

from collections.abc import Sequence

from paramscope.checkpoint import Checkpoint
from paramscope.source import Source


def open_pickle(source: Source, files: Sequence[str], index: str | None) -> Checkpoint:
    raise NotImplementedError
