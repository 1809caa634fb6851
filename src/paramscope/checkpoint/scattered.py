"""Many small ranges of one file: neighbours in one read, several reads at once over a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from paramscope.source import Source

T = TypeVar("T")
R = TypeVar("R")
Range = tuple[int, int]

_AT_ONCE = 8
# Over a network, a request costs as much as this many bytes.
_GAP_BYTES = 64 * 2**10
_LONGEST_READ_BYTES = 4 * 2**20


def each(source: Source, do: Callable[[T], R], items: Sequence[T]) -> Iterable[R]:
    """`do` for each item, in order; over a network, for several at once."""
    if not source.remote:
        return map(do, items)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(do, items))


def read_ranges(source: Source, file: str, ranges: Sequence[Range]) -> list[bytes]:
    """The bytes of each range (offset, size), in the order in which they are asked for."""
    if not source.remote:
        return [source.read(file, offset, size) for offset, size in ranges]

    def read(group: Sequence[Range]) -> dict[Range, bytes]:
        start = group[0][0]
        stop = max(offset + size for offset, size in group)
        data = source.read(file, start, stop - start)
        return {(at, size): data[at - start : at - start + size] for at, size in group}

    found: dict[Range, bytes] = {}
    for group in each(source, read, _neighbours(sorted(set(ranges)))):
        found.update(group)
    return [found[item] for item in ranges]


def _neighbours(ranges: Sequence[Range]) -> list[list[Range]]:
    """Ranges in order, those together between which there is little."""
    groups: list[list[Range]] = []
    end = 0
    for offset, size in ranges:
        if (
            groups
            and offset - end <= _GAP_BYTES
            and offset - groups[-1][0][0] <= _LONGEST_READ_BYTES
        ):
            groups[-1].append((offset, size))
        else:
            groups.append([(offset, size)])
        end = max(end, offset + size)
    return groups
