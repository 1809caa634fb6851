"""Which of a source's files are the weights: one copy of one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath

from paramscope.errors import CheckpointError, NoCheckpointError, UsageError
from paramscope.source import Source
from paramscope.source.selection import (
    CONTAINERS,
    UNREAD_FORMATS,
    containers_in,
    missing_shards,
    weight_files,
)

_INDEX_ENDING = ".index.json"


@dataclass(frozen=True, slots=True)
class Choice:
    """The files of one model.

    Attributes:
        container: a key of `CONTAINERS`.
        files: the weight files, POSIX paths within the source.
        index: the file that names the shards, or None.
        notes: what else is here and is not read, in sentences.
    """

    container: str
    files: list[str]
    index: str | None
    notes: tuple[str, ...]


def choose(source: Source, wanted: str | None = None) -> Choice:
    """One copy of one model among the source's files; a file asked for by name is read alone.

    Args:
        wanted: a key of `CONTAINERS`; None for the best that is here.

    Raises:
        UsageError: the container is not known.
        NoCheckpointError: there are no weights, or none in the container that is wanted.
        CheckpointError: files of a series are missing.
    """
    if wanted is not None and wanted not in CONTAINERS:
        raise UsageError(f"--format: unknown {wanted!r}. Known: {', '.join(CONTAINERS)}.")
    files = sorted(source.files())
    alone = PurePath(source.location).name
    if wanted is None and alone in files:
        for key, row in CONTAINERS.items():
            if alone.endswith(row.endings):
                return Choice(key, [alone], None, ())
    present = containers_in(files)
    if not present:
        raise NoCheckpointError(_nothing_to_read(source, files))
    if wanted is not None and wanted not in present:
        raise NoCheckpointError(
            f"{source.location}: expected weights in {CONTAINERS[wanted].title}, found them in "
            f"{', '.join(CONTAINERS[key].title for key in present)}. "
            f"Leave --format {wanted} away, or give --format {present[0]}."
        )
    container = wanted or present[0]
    chosen = weight_files(files, container)
    folder = min((PurePosixPath(file).parent for file in chosen), key=_depth)
    chosen = [file for file in chosen if PurePosixPath(file).parent == folder]
    index = next((file for file in chosen if file.endswith(_INDEX_ENDING)), None)
    weights = [file for file in chosen if file != index]
    if index is None:
        _demand_complete_series(weights)
    return Choice(
        container, weights, index, (*_copies(container, present), *_left_out(weights, files))
    )


def _copies(container: str, present: Sequence[str]) -> tuple[str, ...]:
    others = [key for key in present if key != container]
    if not others:
        return ()
    return (
        f"The weights are here in several formats; {CONTAINERS[container].title} is read. "
        f"--format {' or --format '.join(others)} reads the other copy.",
    )


def _left_out(chosen: list[str], files: list[str]) -> tuple[str, ...]:
    endings = next(row.endings for row in CONTAINERS.values() if chosen[0].endswith(row.endings))
    others = [file for file in files if file.endswith(endings) and file not in chosen]
    if not others:
        return ()
    return (
        f"Only {chosen[0]}{' and its series' if len(chosen) > 1 else ''} is read; also here: "
        f"{', '.join(others[:3])}{', …' if len(others) > 3 else ''}. "
        "Give such a file as MODEL to read it.",
    )


def _depth(folder: PurePosixPath) -> tuple[int, str]:
    return len(folder.parts), str(folder)


def _demand_complete_series(files: list[str]) -> None:
    """Files named `…-00002-of-00003` without an index: all of them, or an error."""
    missing = missing_shards(files)
    if missing:
        raise CheckpointError(
            f"{files[0]}: is one of {len(files) + len(missing)} shards, of which {len(missing)} "
            f"are missing: {', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}. "
            "Download the checkpoint again, or give one shard as MODEL to read it alone."
        )


def _nothing_to_read(source: Source, files: list[str]) -> str:
    supported = ", ".join(f"{row.title} ({', '.join(row.endings)})" for row in CONTAINERS.values())
    found = sorted(
        {name for file in files for ending, name in UNREAD_FORMATS.items() if file.endswith(ending)}
    )
    if found:
        return (
            f"{source.location}: the weights are in a format that is not read: "
            f"{', '.join(found)}. Supported: {supported}. "
            "Convert it, for example with save_pretrained(..., safe_serialization=True)."
        )
    contents = "it is empty" if not files else f"it holds {', '.join(files[:5])}"
    return f"{source.location}: expected weights ({supported}), found none; {contents}."
