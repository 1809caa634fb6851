"""The stored tensors of one checkpoint: headers first, then one range of elements at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from paramscope.checkpoint.dtypes import DTYPES, Codes, Dtype
from paramscope.source import Source

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor as a file holds it.

    `offset_bytes` counts from the start of the file; `nbytes` is what the tensor takes there.
    """

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    file: str
    offset_bytes: int
    nbytes: int
    numel: int

    @property
    def stored(self) -> tuple[StoredTensor, ...]:
        """What the files hold for it: itself, or the parts of a packed one."""
        return (self,)

    @property
    def stored_dtype(self) -> str:
        """The dtype in the file, which for packed weights is not that of the decoded values."""
        return self.dtype.name

    @property
    def stored_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def scheme(self) -> str:
        """How its codes become weights; empty where the elements are numbers as they stand."""
        return ""

    @property
    def is_turned(self) -> bool:
        """Whether its rows are outputs even where the family stores the inputs first."""
        return False

    @property
    def refusal(self) -> str:
        """Why its elements cannot be read as numbers; empty where they can."""
        if self.dtype.kind == "packed":
            return f"{self.dtype.name} codes, and not the scales that would make them numbers"
        if self.dtype.kind == "unknown":
            return f"the dtype {self.dtype.name} is not read"
        return ""


ReadElements = Callable[[StoredTensor, int, int], Codes]


@dataclass(frozen=True, slots=True)
class Window:
    """Rows and columns of a tensor seen as (prod(shape[:-1]), shape[-1]), stops excluded."""

    row_start: int
    row_stop: int
    column_start: int
    column_stop: int

    @property
    def rows(self) -> slice:
        return slice(self.row_start, self.row_stop)

    @property
    def columns(self) -> slice:
        return slice(self.column_start, self.column_stop)

    @property
    def shape(self) -> tuple[int, int]:
        return self.row_stop - self.row_start, self.column_stop - self.column_start


# Float32 or float64, as the tensor's dtype says.
Decode = Callable[[ReadElements, Window], Codes]


@dataclass(frozen=True, slots=True)
class Factors:
    """A weight as a product: seen as (shape[0], -1), it is left·right.

    Attributes:
        rank: r, the inner dimension.
        read: gives left, shape (shape[0], r), and right, shape (r, numel / shape[0]), float64; it
            reads the parts through the function it is given.
    """

    rank: int
    read: Callable[[ReadElements], tuple[Float64, Float64]]


