"""From what a user calls MODEL to sources: a local path wins, then the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paramscope.errors import SourceError, UsageError
from paramscope.source import Source
from paramscope.source.hub_id import parse_hub_id, pinned
from paramscope.source.local import LocalSource, find_local

DOWNLOADS = Path("data/models")


def find_sources(
    model: str | Path,
    *,
    model_id: str | None = None,
    revision: str | None = None,
    stored: bool = True,
    container: str | None = None,
) -> Sequence[Source]:
    """Every checkpoint that `model` names.

    Args:
        model: a folder, a file, a folder that holds several models, or `org/name[@revision]`.
        model_id: only this one of several.
        revision: on the Hub, the branch, tag or commit; of local files, what to put down.
        stored: whether a model on the Hub is downloaded, into `data/models/org/name`, or read
            where it is.
        container: which copy of the weights is downloaded, where a repository has several.

    Raises:
        SourceError: there is nothing of that name.
    """
    path = Path(model)
    hub_id = None if path.exists() else parse_hub_id(str(model))
    if hub_id is None:
        return find_local(path, model_id=model_id, revision=revision)
    try:
        return [_on_the_hub(str(model), revision, stored=stored, container=container)]
    except SourceError as error:
        if str(model).startswith("hf://"):
            raise
        raise type(error)(f"{error}\nNor is there a file or folder {str(model)!r} here.") from error


def _on_the_hub(model: str, revision: str | None, *, stored: bool, container: str | None) -> Source:
    from paramscope.source.download import download
    from paramscope.source.hub import open_hub

    if not stored:
        return open_hub(pinned(model, revision))
    result = download(model, out=DOWNLOADS, revision=revision, container=container)
    return LocalSource(result.folder, result.model_id, result.revision)


def find_source(
    model: str | Path,
    *,
    model_id: str | None = None,
    revision: str | None = None,
    stored: bool = True,
    container: str | None = None,
) -> Source:
    """The one checkpoint that `model` names.

    Raises:
        UsageError: there are several; the message names them.
    """
    sources = find_sources(
        model, model_id=model_id, revision=revision, stored=stored, container=container
    )
    if len(sources) > 1:
        names = ", ".join(source.model_id for source in sources[:5])
        raise UsageError(
            f"{model}: expected one model, found {len(sources)}: "
            f"{names}{', …' if len(sources) > 5 else ''}. Choose one with model_id."
        )
    return sources[0]
