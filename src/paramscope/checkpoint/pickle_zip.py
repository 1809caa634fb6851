"""The zip archives of torch.save (1.6 and later): a pickle, and one entry for each storage.

    <root>/data.pkl        what the tensors are
    <root>/byteorder       "little" or "big"; absent in old files, which are little-endian
    <root>/data/<key>      the bytes of one storage, stored without compression

Only the directory at the end, the pickle and the entries' own small headers are read here.

Source: PKWARE APPNOTE 6.3.10, 4.3.7 to 4.3.16 and 4.5.3; `torch/serialization.py`, `_save`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from paramscope.checkpoint.pickle_machine import Machine, text
from paramscope.checkpoint.pickle_program import MOST_BYTES, MOST_STEPS, run
from paramscope.checkpoint.pickle_records import BrokenError
from paramscope.checkpoint.scattered import read_ranges
from paramscope.checkpoint.storages import Place, Program
from paramscope.source import Source

_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_IN_EXTRA = 0xFFFFFFFF  # the number is too large for its place, and stands in the extra field
_ENCRYPTED = 1
_LONGEST_COMMENT = 0xFFFF
_MOST_DIRECTORY_BYTES = 32 * 2**20
_MOST_ENTRIES = 200_000
_DAMAGED = "Download the file again."


@dataclass(frozen=True, slots=True)
class _Entry:
    """One line of the directory; `limit` is where the next entry, or the directory, begins."""

    name: bytes
    header: int
    nbytes: int
    plain: bool
    limit: int = 0


def read_zip(source: Source, file: str) -> Program:
    """What the archive's pickle describes, and where its storages lie.

    Raises:
        BrokenError: it is no archive of torch.save, or is damaged.
    """
    directory, directory_start = _directory(source, file)
    entries = _entries(directory, directory_start)
    root = next(iter(entries), "").split("/")[0]
    if f"{root}/constants.pkl" in entries:
        raise BrokenError(
            "is a TorchScript archive: a program with its weights. Load it with torch.jit.load "
            "and save its state_dict() with torch.save."
        )
    pickled = entries.get(f"{root}/data.pkl")
    if pickled is None:
        raise BrokenError(
            f"is a zip archive, not of torch.save: it has no data.pkl, but {_few(entries)}. "
            "Unpack it and give what is in it."
        )
    if pickled.nbytes > MOST_BYTES:
        raise BrokenError(
            f"refused: its pickle is {pickled.nbytes:,} bytes long; {MOST_BYTES:,} are enough "
            "for the weights of any model."
        )
    order = [entries[name] for name in (f"{root}/byteorder",) if name in entries]
    starts = _starts(source, file, [pickled, *order])
    if order and source.read(file, starts[1], min(order[0].nbytes, 16)) != b"little":
        raise BrokenError(
            "its numbers are not in little-endian order. Save it again on a machine where they are."
        )
    data = source.read(file, starts[0], pickled.nbytes)
    value = run(Machine(data, MOST_STEPS))

    def places(keys: Iterable[str]) -> dict[str, Place]:
        found = {key: entries[name] for key in keys if (name := f"{root}/data/{key}") in entries}
        starts = _starts(source, file, list(found.values()))
        return {
            key: Place(start, entry.nbytes)
            for (key, entry), start in zip(found.items(), starts, strict=True)
        }

    prefix = f"{root}/data/"
    stored = {name.removeprefix(prefix) for name in entries if name.startswith(prefix)}
    sizes = {key: entries[prefix + key].nbytes for key in stored}
    return Program(value, data + directory, places, sizes)


def _directory(source: Source, file: str) -> tuple[bytes, int]:
    """The directory's bytes and where they start."""
    file_bytes = source.files()[file]
    tail_start = max(0, file_bytes - _LONGEST_COMMENT - _END.size - _LOCATOR_64.size)
    tail = source.read(file, tail_start, file_bytes - tail_start)
    at = tail.rfind(b"PK\5\6")
    while at >= 0 and not _ends(tail, at):
        at = tail.rfind(b"PK\5\6", 0, at)
    if at < 0:
        raise BrokenError(f"is a zip archive that was cut short: its end is missing. {_DAMAGED}")
    size, start = _END.unpack_from(tail, at)[5:7]
    end = tail_start + at
    locator = tail[max(0, at - _LOCATOR_64.size) : at]
    if locator.startswith(b"PK\6\7") and len(locator) == _LOCATOR_64.size:
        end = _LOCATOR_64.unpack(locator)[2]
        if end + _END_64.size > file_bytes:
            raise BrokenError(f"its zip directory lies behind its end. {_DAMAGED}")
        signature, *_, size, start = _END_64.unpack(source.read(file, end, _END_64.size))
        if signature != b"PK\6\6":
            raise BrokenError(f"its zip directory is not where it should be. {_DAMAGED}")
    if start + size > end:
        raise BrokenError(f"its zip directory is longer than the file. {_DAMAGED}")
    if size > _MOST_DIRECTORY_BYTES:
        raise BrokenError(f"refused: its zip directory is {size:,} bytes long.")
    if start >= tail_start:
        return tail[start - tail_start : start - tail_start + size], start
    return source.read(file, start, size), start


