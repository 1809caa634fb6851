"""What a PyTorch pickle is read into: inert records, which can do nothing and hold no weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from paramscope.checkpoint.dtypes import Dtype


class BrokenError(Exception):
    """Why a file cannot be read, in a sentence that lacks the name of the file."""


class Items(list[object]):
    """A dict: keys and values in turn. Nothing is hashed, so that no key can make it slow."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Pairs:
    """A dict as Python 2 wrote an `OrderedDict`: a list of [key, value]."""

    pairs: list[object]


@dataclass(frozen=True, slots=True)
class Opaque:
    """Something that is no weight: a device, a layout, the arguments of a training run."""

    name: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A tensor without plain elements, and what it is instead."""

    what: str


@dataclass(frozen=True, slots=True)
class Word:
    """A function or class that a pickle may name; `make` gives the record it stands for."""

    name: str
    make: Callable[[tuple[object, ...]], object]


@dataclass(frozen=True, slots=True)
class StorageType:
    """`torch.FloatStorage` and its like: the dtype of a storage's elements."""

    dtype: Dtype


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of elements in the file, or a part of one.

    Attributes:
        key: its name in the file.
        dtype: of its elements; a tensor may read them as another.
        file_numel: elements that the file holds under that key.
        start, numel: the part of them that is meant, in elements.
    """

    key: str
    dtype: Dtype
    file_numel: int
    start: int
    numel: int


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """A tensor as its pickle describes it, unchecked: the numbers may be anything.

    Attributes:
        offset: elements of `dtype` from the start of the storage to the first of the tensor.
        shape, strides: one number per dimension, strides in elements.
    """

    storage: Storage
    offset: object
    shape: tuple[object, ...]
    strides: tuple[object, ...]
    dtype: Dtype
