"""Checkpoints on the Hugging Face Hub: listed at one commit, read by byte ranges."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urljoin

from paramscope.errors import SourceError
from paramscope.source import OnBytes
from paramscope.source.endpoint import Endpoint, connect
from paramscope.source.hub_id import HubId, parse_hub_id
from paramscope.source.ranges import RangeReader, RemoteFile
from paramscope.source.retries import Retries

__all__ = ["HubId", "HubSource", "Snapshot", "list_snapshot", "open_hub", "parse_hub_id"]

_TEXT_ENDINGS = (".json", ".txt", ".model", ".md", ".jinja", ".tiktoken")
_HEAD_BYTES = 2**15  # holds the header of most shards of dense models: one request instead of two
_KEPT_BYTES = 2**26
_HASHED_AT_ONCE_BYTES = 2**23


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repository's files at one commit: what the revision meant when it was asked."""

    hub_id: HubId
    commit: str
    files: Mapping[str, RemoteFile]


class HubSource:
    """One model on the Hub, at one commit; nothing is stored, reads are thread-safe.

    Of a file of weights the first bytes are kept in memory, of a text all of it, so that a
    header or a configuration costs one request.
    """

    def __init__(self, snapshot: Snapshot, reader: RangeReader) -> None:
        self.snapshot = snapshot
        self.reader = reader
        self._kept: dict[str, bytes] = {}
        self._hashes: dict[str, str] = {}
        self._locks = {file: threading.Lock() for file in snapshot.files}

    def __repr__(self) -> str:
        return f"HubSource({self.location!r})"

    @property
    def remote(self) -> bool:
        """Reads are requests."""
        return True

    @property
    def location(self) -> str:
        """The id as it was asked for, with the revision if one was."""
        return str(self.snapshot.hub_id)

    @property
    def model_id(self) -> str:
        """`org/name`."""
        return self.snapshot.hub_id.repo_id

    @property
    def revision(self) -> str:
        """The commit."""
        return self.snapshot.commit

    def files(self) -> Mapping[str, int]:
        """Every file of the commit, with its size in bytes."""
        return {path: file.size_bytes for path, file in self.snapshot.files.items()}

    def read(self, file: str, offset: int, size_bytes: int) -> bytes:
        """Exactly that range; cut connections are taken up again, a changed file is an error."""
        remote = self._remote(file)
        known = self._start_of(remote, offset)[offset:]
        return self.reader.read(remote, offset, offset + size_bytes, known=known)

    def state(self, file: str) -> str:
        """The hash that the Hub vouches for."""
        remote = self._remote(file)
        return f"sha256 {remote.sha256}" if remote.sha256 else f"git {remote.git_sha1}"

    def sha256(self, file: str, on_bytes: OnBytes) -> str:
        """What the Hub vouches for; of a file without LFS, measured on its content."""
        remote = self._remote(file)
        if remote.sha256:
            return remote.sha256
        if file not in self._hashes:
            digest = hashlib.sha256()
            for start in range(0, remote.size_bytes, _HASHED_AT_ONCE_BYTES):
                size_bytes = min(_HASHED_AT_ONCE_BYTES, remote.size_bytes - start)
                digest.update(self.read(file, start, size_bytes))
                on_bytes(size_bytes)
            self._hashes[file] = digest.hexdigest()
        return self._hashes[file]

    def close(self) -> None:
        """End what is on its way; the connections themselves are shared by huggingface_hub."""
        self.reader.stop()
        self._kept.clear()

    def _remote(self, file: str) -> RemoteFile:
        try:
            return self.snapshot.files[file]
        except KeyError:
            raise SourceError(
                f"{self.location}: expected a file {file!r}, found none of that name."
            ) from None

    def _start_of(self, file: RemoteFile, offset: int) -> bytes:
        """The kept first bytes, fetched when they are first asked for; empty where not kept."""
        text = file.path.endswith(_TEXT_ENDINGS)
        keep_bytes = file.size_bytes if text else min(_HEAD_BYTES, file.size_bytes)
        if offset >= keep_bytes:
            return b""
        with self._locks[file.path]:
            kept = self._kept.get(file.path)
            if kept is None:
                if keep_bytes + sum(map(len, list(self._kept.values()))) > _KEPT_BYTES:
                    return b""
                kept = self.reader.whole(file) if text else self.reader.read(file, 0, keep_bytes)
                self._kept[file.path] = kept
            return kept


def open_hub(
    hub_id: HubId,
    *,
    token: str | bool | None = None,
    endpoint: str | None = None,
    retries: Retries | None = None,
) -> HubSource:
    """Resolve the revision to a commit and list its files; two small requests, no weights.

    Args:
        token: as in huggingface_hub: None uses HF_TOKEN or the saved login, False sends none.
        endpoint: by default HF_ENDPOINT, else the Hub.

    Raises:
        SourceError: no such model or revision, gated, offline, or no way to reach the endpoint;
            the message says the next step.
    """
    place = connect(hub_id, token=token, endpoint=endpoint, retries=retries)
    snapshot = list_snapshot(place)
    return HubSource(snapshot, RangeReader(place, snapshot.commit))


def list_snapshot(place: Endpoint) -> Snapshot:
    """Ask what the revision means, and which files that commit has.

    Raises:
        SourceError: as `open_hub`.
    """
    hub_id = place.hub_id
    model_url = f"{place.url}/api/models/{hub_id.repo_id}"
    revision = "" if hub_id.revision is None else f"/revision/{quote(hub_id.revision, safe='')}"
    try:
        commit = str(place.ask(f"{model_url}{revision}").json()["sha"])
        entries = list(_tree(place, f"{model_url}/tree/{commit}?recursive=true"))
        files = [_remote_file(place, commit, entry) for entry in entries if entry["type"] == "file"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(
            f"{hub_id}: {place.url} does not answer as the Hub does. "
            "Check HF_ENDPOINT, and that no login page of a network is in between."
        ) from error
    return Snapshot(hub_id, commit, {file.path: file for file in sorted(files, key=_path)})


def _tree(place: Endpoint, url: str) -> Iterator[dict[str, Any]]:
    """The entries of all pages; the Hub sends a thousand at once and a link to the next."""
    following: str | None = url
    while following:
        page = place.ask(following)
        yield from page.json()
        link = page.links.get("next", {}).get("url")
        following = urljoin(following, link) if link else None


def _remote_file(place: Endpoint, commit: str, entry: dict[str, Any]) -> RemoteFile:
    from huggingface_hub import hf_hub_url

    path, lfs = str(entry["path"]), entry.get("lfs")
    return RemoteFile(
        path=path,
        size_bytes=int(lfs["size"] if lfs else entry["size"]),
        sha256=str(lfs["oid"]).lower() if lfs else None,
        git_sha1=None if lfs else str(entry["oid"]).lower(),
        url=hf_hub_url(place.hub_id.repo_id, path, revision=commit, endpoint=place.url),
    )


def _path(file: RemoteFile) -> str:
    return file.path
