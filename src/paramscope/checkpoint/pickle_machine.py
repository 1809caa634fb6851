"""The state of the machine that reads a pickle, and how it takes bytes from the program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from paramscope.checkpoint.pickle_records import BrokenError, Storage

_LONGEST_NAME = 512
_CUT_SHORT = "its pickle is cut short. Download the file again."


def _no_more(wanted_bytes: int) -> bytes:
    raise BrokenError(_CUT_SHORT)


@dataclass(slots=True)
class Machine:
    """The state between two operations.

    Attributes:
        data: the program, as far as it is here; `at` is the next byte.
        more: the program from its start to that many bytes or further; or an error.
        left: how many steps it may still take.
        marked: the stacks below the open marks.
        storages: those that the program has referred to, by key.
    """

    data: bytes
    left: int
    more: Callable[[int], bytes] = _no_more
    at: int = 0
    stack: list[object] = field(default_factory=list)
    marked: list[list[object]] = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)

    def take(self, size_bytes: int) -> bytes:
        """The next bytes of the program."""
        start = self.at
        self.at = start + size_bytes
        if self.at > len(self.data):
            self.data = self.more(self.at)
        return self.data[start : self.at]

    def number(self, size_bytes: int) -> int:
        """The next bytes of the program, as an unsigned number."""
        start = self.at
        self.at = start + size_bytes
        if self.at > len(self.data):
            self.data = self.more(self.at)
        if size_bytes == 1:  # most of them
            return self.data[start]
        return int.from_bytes(self.data[start : self.at], "little")

    def line(self) -> str:
        """The text up to the end of the line."""
        characters = bytearray()
        while (character := self.take(1)) != b"\n":
            characters += character
            if len(characters) > _LONGEST_NAME:
                raise damaged("a name without an end")
        return text(bytes(characters))

    def since_mark(self) -> list[object]:
        """What was put on the stack since the last mark, taken off with the mark."""
        found = self.stack
        self.stack = self.marked.pop()
        return found


def damaged(what: str) -> BrokenError:
    """An error for a pickle that cannot be one."""
    return BrokenError(f"its pickle is damaged: {what}. Download the file again.")


def text(data: bytes) -> str:
    """The text that bytes are: UTF-8, or Latin-1 as Python 2 wrote it. Neither is slow."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
