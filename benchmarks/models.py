"""Whole models: ours against the usual ways to get singular values, on one machine in one run.

    python benchmarks/models.py qwen3-0.6b [--layers 28] [--against "svdvals float32,…"]
    python benchmarks/models.py qwen3-4b --vocabulary --against ""
    python benchmarks/models.py experts
    python benchmarks/models.py qwen3-4b --vocabulary --device cuda --against "svdvals float32"
    python benchmarks/models.py all-MiniLM-L6-v2 --weightwatcher-python OTHER/bin/python

Every contender runs in a process of its own and covers the same matrices. Ours is timed whole:
start, imports, tables and all; the loops of the others only over the matrices, bytes already read;
WeightWatcher whole. "the kernels alone" is the time of our two kernels, one thread per core, all
cores busy: the Gram products at the measured rate of a float64 matrix product, `eigvalsh` timed by
itself, both divided by the cores; the best and the median of seven tries. Ours and the kernels take
turns, `--rounds` times, and medians count: machines are noisy. The run also says what `inspect` had
estimated before, and how far off the time to go was after a tenth of the work. On a GPU, where the
loops of the others run there too, all is measured again on the cores instead, and both tables are
compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from measured import CORES, FailedError, Finished, record, seconds, timed, times
from paramscope import Run
from shapes import SHAPES, tensors_of, write_checkpoint

LOOP = """
import sys, time
import numpy as np
import torch
from safetensors import safe_open
total = 0.0
W = torch.randn(64, 64, dtype=torch.{dtype}).to("{device}")
{solve}  # the library is loaded before the clock runs
with safe_open(sys.argv[1], framework="pt") as file:
    for name in file.keys():
        if len(file.get_slice(name).get_shape()) == 2:
            W = file.get_tensor(name).to("{device}", torch.{dtype})
            started = time.perf_counter()
            {solve}
            if "{device}" == "cuda":
                torch.cuda.synchronize()
            total += time.perf_counter() - started
print(total)
"""
IDEAL = """
import sys, time, json
import numpy as np
from threadpoolctl import threadpool_limits
from concurrent.futures import ThreadPoolExecutor
cores = int(sys.argv[1])
shapes = json.load(open(sys.argv[2]))
rng = np.random.default_rng(0)
def timed(work, times):
    # all cores at once, as the real run uses them; the best and the median
    def all_cores():
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(lambda _: work(), range(cores)))
    all_cores()
    result = []
    for _ in range(times):
        started = time.perf_counter(); all_cores(); result.append(time.perf_counter() - started)
    return np.array([min(result), np.median(result)])
with threadpool_limits(1):
    A = rng.standard_normal((1024, 1024)); B = rng.standard_normal((1024, 1024))
    product = timed(lambda: A @ B, 7) / (2 * 1024**3)
    eigen = {}
    total = np.zeros(2)
    for m, n in shapes:
        k, long = min(m, n), max(m, n)
        if k not in eigen:
            W = rng.standard_normal((k, k)); G = W.T @ W
            eigen[k] = timed(lambda: np.linalg.eigvalsh(G), 1 if k > 2000 else 7)
        total += (long * k * k) * product + eigen[k]
print(json.dumps(list(total / cores)))
"""
FOLLOWED = """
import json, sys, time
import paramscope
seen = []
started = time.perf_counter()
def follow(now):
    if not seen and now.eta_s is not None and now.work_done >= 0.1 * now.work_total:
        seen.append((now.elapsed_s, now.eta_s))
paramscope.analyze(sys.argv[1], out=sys.argv[2], progress=follow, device="cpu")
elapsed, eta = seen[0]
print(json.dumps({"said_s": elapsed + eta, "took_s": time.perf_counter() - started}))
"""
WEIGHTWATCHER = """
import sys, warnings
warnings.filterwarnings("ignore")
import weightwatcher
from transformers import AutoModel
watcher = weightwatcher.WeightWatcher(model=AutoModel.from_pretrained(sys.argv[1]))
print(len(watcher.analyze()))
"""
LOOPS = {
    "svdvals float32": ("float32", "torch.linalg.svdvals(W)"),
    "svdvals float64": ("float64", "torch.linalg.svdvals(W)"),
    "svd float32": ("float32", "torch.linalg.svd(W, full_matrices=False)"),
    "numpy svd float32": ("float32", "np.linalg.svd(W.cpu().numpy())"),
    "numpy svd float64": ("float64", "np.linalg.svd(W.cpu().numpy())"),
}
"""Full SVDs by numpy are what scripts in the field do."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", choices=[*SHAPES, "all-MiniLM-L6-v2"])
    parser.add_argument("--layers", type=int)
    parser.add_argument("--vocabulary", action="store_true", help="with the embedding")
    parser.add_argument("--against", default="svdvals float32,numpy svd float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--limit-s", type=float, help="for each of the others")
    parser.add_argument("--weightwatcher-python", help="an interpreter that has WeightWatcher")
    choice = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        compare(choice, Path(name))


