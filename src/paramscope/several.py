"""Several models in one folder: one after another, whatever happens to one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from paramscope.errors import ParamscopeError
from paramscope.source import Source

T = TypeVar("T")


def folder_name(model_id: str) -> str:
    """`Qwen/Qwen3-4B` as one folder's name: `Qwen--Qwen3-4B`."""
    return model_id.replace("/", "--")


def each_model(
    sources: Sequence[Source], out: Path | None, work: Callable[[Source, Path | None], T]
) -> Iterator[T]:
    """What `work` gives for each source, and a folder for it: of its own below `out`.

    Raises:
        ParamscopeError: some models cannot be worked on; raised when the others are done, and of
            the kind of the first of them.
    """
    failed: list[tuple[str, ParamscopeError]] = []
    for source in sources:
        own = out / folder_name(source.model_id) if out is not None and len(sources) > 1 else out
        try:
            result = work(source, own)
        except ParamscopeError as error:
            failed.append((source.model_id, error))
            continue
        yield result
    if not failed:
        return
    _, first = failed[0]
    if len(sources) == 1:
        raise first
    said = "\n".join(f"  {model_id}: {error}" for model_id, error in failed)
    raise type(first)(
        f"{len(failed)} of {len(sources)} models could not be read:\n{said}"
    ) from first
