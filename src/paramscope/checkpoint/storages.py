"""What a PyTorch file holds once its pickle is read: a value, and storages that lie somewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from paramscope.checkpoint import StoredTensor
from paramscope.checkpoint.pickle_records import BrokenError, SavedTensor
from paramscope.checkpoint.strided import StridedTensor, is_contiguous, span

_MOST_DIMENSIONS = 32  # what every numpy can view
_LARGEST = 2**62
# An expanded tensor is larger than what holds it; a small one may be, whatever the file's size.
_EXPANDED_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Place:
    """Where a storage's bytes lie in its file."""

    offset_bytes: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Program:
    """One file, its pickle read.

    Attributes:
        value: what the pickle describes.
        header: the bytes that say so, for the digest.
        places: of storages, by key; those that the file does not have are left out.
        sizes: bytes of every storage in the file, by key.
    """

    value: object
    header: bytes
    places: Callable[[Iterable[str]], Mapping[str, Place]]
    sizes: Mapping[str, int]


def stored_tensor(
    name: str, saved: SavedTensor, file: str, file_bytes: int, places: Mapping[str, Place]
) -> StoredTensor:
    """The tensor of that name, every number of it checked against the file.

    Raises:
        BrokenError: it does not lie within its storage, or the storage not in the file.
    """
    shape, strides, first = _numbers(name, saved)
    itemsize = saved.dtype.bits // 8
    numel = math.prod(shape)
    storage, place = saved.storage, places.get(saved.storage.key)
    if place is None:
        raise BrokenError(
            f"tensor {name!r:.200}: its storage {storage.key!r:.40} is not in the file. "
            "It is damaged; download it again."
        )
    unit = storage.dtype.bits // 8
    if storage.file_numel * unit != place.nbytes:
        raise BrokenError(
            f"tensor {name!r:.200}: expected a storage of {storage.file_numel * unit:,} bytes, "
            f"found {place.nbytes:,}. The file is damaged; download it again."
        )
    begin = storage.start * unit + first * itemsize
    end = begin + span(shape, strides) * itemsize
    if end > (storage.start + storage.numel) * unit:
        raise BrokenError(
            f"tensor {name!r:.200}: {saved.dtype.name} {shape!r:.80} reaches to byte {end:,} of a "
            f"storage of {place.nbytes:,}. The file is damaged; download it again."
        )
    if numel * itemsize > max(file_bytes, _EXPANDED_BYTES):
        raise BrokenError(
            f"refused: tensor {name!r:.200} is expanded to {numel * itemsize:,} bytes, more than "
            f"the whole file ({file_bytes:,}). Save it as it is stored."
        )
    offset = place.offset_bytes + begin
    facts = (name, saved.dtype, shape, file, offset, numel * itemsize, numel)
    if is_contiguous(shape, strides):
        return StoredTensor(*facts)
    return StridedTensor(*facts, strides=strides)


def _numbers(name: str, saved: SavedTensor) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Shape, strides and offset, in elements."""
    few = max(len(saved.shape), len(saved.strides)) <= _MOST_DIMENSIONS
    shape = tuple(number for number in saved.shape if type(number) is int) if few else ()
    strides = tuple(number for number in saved.strides if type(number) is int) if few else ()
    first = saved.offset
    if (
        len(shape) != len(saved.shape)
        or len(strides) != len(saved.strides)
        or len(shape) != len(strides)
        or type(first) is not int
        or not all(0 <= number < _LARGEST for number in (*shape, *strides, first))
    ):
        raise BrokenError(
            f"tensor {name!r:.200}: expected a shape and strides of as many non-negative "
            f"integers, at most {_MOST_DIMENSIONS}. The file is damaged; download it again."
        )
    return shape, strides, first