def compare(choice: argparse.Namespace, folder: Path) -> None:
    if choice.model == "all-MiniLM-L6-v2":
        from paramscope.demo_model import demo_model

        source = demo_model()
        file, matrices = source / "model.safetensors", None
    else:
        shapes = tensors_of(choice.model, layers=choice.layers, vocabulary=choice.vocabulary)
        matrices = [shape for shape in shapes.values() if len(shape) == 2]
        source = file = folder / "model.safetensors"
        write_checkpoint(file, shapes)
    python = [sys.executable, "-m", "paramscope"]
    inspect = [*python, "inspect", str(file), "--json", "--device", choice.device]
    # The device's rates are measured here, before the first run.
    estimate = json.loads(timed(inspect).out)["estimate"]
    analyze = [*python, "analyze", str(file), "--json", "--device", choice.device]
    rounds, kernels_s = [], []
    for each in range(choice.rounds):
        rounds.append(timed([*analyze, "--out", str(folder / f"run{each}")]))
        if matrices is not None and choice.device == "cpu":
            (folder / "shapes.json").write_text(json.dumps(matrices))
            script = [sys.executable, "-c", IDEAL, str(CORES), str(folder / "shapes.json")]
            kernels_s.append(json.loads(timed(script).out))
            said = "ours {:.2f} s, kernels {:.2f} s at best, {:.2f} s typically"
            print(said.format(rounds[-1].wall_s, *kernels_s[-1]), file=sys.stderr)
    ours = sorted(rounds, key=lambda finished: finished.wall_s)[len(rounds) // 2]
    meta = json.loads(ours.out)
    assert meta["coverage"]["complete"]
    assert bool(meta["device"]["gpus"]) == (choice.device == "cuda"), "no GPU took part"
    rows = [["paramscope, whole process", ours.wall_s, ours.peak_mib]]
    counted = meta["rows"]["total"]
    print(f"{counted:,} rows in {ours.wall_s:.2f} s, {ours.peak_mib:,.0f} MiB", file=sys.stderr)
    print(f"inspect had estimated {estimate['time_s']:.1f} s", file=sys.stderr)
    rows.append(["estimated by inspect", estimate["time_s"], 0])
    if choice.device == "cuda":
        cores = timed([*analyze[:-1], "cpu", "--out", str(folder / "cores")])
        rows.append(["paramscope on the cores alone", cores.wall_s, cores.peak_mib])
        compared = difference(Run(folder / "run0"), Run(folder / "cores"))
        print(compared, file=sys.stderr)
    elif matrices is not None:
        best_s, typical_s = (statistics.median(times_s) for times_s in zip(*kernels_s, strict=True))
        rows.append(["the kernels alone, at their best", best_s, 0])
        rows.append(["the kernels alone, typically", typical_s, 0])
        rows.append(["ours beyond their best, per row", (ours.wall_s - best_s) / counted, 0])
        followed = [sys.executable, "-c", FOLLOWED, str(file), str(folder / "followed")]
        said = json.loads(timed(followed).out)
        rows.append(["estimated after a tenth of the work", said["said_s"], 0])
        rows.append(["and that run took", said["took_s"], 0])
    for label in filter(None, choice.against.split(",")):
        dtype, solve = LOOPS[label]
        loop = LOOP.format(dtype=dtype, solve=solve, device=choice.device)
        name = f"torch {label}".replace("torch numpy", "numpy")
        script = [sys.executable, "-c", loop, str(file)]
        rows.append(
            beside(name, script, choice.limit_s, lambda other: float(other.out.split()[-1]))
        )
    if choice.weightwatcher_python:
        script = [choice.weightwatcher_python, "-c", WEIGHTWATCHER, str(source)]
        name = "WeightWatcher analyze, whole process"
        rows.append(beside(name, script, choice.limit_s, lambda other: other.wall_s))
    shown = [
        [
            what,
            seconds(s) if s else "",
            times(s / ours.wall_s) if s > 0.01 * ours.wall_s else "",
            f"{mib:,.0f}" if mib else "",
        ]
        for what, s, mib in rows
    ]
    layers = f", {choice.layers} layers" if choice.layers else ""
    where = ", with its embedding" if choice.vocabulary else ""
    where += f", median of {choice.rounds}" if choice.rounds > 1 else ""
    where += f"; {compared}" if choice.device == "cuda" else ""
    on_gpu = "-cuda" if choice.device == "cuda" else ""
    size = file.stat().st_size / 2**30
    record(
        f"model-{choice.model}{f'-{choice.layers}' if choice.layers else ''}{on_gpu}",
        f"{choice.model}{layers}{where}: {counted:,} rows, {size:.2f} GiB, on {CORES} cores",
        ["", "seconds", "to ours", "peak MiB"],
        shown,
    )


def beside(
    name: str, script: Sequence[str], limit_s: float | None, seconds_of: Callable[[Finished], float]
) -> list[Any]:
    """A row of another tool; one that fails costs its own line only."""
    try:
        other = timed(script, limit_s=limit_s)
    except FailedError as problem:
        return [f"{name}: {str(problem).splitlines()[-1][:60]}", 0.0, 0]
    return [name, seconds_of(other), other.peak_mib]


def difference(a: Run, b: Run) -> str:
    """How far two runs of one model are apart: values over their bounds, and ranks."""
    worst, apart = 0.0, 0
    for x, y in zip(a.rows, b.rows, strict=True):
        assert x["param_name"] == y["param_name"]
        apart += x["actual_rank"] != y["actual_rank"]
        if x["sigma_error_bound"]:
            s, t = (run.spectrum(x["param_name"], x["part"]) for run in (a, b))
            bound = x["sigma_error_bound"] + y["sigma_error_bound"]
            worst = max(worst, float(abs(s - t).max()) / bound)
    return (
        f"largest difference of a singular value {worst:.2g} of both bounds, {apart} ranks differ"
    )


if __name__ == "__main__":
    main()
