"""What the cache of huggingface_hub already holds of a model; read, never written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from paramscope.source.selection import missing_shards, weight_files

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CachedSnapshot:
    """The files of one commit that the cache holds.

    Attributes:
        missing: weight files that the present ones show to be lacking.
    """

    folder: Path
    commit: str
    files: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether the weights are all there, as far as their names tell."""
        return bool(weight_files(self.files)) and not self.missing

    def hash_of(self, file: str) -> str | None:
        """The SHA-256 or git SHA-1 by which the cache stores the file, None where it does not."""
        name = (self.folder / file).resolve().name
        return name if _COMMIT.fullmatch(name) or _SHA256.fullmatch(name) else None


def cached_snapshot(repo_id: str, revision: str | None = None) -> CachedSnapshot | None:
    """The snapshot of that revision (default `main`) in the cache, or None."""
    from huggingface_hub import constants

    root = Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"
    commit = revision or "main"
    reference = root / "refs" / commit
    if not _COMMIT.fullmatch(commit):
        if not reference.is_file():
            return None
        commit = reference.read_text().strip()
    folder = root / "snapshots" / commit
    if not _COMMIT.fullmatch(commit) or not folder.is_dir():
        return None
    files = sorted(
        file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
    )
    return CachedSnapshot(folder, commit, tuple(files), _missing(folder, files))


def _missing(folder: Path, files: list[str]) -> tuple[str, ...]:
    """Shards that the series' names promise, or that an index names."""
    import json

    missing = set(missing_shards(files))
    for index in (file for file in files if file.endswith(".index.json")):
        try:
            shards = set(json.loads((folder / index).read_bytes())["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            continue
        beside = index.rpartition("/")[0]
        named = {f"{beside}/{shard}" if beside else str(shard) for shard in shards}
        missing |= named - set(files)
    return tuple(sorted(missing))


def cache_sentence(repo_id: str, revision: str | None) -> str:
    """What the cache holds of the model, and what can be done with it, for an error."""
    from huggingface_hub import constants

    snapshot = cached_snapshot(repo_id, revision)
    if snapshot is None or not snapshot.files:
        return f"The cache ({constants.HF_HUB_CACHE}) holds nothing of it."
    if snapshot.complete:
        return f"The cache holds its weights: give {snapshot.folder} as MODEL."
    lacking = (
        f"lacks {', '.join(snapshot.missing[:3])}{', …' if len(snapshot.missing) > 3 else ''}"
        if snapshot.missing
        else "no weights"
    )
    return (
        f"The cache holds {len(snapshot.files)} of its files ({', '.join(snapshot.files[:3])}"
        f"{', …' if len(snapshot.files) > 3 else ''}), {lacking}."
    )
