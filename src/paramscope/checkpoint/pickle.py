"""PyTorch pickles: what torch.save writes, read without torch and without running anything.

Two containers hold the same pickle: a zip archive (`pickle_zip`), or one stream
(`pickle_legacy`). `pickle_program` reads the pickle into inert records, `state_dict` finds the
weights in them, `storages` says where their bytes lie; the weights themselves stay in the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from paramscope.checkpoint import Checkpoint, StoredTensor, read_elements
from paramscope.checkpoint.dtypes import Codes
from paramscope.checkpoint.pickle_legacy import read_legacy
from paramscope.checkpoint.pickle_records import BrokenError
from paramscope.checkpoint.pickle_zip import read_zip
from paramscope.checkpoint.scattered import each
from paramscope.checkpoint.shards import Shard, merge, read_weight_map
from paramscope.checkpoint.state_dict import few, state_dict, without_prefix
from paramscope.checkpoint.storages import Program, stored_tensor
from paramscope.checkpoint.strided import StridedTensor, read_strided, span_bytes
from paramscope.errors import CheckpointError
from paramscope.source import Source

_ZIP = b"PK\3\4"
_PICKLE = b"\x80"
_TAR_MAGIC = slice(257, 262)
_FIRST_BYTES = 512

# What people have under the name of a PyTorch file, by its first bytes, and what to do.
_OTHERS = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the weights. Run: git lfs pull"),
    (b"<", "a web page, not weights. Download it again, and look at the address."),
    (b"GGUF", "a GGUF file. Call it .gguf to read it."),
    (b"lmgg", "a ggml file, which is not read. Convert it to GGUF."),
    (b"\x89HDF", "an HDF5 file, which is not read. Convert it to safetensors."),
    (b"\x93NUMPY", "a NumPy array, which is not read. Save it as safetensors."),
    (b"\x1f\x8b", "compressed by gzip. Unpack it first."),
    (b"PK\5\6", "a zip archive with nothing in it. Download it again."),
    (b"\0" * 64, "all zeros at its start: its download was cut short. Download it again."),
)


@dataclass(frozen=True, slots=True)
class _Opened:
    shard: Shard
    notes: tuple[str, ...]


def open_pickle(source: Source, files: Sequence[str], index: str | None) -> Checkpoint:
    """Read the pickle of every file and check that its tensors lie within it.

    Args:
        files: the weight files, POSIX paths within the source.
        index: the index file that names the shards, or None.

    Raises:
        CheckpointError: a file wants more than tensors, holds none, or is damaged; nothing of
            it is run in any case.
        SourceError: a file cannot be read.
    """
    weight_map = read_weight_map(source, index)
    files = sorted({*weight_map.values()}) or list(files)
    opened = list(each(source, lambda file: _open(source, file), files))
    merged = merge(source, (one.shard for one in opened), weight_map, index)
    prefix, prefix_notes = without_prefix(tensor.name for tensor in merged.tensors)
    tensors = tuple(
        replace(tensor, name=tensor.name.removeprefix(prefix)) for tensor in merged.tensors
    )
    notes = (note for one in opened for note in one.notes)
    return Checkpoint(
        source=source,
        format="pytorch",
        tensors=tensors,
        stored=tensors,
        weight_files=tuple(files),
        read_stored=lambda tensor, start, stop: _read(source, tensor, start, stop),
        digest=merged.digest,
        notes=(*notes, *merged.notes, *prefix_notes, *_tied_note(tensors)),
    )


def _read(source: Source, tensor: StoredTensor, start: int, stop: int) -> Codes:
    if isinstance(tensor, StridedTensor):
        return read_strided(source, tensor, start, stop)
    return read_elements(source, tensor, start, stop)


def _open(source: Source, file: str) -> _Opened:
    """One file: its tensors in the order of its pickle, and what to know about it."""
    try:
        program = _program(source, file)
        found = state_dict(program.value)
        used = {tensor.storage.key for tensor in found.tensors.values()}
        places = program.places(used)
        tensors = tuple(
            stored_tensor(name, saved, file, source.files()[file], places)
            for name, saved in found.tensors.items()
        )
    except BrokenError as error:
        raise CheckpointError(f"{file}: {error}") from None
    unused = sum(nbytes for key, nbytes in program.sizes.items() if key not in used)
    notes = [f"{file}: {note}" for note in found.notes()]
    if unused:
        notes.append(f"{file}: {unused:,} bytes of it belong to what is left out.")
    return _Opened(Shard(file, program.header, tensors), tuple(notes))


def _program(source: Source, file: str) -> Program:
    file_bytes = source.files()[file]
    start = source.read(file, 0, min(_FIRST_BYTES, file_bytes))
    if start.startswith(_ZIP):
        return read_zip(source, file)
    if start.startswith(_PICKLE):
        return read_legacy(source, file)
    raise BrokenError(_no_pickle(start))


def _no_pickle(start: bytes) -> str:
    """What a file is instead, from its first bytes."""
    if not start:
        return "is empty. Download it again."
    if start[_TAR_MAGIC] == b"ustar":
        return (
            "is a tar archive, as PyTorch wrote before 0.1.10; it is not read. "
            "Load it with torch.load and save it again with torch.save."
        )
    if start[8:10] == b'{"':
        return "is a safetensors file. Call it .safetensors to read it."
    for beginning, what in _OTHERS:
        if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(beginning):
            return f"is {what}"
    return (
        f"expected a file of torch.save, found one that begins with {start[:8]!r}. "
        "It is damaged, or of another program."
    )


def _tied_note(tensors: Sequence[StoredTensor]) -> tuple[str, ...]:
    """Tensors that lie in the same bytes as others, in whole or in part."""
    groups: list[list[str]] = []
    file, end = "", 0
    for tensor in sorted(tensors, key=lambda tensor: (tensor.file, tensor.offset_bytes)):
        if not tensor.nbytes:
            continue
        if tensor.file != file or tensor.offset_bytes >= end:
            groups.append([])
            file, end = tensor.file, 0
        groups[-1].append(tensor.name)
        end = max(end, tensor.offset_bytes + span_bytes(tensor))
    shared = [name for group in groups if len(group) > 1 for name in group]
    if not shared:
        return ()
    return (
        f"{len(shared):,} tensors share bytes with others (tied weights): {few(shared)}. "
        "Each is listed, measured and counted under its own name.",
    )
