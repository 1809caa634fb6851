"""Statistics alone (`--no-svd`): bytes per second and core, from a file in the page cache.

    python benchmarks/statistics_only.py

Each shape is a file of 1 GiB of bf16 weights; the whole process is timed, and the matrices alone
as the run counts them, both divided by the cores. The disk's own rate is that of reading the file.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from pathlib import Path

from measured import CORES, record, seconds, timed
from shapes import write_checkpoint

SHAPES = {"tall": (4096, 1024), "square": (2048, 2048), "wide": (1024, 4096), "small": (256, 256)}
SIZE_BYTES = 2**30


def main() -> None:
    rows = []
    for what, shape in SHAPES.items():
        count = SIZE_BYTES // (2 * math.prod(shape))
        shapes = {f"model.layers.{i}.mlp.up_proj.weight": shape for i in range(count)}
        with tempfile.TemporaryDirectory() as name:
            file = Path(name, "model.safetensors")
            size_bytes = write_checkpoint(file, shapes)
            started = time.perf_counter()
            with file.open("rb") as opened:
                while opened.read(2**24):
                    pass
            read_s = time.perf_counter() - started
            command = [sys.executable, "-m", "paramscope", "analyze", str(file), "--no-svd"]
            best, inside = math.inf, math.inf
            for attempt in range(3):
                out = str(Path(name, f"run{attempt}"))
                finished = timed([*command, "--no-hash", "--json", "--out", out])
                best = min(best, finished.wall_s)
                inside = min(inside, json.loads(finished.out)["timing"]["matrices_s"])
        each = f"{count:,} of {shape[0]:,} × {shape[1]:,}"
        gigabytes = size_bytes / 1e9
        rows.append(
            [
                what,
                each,
                seconds(best),
                f"{gigabytes / best / CORES:.2f}",
                f"{gigabytes / inside:.2f}",
                f"{gigabytes / read_s:.2f}",
            ]
        )
        print(rows[-1], file=sys.stderr)
    record(
        "statistics",
        f"Statistics alone, 1 GiB of bf16, {CORES} cores",
        [
            *("shape", "matrices", "seconds"),
            *("GB/s per core, whole process", "GB/s per core, matrices", "GB/s, read only"),
        ],
        rows,
    )


if __name__ == "__main__":
    main()
