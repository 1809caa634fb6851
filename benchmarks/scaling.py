"""How the time grows: with the size of a matrix, and with their number.

    python benchmarks/scaling.py [--draw]

One square matrix of each size on all cores, as a run would do it; and whole runs over more and
more matrices of one size. The picture goes to docs/images/scaling.png; `--draw` draws it again from
the results that are kept.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from matrices import best, task_of
from measured import CORES, RESULTS, record, seconds, timed
from paramscope.engine.local import measure_task
from shapes import write_checkpoint

SIZES = (128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
COUNTS = (100, 300, 1000, 3000, 10_000, 30_000)
SMALL = (64, 128)
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "scaling.png"


def main() -> None:
    if "--draw" not in sys.argv:
        measure()
    draw(kept("scaling-size"), kept("scaling-count"))


def kept(name: str) -> dict[int, float]:
    rows = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))["rows"]
    return {int(row[0].replace(",", "")): float(row[1]) for row in rows}


def measure() -> None:
    by_size = {n: time_of(n) for n in SIZES}
    by_count = {count: run_of(count) for count in COUNTS}
    record(
        "scaling-size",
        f"One n × n matrix on {CORES} cores",
        ["n", "seconds", "ns per n³"],
        [[f"{n:,}", seconds(s), f"{s * 1e9 / n**3:.3f}"] for n, s in by_size.items()],
    )
    record(
        "scaling-count",
        f"Whole runs over matrices of {SMALL[0]} × {SMALL[1]}, {CORES} cores",
        ["matrices", "seconds", "ms per matrix"],
        [[f"{n:,}", seconds(s), f"{s * 1e3 / n:.3f}"] for n, s in by_count.items()],
    )


def time_of(n: int) -> float:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, n), dtype=np.float32) * np.float32(0.02)
    flat = (x.view(np.uint32) >> 16).astype(np.uint16).reshape(-1)
    task = task_of((n, n))
    with threadpool_limits(CORES, user_api="blas"):
        return best(lambda: measure_task(task, lambda block: block.cut(flat, 0)))


def run_of(count: int) -> float:
    shapes = {f"model.layers.{i}.mlp.up_proj.weight": SMALL for i in range(count)}
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "model.safetensors")
        write_checkpoint(file, shapes)
        command = [sys.executable, "-m", "paramscope", "analyze", str(file), "--json"]
        return min(timed([*command, "--out", str(Path(name, f"run{i}"))]).wall_s for i in range(2))


def draw(by_size: dict[int, float], by_count: dict[int, float]) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, times, power, label, scale in (
        (left, by_size, 3, "n, of an n × n matrix", "n³"),
        (right, by_count, 1, "matrices in a run", "proportional"),
    ):
        x, y = np.array(list(times)), np.array(list(times.values()))
        axes.loglog(x, y, "o-", color="#1f5fa8", label="measured")
        guide = y[-1] * (x / x[-1]) ** power
        axes.loglog(x, guide, "--", color="#888888", label=scale)
        axes.set(xlabel=label, ylabel="seconds")
        shown = list(times)[:: 2 if power == 3 else 1]
        axes.set_xticks(shown, [f"{n:,}" for n in shown])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(visible=True, which="major", alpha=0.25)
        axes.legend()
    left.set_title(f"One matrix on {CORES} cores")
    right.set_title(f"Runs over {SMALL[0]} × {SMALL[1]} matrices")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=120)


if __name__ == "__main__":
    main()
