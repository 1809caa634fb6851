"""Checkpoints on this machine: a folder, one file, or a folder with several models below it."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from paramscope.errors import NoCheckpointError, SourceError, nearest_first
from paramscope.source import OnBytes, safe_member
from paramscope.source.selection import CONTAINERS

SIDECAR = ".paramscope.json"  # what a download left beside the files: revision and hashes
WEIGHT_ENDINGS = tuple(ending for row in CONTAINERS.values() for ending in row.endings)
BESIDE_A_FILE = ("config.json", "adapter_config.json", "tokenizer.json")
_SEARCH_DEPTH = 5
_SAMPLES, _SAMPLE_BYTES = 16, 2**14


class LocalSource:
    """A folder's files, or one file on its own; reads are positioned and thread-safe."""

    def __init__(self, path: Path, model_id: str = "", revision: str = "") -> None:
        """Name a place; `model_id` and `revision` are what the user calls it, if anything."""
        self.path = path
        self._model_id = model_id
        self._revision = revision
        self._handles: dict[str, BinaryIO] = {}
        self._lock = threading.Lock()

    @property
    def remote(self) -> bool:
        return False

    @property
    def location(self) -> str:
        return str(self.path)

    @property
    def model_id(self) -> str:
        recorded = self._sidecar.get("model_id")
        if self._model_id or recorded:
            return self._model_id or str(recorded)
        return self.path.stem if self.path.is_file() else self.path.resolve().name

    @property
    def revision(self) -> str:
        return self._revision or str(self._sidecar.get("revision", ""))

    @cached_property
    def folder(self) -> Path:
        return self.path.parent if self.path.is_file() else self.path

    @cached_property
    def _files(self) -> dict[str, int]:
        if self.path.is_file():
            beside = (self.folder / name for name in BESIDE_A_FILE)
            chosen = (self.path, *(file for file in beside if file.is_file()))
            return {file.name: file.stat().st_size for file in chosen}
        return {
            file.relative_to(self.folder).as_posix(): file.stat().st_size
            for file in sorted(self.folder.rglob("*"))
            if file.is_file() and not file.name.startswith(".")
        }

    def files(self) -> Mapping[str, int]:
        return self._files

    def read(self, file: str, offset: int, size_bytes: int) -> bytes:
        try:
            data = self._read(file, offset, size_bytes)
        except OSError as error:
            raise SourceError(self._unreadable(file, error)) from error
        if len(data) != size_bytes:
            raise SourceError(
                f"{self.folder / file}: expected {size_bytes:,} bytes at {offset:,}, found "
                f"{len(data):,}. The file changed while it was read, or was cut short."
            )
        return data

    def _unreadable(self, file: str, error: OSError) -> str:
        return (
            f"{self.folder / file}: cannot be read ({error.strerror}). "
            "Check that the disk is mounted and the file readable."
        )

    def _read(self, file: str, offset: int, size_bytes: int) -> bytes:
        handle = self._handle(file)
        if hasattr(os, "pread"):
            return _pread(handle.fileno(), offset, size_bytes)
        with self._lock:  # Windows has no positioned read
            handle.seek(offset)
            return handle.read(size_bytes)

    def _handle(self, file: str) -> BinaryIO:
        with self._lock:
            if file not in self._handles:
                self._handles[file] = (self.folder / file).open("rb", buffering=0)
            return self._handles[file]

    def state(self, file: str) -> str:
        """The hash that the download checked; else size, time of the last change, and samples.

        The time tells of a change anywhere in the file; the samples tell files apart whose times
        were set by a program, as package managers do.
        """
        try:
            return self._look_at(file)
        except OSError as error:
            raise SourceError(self._unreadable(file, error)) from error

    def _look_at(self, file: str) -> str:
        if recorded := self._recorded_hash(file):
            return f"sha256 {recorded}"
        samples = xxhash.xxh3_128()
        with (self.folder / file).open("rb") as handle:
            stat = os.fstat(handle.fileno())
            width = min(_SAMPLE_BYTES, stat.st_size)
            for at in range(_SAMPLES):
                handle.seek((stat.st_size - width) * at // (_SAMPLES - 1))
                samples.update(handle.read(width))
        return f"{stat.st_size} bytes, {stat.st_mtime_ns} ns, {samples.hexdigest()}"

    def sha256(self, file: str, on_bytes: OnBytes) -> str:
        recorded = self._recorded_hash(file)
        if recorded:
            return recorded
        with (self.folder / file).open("rb") as handle:
            digest = hashlib.sha256()
            while block := handle.read(2**22):
                digest.update(block)
                on_bytes(len(block))
            return digest.hexdigest()

    def _recorded_hash(self, file: str) -> str | None:
        """The hash that the download checked, where the file was not touched since."""
        entry = self._sidecar.get("files", {}).get(file, {})
        stat = (self.folder / file).stat()
        unchanged = (entry.get("size_bytes"), entry.get("mtime_ns")) == (
            stat.st_size,
            stat.st_mtime_ns,
        )
        return str(entry["sha256"]) if unchanged and "sha256" in entry else None

    @cached_property
    def _sidecar(self) -> dict[str, Any]:
        try:
            parsed = json.loads((self.folder / SIDECAR).read_bytes())
        except (OSError, ValueError):
            return {}
        return parsed if isinstance(parsed, dict) else {}

    def close(self) -> None:
        with self._lock:
            for handle in self._handles.values():
                handle.close()
            self._handles.clear()


def _pread(descriptor: int, offset: int, size_bytes: int) -> bytes:
    """All of a range: one call returns 2 GiB at most, and a network disk may return less."""
    data = os.pread(descriptor, size_bytes, offset)
    if len(data) == size_bytes or not data:
        return data
    pieces = [data]
    read_bytes = len(data)
    while read_bytes < size_bytes:
        piece = os.pread(descriptor, size_bytes - read_bytes, offset + read_bytes)
        if not piece:
            break
        pieces.append(piece)
        read_bytes += len(piece)
    return b"".join(pieces)


def find_local(path: Path, *, model_id: str | None, revision: str | None) -> list[LocalSource]:
    """The checkpoint at `path`, or every checkpoint in the folders below it.

    Args:
        model_id: only this one, such as `Qwen/Qwen3-4B` below `data/models`; where `path` is one
            model, what to call it.
        revision: what to put down as the revision; nothing is looked up.

    Raises:
        SourceError: the path does not exist, or has no model of that id.
        NoCheckpointError: nothing below it looks like weights.
    """
    if not path.exists():
        raise SourceError(_missing(path))
    if path.is_file():
        return [LocalSource(path, model_id or "", revision or "")]
    if not os.access(path, os.R_OK | os.X_OK):
        raise SourceError(f"{path}: the folder cannot be read. Check its permissions.")
    if model_id and safe_member(model_id) and (path / model_id).is_dir():
        return [LocalSource(path / model_id, model_id, revision or "")]
    folders = list(_weight_folders(path, _SEARCH_DEPTH))
    if not folders:
        raise NoCheckpointError(
            f"{path}: expected a checkpoint, or folders with checkpoints, found no weight file "
            f"({', '.join(WEIGHT_ENDINGS)}) in it or below. Check the path."
        )
    if folders == [path]:
        return [LocalSource(path, model_id or "", revision or "")]
    sources = {
        folder.relative_to(path).as_posix(): LocalSource(
            folder, folder.relative_to(path).as_posix(), revision or ""
        )
        for folder in folders
    }
    if model_id is None:
        return list(sources.values())
    chosen = [source for name, source in sources.items() if model_id == name]
    if not chosen:
        names = ", ".join(nearest_first(model_id, list(sources))[:5])
        raise SourceError(f"{path}: expected the model {model_id!r}, found {names}.")
    return chosen


def _weight_folders(folder: Path, depth: int) -> Iterator[Path]:
    """Folders that hold weights, the search ending at each: what lies below belongs to it."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    if any(entry.suffix in WEIGHT_ENDINGS and entry.is_file() for entry in entries):
        yield folder
    elif depth:
        for entry in entries:
            if entry.is_dir() and not entry.name.startswith("."):
                yield from _weight_folders(entry, depth - 1)


def _missing(path: Path) -> str:
    parent = path.parent
    entries = parent.iterdir() if parent.is_dir() else ()
    names = sorted(e.name for e in entries if e.is_dir() or e.name.endswith(WEIGHT_ENDINGS))
    close = nearest_first(path.name, names)[:3] if names else []
    hint = f" In {parent} there are: {', '.join(close)}." if close else ""
    return f"{path}: expected a checkpoint (folder or file of weights), found nothing.{hint}"
