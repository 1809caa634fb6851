"""`run_meta.json`: what was measured, with what, on what, and whether all of it is there."""

from __future__ import annotations

import os
import platform
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import paramscope
from paramscope.anatomy.architecture import architecture
from paramscope.checkpoint import Checkpoint
from paramscope.engine import Crew
from paramscope.engine.gpu import gpu_name
from paramscope.files import write_whole
from paramscope.options import Options
from paramscope.source.model_card import licence
from paramscope.table.coverage import coverage
from paramscope.table.export import json_text
from paramscope.table.results import META
from paramscope.table.schema import Row


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """`run_meta.json`: written last, so that its presence says that the run is whole."""
    write_whole(folder / META, (json_text(meta) + "\n").encode())


def verdict(checkpoint: Checkpoint, rows: Sequence[Row]) -> dict[str, Any]:
    """Whether the table holds all of the checkpoint, and how the rows fared."""
    covered = coverage(checkpoint, rows)
    statuses = Counter(row["status"] for row in rows)
    counts = {status: statuses[status] for status in ("ok", "failed", "refused")}
    return {
        "coverage": {**asdict(covered), "complete": covered.complete},
        "rows": {"total": len(rows), **counts},
    }


class FileHashes:
    """SHA-256 of the weight files, taken while the matrices are measured.

    Attributes:
        read_bytes: how much was read so far.
        left_bytes: how much there is at most still to read.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Begin; the thread is a daemon, so that leaving does not wait for it."""
        self.read_bytes = 0
        self.left_bytes = sum(checkpoint.source.files()[file] for file in checkpoint.weight_files)
        self._checkpoint = checkpoint
        self._hashes: dict[str, str] = {}
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._hash, name="paramscope-hash", daemon=True)
        self._thread.start()

    def _hash(self) -> None:
        try:
            source, files = self._checkpoint.source, self._checkpoint.weight_files
            left_bytes = self.left_bytes
            for file in files:
                self._hashes[file] = source.sha256(file, self._advance)
                left_bytes -= source.files()[file]
                self.left_bytes = left_bytes  # a file whose hash is known is not read
        except Exception as error:  # handed to whoever waits
            self._error = error

    def _advance(self, size_bytes: int) -> None:
        self.read_bytes += size_bytes
        self.left_bytes -= size_bytes

    def under_way(self, wait_s: float) -> bool:
        """Whether it still goes on after so long."""
        self._thread.join(wait_s)
        return self._thread.is_alive()

    def result(self) -> dict[str, str]:
        """The hash of every weight file, in hexadecimal digits, once all are taken.

        Raises:
            SourceError: a file could not be read.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._hashes


def run_facts(
    checkpoint: Checkpoint,
    options: Options,
    crew: Crew,
    hashes: dict[str, str],
    timing: dict[str, float],
) -> dict[str, Any]:
    """Model, files, options, device, versions and timing."""
    source = checkpoint.source
    sizes = source.files()
    return {
        "model": model_facts(checkpoint),
        "files": [
            {"file": file, "size_bytes": sizes[file], "sha256": hashes.get(file)}
            for file in checkpoint.weight_files
        ],
        "options": {**asdict(options), "out": None if options.out is None else str(options.out)},
        "device": {
            "device": "cuda" if crew.gpus else "cpu",
            "gpus": [gpu_name(gpu) for gpu in crew.gpus],
            "workers": crew.workers,
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
        },
        "versions": _versions(),
        "timing": timing,
        "notes": list(checkpoint.notes),
    }


def model_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """What names the model: the same object in `inspect --json` and in `run_meta.json`."""
    source = checkpoint.source
    architectures = checkpoint.config.get("architectures")
    return {
        "model_id": source.model_id,
        "model_path": source.location,
        "revision": source.revision,
        "format": checkpoint.format,
        "model_type": checkpoint.config.get("model_type"),
        "architectures": architectures if isinstance(architectures, list) else [],
        "architecture": architecture(checkpoint.config),
        "licence": licence(source),
        "files": len(checkpoint.weight_files),
    }


def _versions() -> dict[str, str]:
    import numpy as np
    import pyarrow as pa

    torch = sys.modules.get("torch")  # whose numbers they are, where a GPU was used
    return {
        "paramscope": paramscope.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
        **({} if torch is None else {"torch": torch.__version__}),
    }
