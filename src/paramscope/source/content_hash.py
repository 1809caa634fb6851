"""The hashes that the Hub vouches for: SHA-256 of large files, git's blob hash of small ones."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paramscope.source.ranges import RemoteFile

_BLOCK_BYTES = 2**22


class ContentHash:
    """Takes a file's bytes in order; says at the end whether they are the Hub's.

        git_sha1 = SHA-1("blob " + size in decimal + NUL + content)

    Source: git-hash-object(1); the tree API names it `oid`.
    """

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        blob = b"blob %d\0" % file.size_bytes
        self._git_sha1 = hashlib.sha1(blob, usedforsecurity=False) if file.git_sha1 else None

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        self._sha256.update(data)
        if self._git_sha1 is not None:
            self._git_sha1.update(data)

    def update_from(self, path: Path) -> None:
        """Take all bytes of a file on disk."""
        with path.open("rb") as handle:
            while block := handle.read(_BLOCK_BYTES):
                self.update(block)

    @property
    def sha256(self) -> str:
        """Of what was taken, hexadecimal."""
        return self._sha256.hexdigest()

    @property
    def expected(self) -> str:
        """What the Hub says, for a message."""
        if self._file.sha256:
            return f"SHA-256 {self._file.sha256}"
        return f"git hash {self._file.git_sha1}"

    @property
    def found(self) -> str:
        """What the bytes say, for a message."""
        return self.sha256 if self._git_sha1 is None else self._git_sha1.hexdigest()

    @property
    def matches(self) -> bool:
        """Whether the bytes are those that the Hub vouches for."""
        return self.found == (self._file.sha256 or self._file.git_sha1 or self.found)