def _ends(tail: bytes, at: int) -> bool:
    """Whether the end record at that place ends with the file."""
    if at + _END.size > len(tail):
        return False
    comment_bytes: int = _END.unpack_from(tail, at)[7]
    return at + _END.size + comment_bytes == len(tail)


def _entries(directory: bytes, directory_start: int) -> dict[str, _Entry]:
    """The directory's entries by name, in its order; no two of them overlap."""
    found: dict[str, _Entry] = {}
    for entry in _lines(directory):
        name = text(entry.name)
        if name in found:
            raise BrokenError(f"its zip directory names {name!r:.80} twice. It is damaged.")
        found[name] = entry
        if len(found) > _MOST_ENTRIES:
            raise BrokenError(f"refused: its zip archive has more than {_MOST_ENTRIES:,} entries.")
    limit = directory_start
    limited: dict[str, _Entry] = {}
    for name, entry in sorted(found.items(), key=lambda item: item[1].header, reverse=True):
        if entry.header + _LOCAL.size + len(entry.name) + entry.nbytes > limit:
            raise BrokenError(
                f"its zip entry {name!r:.80} overlaps what follows it: {entry.nbytes:,} bytes "
                f"from {entry.header:,}, up to {limit:,}. {_DAMAGED}"
            )
        limited[name] = _Entry(entry.name, entry.header, entry.nbytes, entry.plain, limit)
        limit = entry.header
    return {name: limited[name] for name in found}


def _lines(directory: bytes) -> Iterator[_Entry]:
    at = 0
    while at < len(directory):
        if at + _ENTRY.size > len(directory):
            raise BrokenError(f"its zip directory is cut short. {_DAMAGED}")
        (signature, _, _, flags, method, _, _, _, packed, size, *lengths, _, _, _, header) = (
            _ENTRY.unpack_from(directory, at)
        )
        if signature != b"PK\1\2":
            raise BrokenError(f"its zip directory is damaged. {_DAMAGED}")
        name_end = at + _ENTRY.size + lengths[0]
        extra_end = name_end + lengths[1]
        size, packed, header = _wide(directory[name_end:extra_end], size, packed, header)
        plain = method == 0 and size == packed and not flags & _ENCRYPTED
        # What is read here takes `packed` bytes of the file, whatever it would unfold to.
        yield _Entry(directory[at + _ENTRY.size : name_end], header, packed, plain)
        at = extra_end + lengths[2]


def _wide(extra: bytes, *numbers: int) -> list[int]:
    """Size, packed size and place of an entry, from the extra field where they are too large."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = iter(range(at + 4, min(at + 4 + length, len(extra)) - 7, 8))
            return [
                struct.unpack_from("<Q", extra, place)[0]
                if number == _IN_EXTRA and (place := next(wide, -1)) >= 0
                else number
                for number in numbers
            ]
        at += 4 + length
    return list(numbers)


def _starts(source: Source, file: str, entries: list[_Entry]) -> list[int]:
    """Where the bytes of each entry start: behind its own header, whose length only it knows."""
    ranges = [(entry.header, _LOCAL.size + len(entry.name)) for entry in entries]
    starts = []
    for entry, local in zip(entries, read_ranges(source, file, ranges), strict=True):
        name = text(entry.name)
        signature, _, flags, method, *_, name_bytes, extra_bytes = _LOCAL.unpack_from(local)
        if signature != b"PK\3\4" or name_bytes != len(entry.name) or local[30:] != entry.name:
            raise BrokenError(f"its zip entry {name!r:.80} is not where it should be. {_DAMAGED}")
        if not entry.plain or method or flags & _ENCRYPTED:
            raise BrokenError(
                f"refused: its zip entry {name!r:.80} is compressed or encrypted, which "
                "torch.save never does. Unpack the archive, or save the weights again."
            )
        start = entry.header + len(local) + extra_bytes
        if start + entry.nbytes > entry.limit:
            raise BrokenError(f"its zip entry {name!r:.80} overlaps what follows it. {_DAMAGED}")
        starts.append(start)
    return starts


def _few(entries: dict[str, _Entry]) -> str:
    names = [f"{name!r:.60}" for name in list(entries)[:3]]
    return ", ".join(names) + (", …" if len(entries) > 3 else "") if names else "nothing"
