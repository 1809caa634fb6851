"""Where one downloaded file arrives: beside its place, checked, then moved there whole."""

from __future__ import annotations

import os
from pathlib import Path

from paramscope.source.content_hash import ContentHash
from paramscope.source.ranges import RemoteFile


class Landing:
    """One file on its way: bytes are appended in order, in as many runs as it takes.

    The name of the unfinished file carries the hash of the finished one, so that what an
    interrupted run left is taken up only for the same content.
    """

    def __init__(self, file: RemoteFile, folder: Path) -> None:
        self.file = file
        self.path = folder / file.path
        self._identity = (file.sha256 or file.git_sha1 or "unknown")[:16]
        self._hash = ContentHash(file)
        self._done_bytes = 0

    @property
    def part(self) -> Path:
        """The unfinished file."""
        return self.path.with_name(f".{self.path.name}.{self._identity}.part")

    def part_bytes(self) -> int:
        """How much of the file an earlier run has left, that this one can go on from."""
        if self.file.sha256 is None:  # small, and asked for in one piece
            return 0
        try:
            size_bytes = self.part.stat().st_size
        except OSError:
            return 0
        return size_bytes if size_bytes <= self.file.size_bytes else 0

    def begin(self) -> int:
        """Prepare to append; gives the number of bytes that are there already."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for other in self.path.parent.glob(f".{_literal(self.path.name)}.*.part"):
            if other != self.part:
                other.unlink(missing_ok=True)  # of another version of the file
        self._hash = ContentHash(self.file)
        self._done_bytes = self.part_bytes()
        if self._done_bytes:
            self._hash.update_from(self.part)
        else:
            self.part.write_bytes(b"")
        return self._done_bytes

    def append(self, data: bytes) -> None:
        """Write the next bytes."""
        with self.part.open("ab") as handle:
            handle.write(data)
        self._hash.update(data)

    def copy_from(self, other: Path) -> None:
        """Write all bytes of a file on this disk."""
        with other.open("rb") as handle:
            while block := handle.read(2**24):
                self.append(block)

    def finish(self) -> str | None:
        """Move the file to its place and give its SHA-256; None, and nothing, if it is wrong."""
        if not self._hash.matches:
            self.part.unlink(missing_ok=True)
            return None
        with self.part.open("rb+") as handle:
            os.fsync(handle.fileno())
        self.part.replace(self.path)
        return self._hash.sha256

    def mismatch(self) -> str:
        """What was expected and what came, for a message."""
        return f"expected {self._hash.expected}, found {self._hash.found}"


def _literal(name: str) -> str:
    """The name as a pattern that matches only itself."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)
