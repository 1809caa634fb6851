"""From what a user calls MODEL to sources: a local path wins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paramscope.errors import UsageError
from paramscope.source import Source
from paramscope.source.local import find_local


def find_sources(
    model: str | Path, *, model_id: str | None = None, revision: str | None = None
) -> Sequence[Source]:
    """Every checkpoint that `model` names.

    Args:
        model: a folder, a file, or a folder that holds several models.
        model_id: only this one of several.
        revision: what to put down as the revision.

    Raises:
        SourceError: there is nothing of that name.
    """
    return find_local(Path(model), model_id=model_id, revision=revision)


def find_source(
    model: str | Path, *, model_id: str | None = None, revision: str | None = None
) -> Source:
    """The one checkpoint that `model` names.

    Raises:
        UsageError: there are several; the message names them.
    """
    sources = find_sources(model, model_id=model_id, revision=revision)
    if len(sources) > 1:
        names = ", ".join(source.model_id for source in sources[:5])
        raise UsageError(
            f"{model}: expected one model, found {len(sources)}: "
            f"{names}{', …' if len(sources) > 5 else ''}. Choose one with model_id."
        )
    return sources[0]
