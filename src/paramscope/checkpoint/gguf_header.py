"""The header of a GGUF file: metadata and tensor infos, read in growing pieces.

    "GGUF", version, tensor count, key-value count, key-values, tensor infos, padding, data

All little-endian; offsets of tensors count from the first byte of the data, which is aligned.
Nothing is believed: a count or a length is held against the bytes that the file still has before
anything is made of it. Long arrays are passed over, and read when they are asked for.

Source: docs/gguf.md of github.com/ggml-org/ggml; `gguf_init_from_file` in its gguf.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paramscope.errors import CheckpointError
from paramscope.source import Source

_FIRST_READ_BYTES = 2**20
_LARGEST_READ_BYTES = 2**25
_MOST_HEADER_BYTES = 256 * 2**20
_MOST_STEPS = 2**22  # strings, key-values and tensors; the largest vocabularies have 2**18 tokens
_MOST_DIMENSIONS = 4
_MOST_DEPTH = 4
_LONG_ARRAY = 4096  # elements: per-layer numbers are shorter, vocabularies longer
_DEFAULT_ALIGNMENT = 32
_VERSIONS = (2, 3)

_STRING, _ARRAY = 8, 9
_NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class LongArray:
    """An array of the metadata that is not read yet: where it lies in the file."""

    file: str
    kind: int
    count: int
    offset_bytes: int
    nbytes: int

    def read(self, source: Source) -> list[Any]:
        """Its strings or numbers; bytes that are no UTF-8 become replacement characters."""
        data = source.read(self.file, self.offset_bytes, self.nbytes)
        return _elements(data, 0, self.kind, self.count)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor as the header describes it; `shape` has the slowest axis first."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset_bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """One file's header.

    Attributes:
        metadata: numbers, strings and short arrays; `LongArray` for the others.
        tensors: in the order of the header.
        alignment: of the data and of every tensor in it, in bytes.
        data_start: where the data begins, from the start of the file.
        content: the header's own bytes.
    """

    file: str
    metadata: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]
    alignment: int
    data_start: int
    content: bytes


def read_header(source: Source, file: str) -> Header:
    """Read and check one header; some more bytes than it has are read, and no tensor.

    Raises:
        CheckpointError: the file breaks the format.
    """
    reader = _Reader(source, file)
    _check_start(reader)
    tensor_count, pair_count = reader.u64(), reader.u64()
    reader.expect(tensor_count, 24, "tensors")
    reader.expect(pair_count, 13, "key-value pairs")
    metadata: dict[str, Any] = {}
    for _ in range(pair_count):
        key = reader.string("a key")
        if key in metadata:
            raise reader.broken(f"the key {key!r:.80} stands twice")
        metadata[key] = _value(reader, reader.u32(), key)
    alignment = _alignment(reader, metadata)
    tensors = tuple(_tensor_info(reader) for _ in range(tensor_count))
    return Header(
        file,
        metadata,
        tensors,
        alignment,
        data_start=-(-reader.at // alignment) * alignment,
        content=bytes(reader.data[: reader.at]),
    )


class _Reader:
    """A position in a file, and the bytes read so far: twice as many each time."""

    def __init__(self, source: Source, file: str) -> None:
        self._source = source
        self.file = file
        self.file_bytes = source.files()[file]
        self.data = bytearray()
        self.at = 0
        self._steps = 0

    def broken(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self.file}: {what} (at byte {self.at:,}). "
            "The file was cut short, is damaged, or is not GGUF. Download it again."
        )

    def need(self, nbytes: int, what: str) -> None:
        """Have that many bytes from the position on at hand."""
        stop = self.at + nbytes
        if stop <= len(self.data):
            return
        if stop > self.file_bytes:
            raise self.broken(
                f"{what} takes {nbytes:,} bytes, the file has {self.file_bytes - self.at:,} left"
            )
        if stop > _MOST_HEADER_BYTES:
            raise self.broken(f"the header is longer than {_MOST_HEADER_BYTES:,} bytes")
        wanted = min(max(len(self.data), _FIRST_READ_BYTES), _LARGEST_READ_BYTES)
        wanted = min(max(wanted, stop - len(self.data)), self.file_bytes - len(self.data))
        self.data += self._source.read(self.file, len(self.data), wanted)

    def expect(self, count: int, least_bytes: int, what: str) -> None:
        """Refuse a count of things that the rest of the file cannot hold, or nobody needs."""
        left = self.file_bytes - self.at
        if count * least_bytes > left:
            raise self.broken(f"announces {count:,} {what}, the file has {left:,} bytes left")
        self._steps += count
        if self._steps > _MOST_STEPS:
            raise self.broken(f"announces {count:,} {what}, more than any model has")

    def u32(self) -> int:
        self.need(4, "a number")
        value: int = _U32.unpack_from(self.data, self.at)[0]
        self.at += 4
        return value

    def u64(self) -> int:
        self.need(8, "a number")
        value: int = _U64.unpack_from(self.data, self.at)[0]
        self.at += 8
        return value

    def string(self, what: str) -> str:
        length = self.u64()
        self.need(length, what)
        self.at += length
        return self.data[self.at - length : self.at].decode("utf-8", errors="replace")

    def skip_strings(self, count: int) -> None:
        """Pass over strings; written for speed: vocabularies have some hundred thousand."""
        at, data, unpack = self.at, self.data, _U64.unpack_from
        for _ in range(count):
            if at + 8 > len(data):
                self.at = at
                self.need(8, "a string")
            at += 8 + unpack(data, at)[0]
            if at > self.file_bytes:
                raise self.broken("a string ends behind the end of the file")
        self.at = at
        self.need(0, "an array of strings")


def _check_start(reader: _Reader) -> None:
    reader.need(min(8, max(1, reader.file_bytes)), "a GGUF header")
    magic = bytes(reader.data[:4])
    if magic != b"GGUF":
        raise CheckpointError(
            f"{reader.file}: expected the file to begin with 'GGUF', found {magic!r}. "
            "This is not a GGUF file, or it is damaged. Download it again."
        )
    reader.at = 4
    version = reader.u32()
    if version & 0xFFFF == 0 and version:
        raise CheckpointError(
            f"{reader.file}: expected little-endian numbers, found big-endian ones, which are not "
            "read. Convert it with gguf-convert-endian, of the gguf package."
        )
    if version not in _VERSIONS:
        raise CheckpointError(
            f"{reader.file}: expected GGUF version 2 or 3, found {version}. "
            "Convert the model again with a current llama.cpp."
        )


def _value(reader: _Reader, kind: int, key: str) -> Any:
    if kind == _STRING:
        return reader.string(f"the value of {key!r:.80}")
    if kind == _ARRAY:
        return _array(reader, key)
    size = _size(reader, kind, key)
    reader.need(size, f"the value of {key!r:.80}")
    reader.at += size
    return struct.unpack_from("<" + _NUMBERS[kind], reader.data, reader.at - size)[0]


def _array(reader: _Reader, key: str) -> Any:
    kind, count = reader.u32(), reader.u64()
    start = reader.at
    _skip_elements(reader, kind, count, key, depth=1)
    if kind == _ARRAY or count > _LONG_ARRAY:
        return LongArray(reader.file, kind, count, start, reader.at - start)
    return _elements(reader.data, start, kind, count)


def _skip_elements(reader: _Reader, kind: int, count: int, key: str, *, depth: int) -> None:
    if kind == _STRING:
        reader.expect(count, 8, f"strings under {key!r:.80}")
        reader.skip_strings(count)
    elif kind == _ARRAY:
        if depth == _MOST_DEPTH:
            raise reader.broken(f"arrays within arrays under {key!r:.80}, deeper than {depth}")
        reader.expect(count, 12, f"arrays under {key!r:.80}")
        for _ in range(count):
            inner, length = reader.u32(), reader.u64()
            _skip_elements(reader, inner, length, key, depth=depth + 1)
    else:
        nbytes = count * _size(reader, kind, key)
        reader.need(nbytes, f"an array of {count:,} under {key!r:.80}")
        reader.at += nbytes


def _elements(data: bytes | bytearray, at: int, kind: int, count: int) -> list[Any]:
    """Elements of an array whose extent was checked; arrays within it are left out."""
    if kind == _ARRAY:
        return []
    if kind != _STRING:
        return list(struct.unpack_from(f"<{count}{_NUMBERS[kind]}", data, at))
    strings = []
    for _ in range(count):
        stop = at + 8 + _U64.unpack_from(data, at)[0]
        strings.append(data[at + 8 : stop].decode("utf-8", errors="replace"))
        at = stop
    return strings


def _size(reader: _Reader, kind: int, key: str) -> int:
    if kind not in _NUMBERS:
        raise reader.broken(f"the value of {key!r:.80} has the type {kind}, which is none of GGUF")
    return struct.calcsize("<" + _NUMBERS[kind])


def _alignment(reader: _Reader, metadata: Mapping[str, Any]) -> int:
    value = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(value) is not int or value <= 0 or value & (value - 1):
        raise reader.broken(f"general.alignment is {value!r:.40}, expected a power of two")
    return value


def _tensor_info(reader: _Reader) -> TensorInfo:
    name = reader.string("the name of a tensor")
    count = reader.u32()
    if count > _MOST_DIMENSIONS:
        raise reader.broken(f"tensor {name!r:.80} has {count:,} dimensions, expected 4 at most")
    reader.need(8 * count + 12, f"the description of tensor {name!r:.80}")
    *extents, kind, offset = struct.unpack_from(f"<{count}QIQ", reader.data, reader.at)
    reader.at += 8 * count + 12
    return TensorInfo(name, tuple(reversed(extents)), kind, offset)