@dataclass(frozen=True, slots=True)
class PackedTensor(StoredTensor):
    """A weight that its files hold as codes with scales, or as factors: read, it is decoded.

    `name`, `shape` and `numel` are those of the weight as the model has it, `dtype` is F32 or F64,
    in which `decode` gives the values; `file` and `offset_bytes` are those of the codes, `nbytes`
    is the sum over the parts.

    Attributes:
        parts: the stored tensors it is made of, the codes first.
        label: the scheme, for users: `gptq 4-bit g128`.
        decode: the values of a window of the weight, shape `window.shape`, in its dtype; it reads
            the parts through the function it is given, and no more of them than it needs.
        by_rows: whether neighbouring rows lie together in the file, so that reading the weight by
            blocks of rows reads every byte once.
        refused: why it cannot be decoded; `decode` is not called then.
        factors: the two whose product it is; None where it is held as codes.
        turned: whether the packer turned weights whose family stores the inputs first, such as
            GPT-2's, so that rows are outputs here.
    """

    parts: tuple[StoredTensor, ...] = ()
    label: str = ""
    decode: Decode = field(default=lambda read, window: np.zeros(window.shape, np.float32))
    by_rows: bool = False
    refused: str = ""
    factors: Factors | None = None
    turned: bool = False

    @property
    def stored(self) -> tuple[StoredTensor, ...]:
        """The parts, the codes first."""
        return self.parts

    @property
    def stored_dtype(self) -> str:
        """The dtype of the codes."""
        return self.parts[0].dtype.name

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of the codes."""
        return self.parts[0].shape

    @property
    def scheme(self) -> str:
        return self.label

    @property
    def is_turned(self) -> bool:
        return self.turned

    @property
    def refusal(self) -> str:
        return self.refused

    def read(self, read: ReadElements, start: int, stop: int) -> Codes:
        """Elements `start … stop` in C order, decoded, 1-D."""
        columns = max(1, self.shape[-1]) if self.shape else 1
        first, last = start // columns, -(-stop // columns)
        values = self.decode(read, Window(first, last, 0, columns)).reshape(-1)
        return values[start - first * columns : stop - first * columns]


def packed_tensor(
    name: str,
    shape: tuple[int, ...],
    parts: tuple[StoredTensor, ...],
    *,
    scheme: str,
    decode: Decode,
    by_rows: bool = False,
    dtype: str = "F32",
    factors: Factors | None = None,
    turned: bool = False,
) -> PackedTensor:
    """A weight of that name and shape, decoded from its parts, the codes first."""
    codes = parts[0]
    return PackedTensor(
        name=name,
        dtype=DTYPES[dtype],
        shape=shape,
        file=codes.file,
        offset_bytes=codes.offset_bytes,
        nbytes=sum(part.nbytes for part in parts),
        numel=math.prod(shape),
        parts=parts,
        label=scheme,
        decode=decode,
        by_rows=by_rows,
        factors=factors,
        turned=turned,
    )


def refused_tensor(tensor: StoredTensor, why: str) -> PackedTensor:
    """A stored tensor whose codes cannot be decoded, and why: it is listed, and not measured."""
    return PackedTensor(
        name=tensor.name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        file=tensor.file,
        offset_bytes=tensor.offset_bytes,
        nbytes=tensor.nbytes,
        numel=tensor.numel,
        parts=(tensor,),
        refused=why,
    )


@dataclass(frozen=True, slots=True)
class TokenList:
    """The vocabulary that a weight file holds itself; its texts are read when they are called for.

    Attributes:
        model: the kind of tokenizer, in the file's words.
        texts: the tokens in the order of their ids.
        kinds: a number per token, in the file's meaning; empty where the file gives none.
    """

    file: str
    model: str
    texts: Callable[[], Sequence[str]]
    kinds: Callable[[], Sequence[int]]


@dataclass(frozen=True)
class Checkpoint:
    """One model at one revision, its headers read, its weights untouched.

    Attributes:
        tensors: every tensor as the model has it; each stored tensor belongs to exactly one.
        stored: every stored tensor, in the order of the files and of their headers.
        config: `config.json`, or {} where there is none that can be read.
        read_stored: elements `start … stop` of a stored tensor in C order, as codes, 1-D;
            thread-safe.
        digest: SHA-256 over names, headers and states of the weight files, and over the
            configuration: the identity of the checkpoint, as far as it is known without reading
            every byte.
        states: of each weight file, as `Source.state` gave it.
        notes: what a user should know about the files, in sentences.
        own_tokens: the vocabulary that the weight files hold; None where they hold none.
    """

    source: Source
    format: str
    tensors: tuple[StoredTensor, ...]
    stored: tuple[StoredTensor, ...]
    weight_files: tuple[str, ...]
    read_stored: ReadElements
    digest: str
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    own_tokens: TokenList | None = None
    states: Mapping[str, str] = field(default_factory=dict)

    def read(self, tensor: StoredTensor, start: int, stop: int) -> Codes:
        """Elements `start … stop` of a tensor in C order, 1-D: codes of its dtype."""
        if isinstance(tensor, PackedTensor):
            return tensor.read(self.read_stored, start, stop)
        return self.read_stored(tensor, start, stop)


def read_elements(source: Source, tensor: StoredTensor, start: int, stop: int) -> Codes:
    """Elements `start … stop` in C order, as codes; only their bytes are read."""
    code = np.dtype(tensor.dtype.code)
    offset = tensor.offset_bytes + start * code.itemsize
    data = source.read(tensor.file, offset, (stop - start) * code.itemsize)
    return np.frombuffer(data, dtype=code)


def read_json(source: Source, file: str) -> Any:
    """A small JSON file of the source, or None where there is none or it cannot be read."""
    size_bytes = source.files().get(file)
    if size_bytes is None or size_bytes > 64 * 2**20:
        return None
    try:
        return json.loads(source.read(file, 0, size_bytes))
    except (ValueError, RecursionError):
        return None
