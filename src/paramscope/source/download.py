"""Put a model's files into a folder: whole, checked against the Hub's hashes, never twice."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from paramscope.errors import NoCheckpointError, SourceError
from paramscope.source.content_hash import ContentHash
from paramscope.source.endpoint import Endpoint, connect
from paramscope.source.fetch import DownloadProgress, OnDownload, fetch
from paramscope.source.hub import Snapshot, list_snapshot
from paramscope.source.hub_cache import cached_snapshot
from paramscope.source.hub_id import HubId, pinned
from paramscope.source.landing import Landing
from paramscope.source.ranges import RangeReader, RemoteFile
from paramscope.source.retries import Retries
from paramscope.source.selection import demand_safe, nothing_chosen, select
from paramscope.source.sidecar import Sidecar

State = Literal["present", "copied", "fetched", "wanted"]


@dataclass(frozen=True, slots=True)
class DownloadedFile:
    """One file of the result.

    Attributes:
        sha256: hexadecimal; empty in a dry run where the Hub does not say it.
        state: `present` before, `copied` from the cache of huggingface_hub, `fetched`, or
            `wanted` in a dry run.
    """

    path: str
    size_bytes: int
    sha256: str
    state: State


@dataclass(frozen=True, slots=True)
class DownloadResult:
    """Where the files are, and which commit they belong to.

    Attributes:
        fetched_bytes: what came over the network in this call.
    """

    folder: Path
    model_id: str
    revision: str
    files: tuple[DownloadedFile, ...]
    fetched_bytes: int

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(file.size_bytes for file in self.files)


def download(
    model: str | HubId,
    *,
    out: str | Path,
    revision: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    everything: bool = False,
    container: str | None = None,
    dry_run: bool = False,
    max_workers: int = 8,
    progress: OnDownload | None = None,
    token: str | bool | None = None,
    endpoint: str | None = None,
    retries: Retries | None = None,
) -> DownloadResult:
    """Fetch a model from the Hub into `out/org/name`; files that are there are not fetched again.

    Killed at any moment, it goes on from there when called again, in the middle of a file too.

    Args:
        model: `org/name`, with an optional `@revision`.
        out: the folder above; made if need be.
        include, exclude, everything, container: see `selection.select`.
        dry_run: list what would be fetched, write nothing.
        max_workers: connections at once.
        token, endpoint, retries: see `hub.open_hub`.

    Raises:
        SourceError: the Hub refuses or cannot be reached, the disk is too small, or a file's
            bytes come wrong three times; the message says the next step.
        NoCheckpointError: the repository has no weights in a known format.
        UsageError: the id is not one, or names another revision than `revision`.
    """
    hub_id = pinned(model, revision)
    place = connect(hub_id, token=token, endpoint=endpoint, retries=retries)
    snapshot = _list_files(place)
    chosen = _choose(
        snapshot, include=include, exclude=exclude, everything=everything, container=container
    )
    job = _Job(
        place=place,
        snapshot=snapshot,
        folder=Path(out, *hub_id.repo_id.split("/")),
        max_workers=max_workers,
        tell=progress or (lambda _: None),
    )
    return job.preview(chosen) if dry_run else job.run(chosen)


@dataclass(frozen=True, kw_only=True)
class _Job:
    place: Endpoint
    snapshot: Snapshot
    folder: Path
    max_workers: int
    tell: OnDownload

    def preview(self, files: list[RemoteFile]) -> DownloadResult:
        """What is there by its size, and what is wanted."""
        listed = [
            DownloadedFile(
                file.path,
                file.size_bytes,
                file.sha256 or "",
                "present" if _size_bytes(self.folder / file.path) == file.size_bytes else "wanted",
            )
            for file in files
        ]
        return self._result(listed, 0)

    def run(self, files: list[RemoteFile]) -> DownloadResult:
        """Check what is there, copy what is cached, fetch the rest."""
        with _writing(self.folder), _alone(self.folder):
            sidecar = Sidecar.load(self.folder)
            _remove_replaced(sidecar, self.snapshot)
            sidecar.model_id = self.snapshot.hub_id.repo_id
            sidecar.revision = self.snapshot.commit
            sidecar.endpoint = self.place.url
            states: dict[str, State] = dict.fromkeys(self._present(files, sidecar), "present")
            missing = [file for file in files if file.path not in states]
            self._demand_space(missing)
            sidecar.save(complete=not missing)
            for file in list(missing):
                if self._copy_cached(file, sidecar):
                    states[file.path] = "copied"
                    missing.remove(file)

            def arrived(file: RemoteFile, sha256: str) -> None:
                sidecar.record(file.path, sha256)
                sidecar.save(complete=False)

            fetched_bytes = fetch(
                missing,
                self.folder,
                RangeReader(self.place, self.snapshot.commit),
                max_workers=self.max_workers,
                arrived=arrived,
                tell=self.tell,
            )
            sidecar.save(complete=True)
        listed = [
            DownloadedFile(
                file.path,
                file.size_bytes,
                str(sidecar.files[file.path]["sha256"]),
                states.get(file.path, "fetched"),
            )
            for file in files
        ]
        return self._result(listed, fetched_bytes)

    def _result(self, files: list[DownloadedFile], fetched_bytes: int) -> DownloadResult:
        return DownloadResult(
            self.folder,
            self.snapshot.hub_id.repo_id,
            self.snapshot.commit,
            tuple(files),
            fetched_bytes,
        )

    def _present(self, files: list[RemoteFile], sidecar: Sidecar) -> list[str]:
        """The files that lie there and have the Hub's bytes."""
        here = [f for f in files if _size_bytes(self.folder / f.path) == f.size_bytes]
        total_bytes = sum(file.size_bytes for file in here)
        present: list[str] = []
        done_bytes = 0
        for file in here:
            self.tell(DownloadProgress("check", file.path, done_bytes, total_bytes))
            recorded = sidecar.untouched_sha256(file.path)
            if recorded is None or recorded != file.sha256:
                content = ContentHash(file)
                content.update_from(self.folder / file.path)
                if content.matches:
                    sidecar.record(file.path, content.sha256)
                    recorded = content.sha256
                else:
                    recorded = None
            if recorded:
                present.append(file.path)
            done_bytes += file.size_bytes
        return present

    def _demand_space(self, missing: list[RemoteFile]) -> None:
        """Refuse before the first byte what cannot end well."""
        parts_bytes = sum(Landing(file, self.folder).part_bytes() for file in missing)
        needed_bytes = sum(file.size_bytes for file in missing) - parts_bytes
        free_bytes = shutil.disk_usage(self.folder).free
        if needed_bytes > free_bytes:
            raise SourceError(
                f"{self.folder}: {_gigabytes(needed_bytes)} are still to be written, the disk "
                f"has {_gigabytes(free_bytes)} free. Choose another --out, or analyse without "
                f"storing the model: paramscope analyze {self.snapshot.hub_id} --stream"
            )

    def _copy_cached(self, file: RemoteFile, sidecar: Sidecar) -> bool:
        """Take the file from the cache of huggingface_hub, if it is there and whole."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(
            self.snapshot.hub_id.repo_id, file.path, revision=self.snapshot.commit
        )
        if not isinstance(found, str) or _size_bytes(Path(found)) != file.size_bytes:
            return False
        landing = Landing(file, self.folder)
        landing.part.unlink(missing_ok=True)
        landing.begin()
        landing.copy_from(Path(found))
        sha256 = landing.finish()
        if sha256 is None:
            return False
        sidecar.record(file.path, sha256)
        sidecar.save(complete=False)
        return True


def _list_files(place: Endpoint) -> Snapshot:
    """The Hub's listing; offline, the cache's where it has all the weights."""
    from huggingface_hub import is_offline_mode

    hub_id = place.hub_id
    cached = cached_snapshot(hub_id.repo_id, hub_id.revision) if is_offline_mode() else None
    if cached is None or not cached.complete:
        return list_snapshot(place)
    files = {}
    for path in cached.files:
        stored = cached.hash_of(path) or ""
        files[path] = RemoteFile(
            path=path,
            size_bytes=(cached.folder / path).stat().st_size,
            sha256=stored if len(stored) == 64 else None,
            git_sha1=stored if len(stored) == 40 else None,
            url="",
        )
    return Snapshot(hub_id, cached.commit, files)


def _choose(
    snapshot: Snapshot,
    *,
    include: Sequence[str],
    exclude: Sequence[str],
    everything: bool,
    container: str | None,
) -> list[RemoteFile]:
    """The files to have, their names safe.

    Raises:
        NoCheckpointError: none.
    """
    where = str(snapshot.hub_id)
    names = list(snapshot.files)
    chosen = select(
        names, include=include, exclude=exclude, everything=everything, container=container
    )
    if not chosen:
        raise NoCheckpointError(
            nothing_chosen(names, where=where, patterns=bool(include or exclude))
        )
    for name in chosen:
        demand_safe(name, where=where)
    return [snapshot.files[name] for name in chosen]


def _remove_replaced(sidecar: Sidecar, snapshot: Snapshot) -> None:
    """Remove what an earlier revision brought, unchanged since, and this one does not have.

    An index left behind would make the old weights pass for those of the new revision.
    """
    if sidecar.revision == snapshot.commit:
        return
    for path in list(sidecar.files):
        if path not in snapshot.files and sidecar.untouched_sha256(path):
            demand_safe(path, where=str(sidecar.folder))
            (sidecar.folder / path).unlink()
            del sidecar.files[path]


def _gigabytes(size_bytes: int) -> str:
    """Two digits at least, so that a small model on a full disk does not need 0.0 GB."""
    digits = 1 if size_bytes >= 10**9 else 4
    return f"{size_bytes / 1e9:,.{digits}f} GB"


def _size_bytes(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Errors of the disk as ours."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise SourceError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error}). "
            "Make room or choose another --out; what was fetched is kept."
        ) from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No second download writes into the folder meanwhile."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".paramscope.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise SourceError(
            f"{folder}: another download is writing here. Wait for it to end."
        ) from None
    try:
        yield
    finally:
        lock.release()
