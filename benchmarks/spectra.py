"""Ours against the usual ways to get singular values, on one machine in one run.

    python benchmarks/spectra.py --model qwen3-0.6b [--layers 28] [--vocabulary] [--only ours,...]

Every contender runs in a process of its own and covers the same matrices. Ours is timed whole:
start, imports, tables and all; the others only their loop over the matrices, bytes already read.
"ideal" is the time of our two kernels alone, one thread per core, divided by the cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from shapes import LAYERED, tensors_of, write_checkpoint

LOOP = """
import sys, time
import numpy as np
{setup}
from safetensors import safe_open
import torch
total = 0.0
with safe_open(sys.argv[1], framework="pt") as file:
    for name in file.keys():
        if "proj" in name or "embed" in name:
            W = file.get_tensor(name).to(torch.{dtype})
            started = time.perf_counter()
            {solve}
            total += time.perf_counter() - started
print(total)
"""
IDEAL = """
import sys, time, json
import numpy as np
from threading import Thread
from threadpoolctl import threadpool_limits
from concurrent.futures import ThreadPoolExecutor
cores = int(sys.argv[2])
shapes = json.loads(sys.argv[3])
rng = np.random.default_rng(0)
def best(work, times):
    # all cores at once, as the real run uses them
    def all_cores():
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(lambda _: work(), range(cores)))
    all_cores()
    result = []
    for _ in range(times):
        started = time.perf_counter(); all_cores(); result.append(time.perf_counter() - started)
    return min(result)
with threadpool_limits(1):
    A = rng.standard_normal((1024, 1024)); B = rng.standard_normal((1024, 1024))
    rate = 2 * 1024**3 / best(lambda: A @ B, 7)
    eigen = {}
    total = 0.0
    for m, n in shapes:
        k, long = min(m, n), max(m, n)
        if k not in eigen:
            W = rng.standard_normal((k, k)); G = W.T @ W
            eigen[k] = best(lambda: np.linalg.eigvalsh(G), 3 if k > 2000 else 7)
        total += (long * k * k) / rate + eigen[k]
print(total / cores)
"""

CONTENDERS = {
    "torch.linalg.svdvals float32": ("", "float32", "torch.linalg.svdvals(W)"),
    "torch.linalg.svdvals float64": ("", "float64", "torch.linalg.svdvals(W)"),
    "torch.linalg.svd float32": ("", "float32", "torch.linalg.svd(W)"),
    "numpy.linalg.svd float32": ("", "float32", "np.linalg.svd(W.numpy())"),
}


def timed(command: list[str]) -> tuple[float, float, str]:
    """Wall seconds, peak MiB, stdout."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out = process.stdout.read()
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    if status:
        raise SystemExit(f"{command[:4]}: failed\n{error[-2000:]}")
    return wall, usage.ru_maxrss / 1024, out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", choices=LAYERED, default="qwen3-0.6b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--vocabulary", action="store_true")
    parser.add_argument("--only", default="torch.linalg.svdvals float32,numpy.linalg.svd float32")
    choice = parser.parse_args()
    shapes = tensors_of(choice.model, layers=choice.layers, vocabulary=choice.vocabulary)
    matrices = [shape for shape in shapes.values() if len(shape) == 2]
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_checkpoint(folder / "model.safetensors", shapes)
        print(f"{choice.model}: {len(matrices)} matrices, {size / 2**20:,.0f} MiB, {cores} cores")
        file = str(folder / "model.safetensors")
        ours = [sys.executable, "-m", "paramscope", "analyze", file, "--json", "--out"]
        wall, peak, out = timed([*ours, str(folder / "run")])
        timing = json.loads(out)["timing"]
        ideal = [sys.executable, "-c", IDEAL, file, str(cores), json.dumps(matrices)]
        ideal_s = float(timed(ideal)[2])
        print(f"{'':<32}{'seconds':>9}{'ours is':>10}{'peak MiB':>10}")
        print(f"{'ours, whole process':<32}{wall:>9.2f}{'':>10}{peak:>10,.0f}")
        print(f"{'ours, as it counts itself':<32}{timing['wall_s']:>9.2f}")
        print(f"{'ideal: the kernels alone':<32}{ideal_s:>9.2f}{wall / ideal_s:>8.2f} ×")
        for label in filter(None, choice.only.split(",")):
            setup, dtype, solve = CONTENDERS[label]
            script = LOOP.format(setup=setup, dtype=dtype, solve=solve)
            _, other_peak, out = timed([sys.executable, "-c", script, file])
            other = float(out.split()[-1])
            print(f"{label:<32}{other:>9.2f}{other / wall:>7.1f}× faster{other_peak:>7,.0f}")


if __name__ == "__main__":
    main()
