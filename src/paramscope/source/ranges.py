"""Byte ranges of a file over HTTP: exactly the bytes asked for, of one version, or an error."""

from __future__ import annotations

import io
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urljoin

from paramscope.errors import SourceError
from paramscope.source.content_hash import ContentHash
from paramscope.source.endpoint import (
    Endpoint,
    answered,
    origin,
    passing,
    raise_for_status,
)
from paramscope.source.retries import RETRIED_STATUS, PassingError, retrying

if TYPE_CHECKING:
    from httpx2 import Response

T = TypeVar("T")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_HOPS = 8
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a repository at one commit.

    Attributes:
        sha256: what the Hub vouches for; None for a file that git itself holds.
        git_sha1: the git blob hash, of the content where `sha256` is None.
        url: where the endpoint answers for it.
    """

    path: str
    size_bytes: int
    sha256: str | None
    git_sha1: str | None
    url: str


class RangeReader:
    """Reads ranges of files that one endpoint serves, itself or through redirects; thread-safe.

    The token goes to the endpoint's origin (scheme, host, port) and to no other.

    Args:
        commit: the revision that the endpoint must answer for.
    """

    def __init__(self, endpoint: Endpoint, commit: str) -> None:
        self._endpoint = endpoint
        self._commit = commit
        self._locations: dict[str, str] = {}
        self._etags: dict[tuple[str, str], str | None] = {}
        self._lock = threading.Lock()
        self._resolving: dict[str, threading.Lock] = defaultdict(threading.Lock)

    def read(self, file: RemoteFile, start: int, stop: int, *, known: bytes = b"") -> bytes:
        """Bytes `start … stop` of the file; a cut connection is taken up where it broke off.

        Args:
            known: the first of these bytes, where they are known already.

        Raises:
            SourceError: the server ignores ranges, the file changed, or the attempts are used up.
        """
        if not 0 <= start <= stop <= file.size_bytes:
            raise SourceError(
                f"{file.path}: expected a range within {file.size_bytes:,} bytes, "
                f"got {start:,} to {stop:,}."
            )
        buffer = io.BytesIO()
        buffer.write(known[: stop - start])
        if start + buffer.tell() < stop:
            self._retrying(file, lambda: self._stream(file, start, stop, buffer))
        return buffer.getvalue()

    def whole(self, file: RemoteFile) -> bytes:
        """All bytes of a file that fits into memory, checked against the Hub's hash.

        Raises:
            SourceError: as `read`, or the bytes keep coming wrong.
        """
        return self._retrying(file, lambda: self._whole(file))

    def stop(self) -> None:
        """End all transfers and waits of other threads, with an error there."""
        self._endpoint.stopped.set()

    def _retrying(self, file: RemoteFile, action: Callable[[], T]) -> T:
        return retrying(
            action, self._endpoint.retries, where=file.path, stopped=self._endpoint.stopped
        )

    def _whole(self, file: RemoteFile) -> bytes:
        if file.sha256:
            content = self.read(file, 0, file.size_bytes)
        else:  # asked for without a range: what git holds is text, which servers like to compress
            with self._open("GET", file, file.url, {}) as response:
                content = b"".join(passing(response.iter_bytes()))
        if len(content) != file.size_bytes:
            raise PassingError(f"expected {file.size_bytes:,} bytes, got {len(content):,}")
        found = ContentHash(file)
        found.update(content)
        if not found.matches:
            raise PassingError(f"expected {found.expected}, got {found.found}")
        return content

    def _stream(self, file: RemoteFile, start: int, stop: int, buffer: io.BytesIO) -> None:
        """Append to the buffer what it lacks of the range."""
        before = buffer.tell()
        first = start + before
        location = self._location(file)
        wanted = {"Range": f"bytes={first}-{stop - 1}"}
        try:
            with self._open("GET", file, location, wanted) as response:
                self._check_range(file, response, first, stop)
                for piece in passing(response.iter_raw()):
                    if start + buffer.tell() + len(piece) > stop:
                        raise SourceError(_wrong(file, "sent more bytes than asked for"))
                    buffer.write(piece)
                    if self._endpoint.stopped.is_set():
                        raise SourceError(f"{file.path}: the reading was stopped.")
        except PassingError as error:
            error.progress_bytes = buffer.tell() - before
            raise
        if start + buffer.tell() != stop:
            raise PassingError("the connection was cut", progress_bytes=buffer.tell() - before)

    def _location(self, file: RemoteFile) -> str:
        """Where the bytes are: the endpoint says so once per file, until that place fails."""
        with self._lock:
            resolving = self._resolving[file.path]
        with resolving:
            known = self._locations.get(file.path)
            if known is None:
                with self._open("HEAD", file, file.url, {}) as response:
                    here = str(response.url)
                    known = urljoin(here, response.headers.get("Location", ""))
                self._locations[file.path] = known
            return known

    @contextmanager
    def _open(
        self, method: str, file: RemoteFile, url: str, extra: Mapping[str, str]
    ) -> Iterator[Response]:
        """One request, its redirects followed by hand; a HEAD stops before it leaves the origin."""
        from huggingface_hub import get_session

        endpoint = self._endpoint
        with ExitStack() as stack:
            for _ in range(_MAX_HOPS):
                request = get_session().stream(
                    method,
                    url,
                    headers={**endpoint.headers_for(url), **extra},
                    follow_redirects=False,
                    timeout=endpoint.retries.timeout_s,
                )
                with endpoint.translated():
                    response = stack.enter_context(request)
                    self._check_status(file, response, ours=endpoint.owns(url))
                if endpoint.owns(url):
                    self._check_version(file, response)
                target = urljoin(url, response.headers.get("Location", ""))
                redirects = response.status_code in _REDIRECTS and target != url
                if not redirects or (method == "HEAD" and not endpoint.owns(target)):
                    break
                stack.close()
                url = target
            else:
                raise SourceError(_wrong(file, f"redirects more than {_MAX_HOPS} times"))
            yield response

    def _check_status(self, file: RemoteFile, response: Response, *, ours: bool) -> None:
        status = response.status_code
        if status < 400:
            return
        self._locations.pop(file.path, None)
        if status in RETRIED_STATUS or not ours:
            # A signed address of another host answers 403 when it has expired: ask for a new one.
            raise answered(response)
        raise_for_status(response)

    def _check_version(self, file: RemoteFile, response: Response) -> None:
        """The endpoint must answer for the commit, and for the content, that was listed."""
        commit = response.headers.get("X-Repo-Commit")
        if commit and commit != self._commit:
            raise SourceError(_changed(file, f"commit {self._commit[:12]}", commit[:12]))
        linked = (response.headers.get("X-Linked-Etag") or "").strip('"')
        if file.sha256 and _SHA256.fullmatch(linked) and linked != file.sha256:
            raise SourceError(_changed(file, f"SHA-256 {file.sha256[:12]}…", f"{linked[:12]}…"))

    def _check_range(self, file: RemoteFile, response: Response, start: int, stop: int) -> None:
        if response.status_code != 206:
            raise SourceError(
                _wrong(file, f"answered {response.status_code} to a range, expected 206")
                + " It ignores ranges: download the model instead, or choose another HF_ENDPOINT."
            )
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise SourceError(_wrong(file, "compressed a byte range, which then is another one"))
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or (int(found[1]), int(found[2])) != (start, stop - 1):
            sent = response.headers.get("Content-Range", "no Content-Range")
            raise SourceError(_wrong(file, f"sent {sent!r:.60}, expected {start}-{stop - 1}"))
        if found[3] != "*" and int(found[3]) != file.size_bytes:
            raise SourceError(
                _changed(file, f"{file.size_bytes:,} bytes in all", f"{int(found[3]):,}")
            )
        etag = response.headers.get("ETag")
        etag = etag.removeprefix("W/") if etag else None
        place = (file.path, origin(str(response.url)))
        with self._lock:
            pinned = self._etags.setdefault(place, etag)
        if pinned != etag:
            raise SourceError(_changed(file, f"ETag {pinned}", str(etag)))


def _wrong(file: RemoteFile, what: str) -> str:
    return f"{file.path}: the server {what}."


def _changed(file: RemoteFile, expected: str, found: str) -> str:
    return (
        f"{file.path}: expected {expected}, found {found}: the file changed on the server while "
        "it was read. Nothing of it is mixed: start again, with --revision to pin a commit."
    )
