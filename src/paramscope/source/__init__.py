"""Where a checkpoint's bytes come from: a folder, a file, or the Hub.

A source lists files and reads byte ranges of them. It knows nothing of formats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Protocol

OnBytes = Callable[[int], None]


class Source(Protocol):
    """One checkpoint's files, wherever they are."""

    @property
    def remote(self) -> bool:
        """Whether a read is a request over the network: few and large ones, then."""

    @property
    def location(self) -> str:
        """What names the place to a user: a path, or a Hub id."""

    @property
    def model_id(self) -> str:
        """`org/name` where it is known, else the folder's or file's own name."""

    @property
    def revision(self) -> str:
        """The commit the files belong to; empty where there is none."""

    def files(self) -> Mapping[str, int]:
        """Every file as a POSIX path relative to the source, with its size in bytes."""

    def read(self, file: str, offset: int, size_bytes: int) -> bytes:
        """Exactly `size_bytes` bytes of `file` from `offset`; thread-safe.

        Raises:
            SourceError: the file is gone, or ends before the range does.
        """

    def state(self, file: str) -> str:
        """What differs where the file's content does, as far as a look at it tells.

        Raises:
            SourceError: the file is gone.
        """

    def sha256(self, file: str, on_bytes: OnBytes) -> str:
        """The hexadecimal SHA-256 of a whole file, measured, or vouched for by the Hub.

        Args:
            on_bytes: told the size of each piece that was read for it; of none, where none was.
        """

    def close(self) -> None:
        """Give back handles and connections; the source is not read again."""


def safe_member(path: str) -> bool:
    """Whether a file name that a checkpoint gives stays inside the folder it is given for."""
    parts = PurePosixPath(path).parts
    windows = PureWindowsPath(path)
    return bool(parts) and not (
        path.startswith(("/", "\\"))
        or windows.drive
        or "\\" in path
        or "\0" in path
        or ".." in parts
    )
