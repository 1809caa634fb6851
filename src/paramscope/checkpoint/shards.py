"""The files of one model: which they are, and that together they hold what their index says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from paramscope.checkpoint import StoredTensor, read_json
from paramscope.errors import CheckpointError
from paramscope.source import Source, safe_member


@dataclass(frozen=True, slots=True)
class Shard:
    """One weight file.

    Attributes:
        header: the bytes that say what it holds.
        tensors: in the order in which they are to be listed.
    """

    file: str
    header: bytes
    tensors: tuple[StoredTensor, ...]


@dataclass(frozen=True, slots=True)
class Merged:
    """The tensors of all files, the digest of their headers, and what to know about them."""

    tensors: tuple[StoredTensor, ...]
    digest: str
    notes: tuple[str, ...]


def read_weight_map(source: Source, index: str | None) -> dict[str, str]:
    """From tensor to file, as the index says; {} where there is no index.

    Raises:
        CheckpointError: the index is damaged, names files that are missing, or files elsewhere.
    """
    if index is None:
        return {}
    parsed = read_json(source, index)
    weight_map = parsed.get("weight_map") if isinstance(parsed, dict) else None
    if not isinstance(weight_map, dict) or not all(
        isinstance(shard, str) for shard in weight_map.values()
    ):
        raise CheckpointError(
            f"{index}: expected JSON with a weight_map from tensor to file, found something else. "
            "Download the index again."
        )
    for shard in sorted(set(weight_map.values())):
        if not safe_member(shard):
            raise CheckpointError(
                f"{index}: names the shard {shard!r}, which lies outside the checkpoint's folder. "
                "Refused: an index may name only files beside it."
            )
    folder = PurePosixPath(index).parent
    shards = {name: str(folder / shard) for name, shard in weight_map.items()}
    missing = sorted(set(shards.values()) - set(source.files()))
    if missing:
        raise CheckpointError(
            f"{index}: names {len(set(shards.values()))} shards, of which {len(missing)} are "
            f"missing: {', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}. "
            "Download the checkpoint again; files that are whole are kept."
        )
    return shards


def merge(
    source: Source, shards: Iterable[Shard], weight_map: Mapping[str, str], index: str | None
) -> Merged:
    """All tensors, each in one file, and in the file that the index says.

    Raises:
        CheckpointError: a tensor is in two files, or not where the index says.
    """
    digest = hashlib.sha256()
    tensors: list[StoredTensor] = []
    owner: dict[str, str] = {}
    for shard in shards:
        digest.update(f"{shard.file}\0{source.files()[shard.file]}\0".encode())
        digest.update(shard.header)
        for tensor in shard.tensors:
            if tensor.name in owner:
                raise CheckpointError(
                    f"{shard.file}: tensor {tensor.name!r} is also in {owner[tensor.name]}. "
                    "Every tensor may be stored once. Remove the file that does not belong here."
                )
            owner[tensor.name] = shard.file
            tensors.append(tensor)
    for name, file in weight_map.items():
        if owner.get(name) != file:
            raise CheckpointError(
                f"{index}: expected tensor {name!r} in {file}, found it "
                f"{'in ' + owner[name] if name in owner else 'nowhere'}. "
                "The shards and the index are of different versions. Download them again."
            )
    return Merged(tuple(tensors), digest.hexdigest(), _unindexed_note(weight_map, owner, index))


def _unindexed_note(
    weight_map: Mapping[str, str], owner: Mapping[str, str], index: str | None
) -> tuple[str, ...]:
    extra = len(owner) - len(weight_map) if weight_map else 0
    if not extra:
        return ()
    return (f"{extra} tensors are in the shards and not in {index}; they are measured too.",)
