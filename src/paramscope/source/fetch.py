"""Bring files into a folder: pieces fetched side by side, written in order, checked at the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from paramscope.errors import SourceError
from paramscope.source.landing import Landing
from paramscope.source.ranges import RangeReader, RemoteFile

_PIECE_BYTES = 2**24
_MAX_FETCHES = 3  # of a file whose bytes come wrong


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """How far a download is; `check` reads files that are there, `fetch` brings the others."""

    step: Literal["check", "fetch"]
    file: str
    done_bytes: int
    total_bytes: int


OnDownload = Callable[[DownloadProgress], None]


def fetch(
    files: Sequence[RemoteFile],
    folder: Path,
    reader: RangeReader,
    *,
    max_workers: int,
    arrived: Callable[[RemoteFile, str], None],
    tell: OnDownload,
) -> int:
    """Fetch the files, those whose bytes come wrong up to three times.

    Args:
        arrived: called with every file that is in its place, and its SHA-256.

    Returns:
        The bytes that came over the network.

    Raises:
        SourceError: a file cannot be read, or its bytes keep coming wrong.
    """
    fetched_bytes = 0
    with _workers(max_workers, reader) as pool:
        for _ in range(_MAX_FETCHES):
            wrong: list[Landing] = []
            landings = [Landing(file, folder) for file in files]
            for landing, came_bytes in _landed(landings, reader, pool, max_workers, tell):
                fetched_bytes += came_bytes
                sha256 = landing.finish()
                if sha256 is None:
                    wrong.append(landing)
                else:
                    arrived(landing.file, sha256)
            if not wrong:
                return fetched_bytes
            files = [landing.file for landing in wrong]
    raise SourceError(
        f"{wrong[0].path}: {wrong[0].mismatch()}, {_MAX_FETCHES} times; it was deleted. "
        "The server, or a proxy on the way, sends damaged bytes. Try again later or set "
        "HF_ENDPOINT to another mirror; finished files are kept."
    )


def _landed(
    landings: list[Landing],
    reader: RangeReader,
    pool: ThreadPoolExecutor,
    ahead: int,
    tell: OnDownload,
) -> Iterator[tuple[Landing, int]]:
    """Every landing once its last byte is written, with the bytes that came for it.

    Only this thread writes, and in order: an unfinished file is always a beginning of the
    finished one, which a later run can go on from.
    """
    before_bytes = came_bytes = 0
    total_bytes = sum(landing.file.size_bytes for landing in landings)
    for landing, stop, data in _pieces(landings, reader, pool, ahead):
        landing.append(data)
        came_bytes += len(data)
        tell(DownloadProgress("fetch", landing.file.path, before_bytes + stop, total_bytes))
        if stop == landing.file.size_bytes:
            yield landing, came_bytes
            before_bytes += stop
            came_bytes = 0


def _pieces(
    landings: list[Landing], reader: RangeReader, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[tuple[Landing, int, bytes]]:
    """The pieces of all files in order, `ahead` of them on their way at once."""
    on_the_way: deque[tuple[Landing, int, Future[bytes]]] = deque()
    for landing in landings:
        for start, stop in _cuts(landing.file, landing.begin()):
            read = partial(_read, reader, landing.file, start, stop)
            on_the_way.append((landing, stop, pool.submit(read)))
            if len(on_the_way) >= ahead:
                yield _first(on_the_way)
    while on_the_way:
        yield _first(on_the_way)


def _first(on_the_way: deque[tuple[Landing, int, Future[bytes]]]) -> tuple[Landing, int, bytes]:
    landing, stop, future = on_the_way.popleft()
    return landing, stop, future.result()


def _read(reader: RangeReader, file: RemoteFile, start: int, stop: int) -> bytes:
    return reader.whole(file) if file.sha256 is None else reader.read(file, start, stop)


def _cuts(file: RemoteFile, start: int) -> list[tuple[int, int]]:
    """What is to be fetched from `start` on; one cut at least, so that every file arrives."""
    if file.sha256 is None:
        return [(0, file.size_bytes)]
    starts = range(start, file.size_bytes, _PIECE_BYTES) or (start,)
    return [(at, min(at + _PIECE_BYTES, file.size_bytes)) for at in starts]


@contextmanager
def _workers(count: int, reader: RangeReader) -> Iterator[ThreadPoolExecutor]:
    """Threads that end soon after an error, instead of holding it up until their pieces came."""
    pool = ThreadPoolExecutor(max(1, count), thread_name_prefix="download")
    try:
        yield pool
    except BaseException:
        reader.stop()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
