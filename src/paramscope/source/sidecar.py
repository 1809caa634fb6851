"""What a download left beside the files: model, revision and the hashes that were checked.

{"model_id", "revision", "endpoint", "complete",
 "files": {path: {"size_bytes", "sha256", "mtime_ns"}}}
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paramscope.files import write_whole
from paramscope.source.local import SIDECAR


@dataclass
class Sidecar:
    """The record of one folder; `save` writes it in one piece."""

    folder: Path
    model_id: str = ""
    revision: str = ""
    endpoint: str = ""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Sidecar:
        """The folder's record; an empty one where there is none that can be read."""
        try:
            found = json.loads((folder / SIDECAR).read_bytes())
            files = {str(path): dict(entry) for path, entry in found["files"].items()}
            return cls(folder, str(found["model_id"]), str(found["revision"]), "", files)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls(folder)

    def save(self, *, complete: bool) -> None:
        """Write the record; `complete` says whether every file that was wanted is there."""
        content = {
            "model_id": self.model_id,
            "revision": self.revision,
            "endpoint": self.endpoint,
            "complete": complete,
            "files": dict(sorted(self.files.items())),
        }
        write_whole(self.folder / SIDECAR, json.dumps(content, indent=1).encode())

    def record(self, path: str, sha256: str) -> None:
        """Remember that the file, as it now lies there, has this hash."""
        stat = (self.folder / path).stat()
        self.files[path] = {
            "size_bytes": stat.st_size,
            "sha256": sha256,
            "mtime_ns": stat.st_mtime_ns,
        }

    def untouched_sha256(self, path: str) -> str | None:
        """The recorded hash of a file that was not written since; None where that is not known."""
        entry = self.files.get(path, {})
        try:
            stat = (self.folder / path).stat()
        except OSError:
            return None
        if (entry.get("size_bytes"), entry.get("mtime_ns")) != (stat.st_size, stat.st_mtime_ns):
            return None
        return str(entry["sha256"]) if "sha256" in entry else None
