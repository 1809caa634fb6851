"""One matrix at a time: ours against torch's solvers, with errors and distances to the limit.

    python benchmarks/matrices.py [--device cpu|cuda] [--sizes 512x512,...]

Every contender gets the same bf16 bytes in memory and may use all cores, or the GPU; the best of
several runs counts. Ours includes the statistics. The error is the largest difference to the
singular values by numpy's SVD in float64, over σ₁. The last column is the time over that which the
method's floating-point operations, m·k² + 4/3·k³, would take at the rate of a float64 matrix
product on the same device.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from measured import CORES, record, seconds, times
from paramscope.anatomy import Matrix
from paramscope.anatomy.view import View
from paramscope.checkpoint import StoredTensor
from paramscope.checkpoint.dtypes import DTYPES
from paramscope.engine import Settings
from paramscope.engine.calibration import rates
from paramscope.engine.gpu import Gpu
from paramscope.engine.gram import CPU
from paramscope.engine.local import measure_task
from paramscope.engine.plan import plan

SIZES = "512x512,1024x1024,2048x2048,4096x4096,9728x2560,151936x2560"
LARGEST_ORACLE = 4096 * 9728
LARGEST_SVD = 4096 * 9728
OTHERS = {
    "svdvals float32": (torch.linalg.svdvals, torch.float32),
    "svdvals float64": (torch.linalg.svdvals, torch.float64),
    "svd float32": (lambda W: torch.linalg.svd(W, full_matrices=False), torch.float32),
}


def task_of(shape: tuple[int, int]):
    numel = shape[0] * shape[1]
    tensor = StoredTensor("w", DTYPES["BF16"], shape, "f", 0, 2 * numel, numel)
    matrix = Matrix(tensor, "", "attn.q", "", None, None, View.whole(shape))
    return plan([matrix], Settings(), rates(min(shape)))[0]


def best(work, *, slow: bool = False) -> float:
    durations = []
    while not durations or (not slow and sum(durations) < 2.0 and len(durations) < 7):
        started = time.perf_counter()
        work()
        durations.append(time.perf_counter() - started)
    return min(durations)


def _beside(other_s: float | None, ours_s: float) -> str:
    return "failed" if other_s is None else f"{seconds(other_s)} ({times(other_s / ours_s)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--sizes", default=SIZES)
    choice = parser.parse_args()
    device = choice.device
    on_gpu = device == "cuda"

    def wait() -> None:
        if on_gpu:
            torch.cuda.synchronize()

    n = 4096 if on_gpu else 2048
    A = torch.randn(n, n, dtype=torch.float64, device=device)

    def product() -> None:
        A @ A
        wait()

    product()
    flops = 2 * n**3 / best(product)
    print(f"float64 matrix product: {flops / 1e9:,.0f} GFLOP/s on {device}", file=sys.stderr)
    rows = []
    rng = np.random.default_rng(0)
    for size in choice.sizes.split(","):
        shape = tuple(int(n) for n in size.split("x"))
        x = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        codes = (x.view(np.uint32) >> 16).astype(np.uint16)
        del x
        flat, task = codes.reshape(-1), task_of(shape)
        solver = Gpu("cuda:0") if on_gpu else CPU
        results = []

        def ours(flat=flat, task=task, solver=solver, results=results) -> None:
            results[:] = measure_task(task, lambda block: block.cut(flat, 0), solver)

        def solve(function, dtype, codes=codes) -> None:
            W = torch.from_numpy(codes.view(np.int16)).view(torch.bfloat16).to(device).to(dtype)
            function(W)
            wait()

        with threadpool_limits(CORES, user_api="blas"):
            ours()  # warm
            ours_s = best(ours)
        slow = codes.size > LARGEST_SVD
        others = {}
        for label, (function, dtype) in OTHERS.items():
            try:
                if on_gpu:
                    solve(function, dtype)  # warm
                again = lambda f=function, d=dtype: solve(f, d)  # noqa: E731
                others[label] = best(again, slow=slow or not on_gpu)
            except RuntimeError as problem:  # not every solver takes every shape
                print(f"{label} of {size}: {problem}", file=sys.stderr)
        error = "-"
        spectrum = results[0].spectrum
        if codes.size <= LARGEST_ORACLE:
            W = DTYPES["BF16"].decode(codes)
            true = np.linalg.svd(W, compute_uv=False)
            error = f"{np.abs(spectrum.s - true).max() / true[0]:.1e}"
        k, m = min(shape), max(shape)
        ideal_s = (m * k * k + 4 / 3 * k**3) / flops
        rows.append(
            [
                f"{shape[0]:,} × {shape[1]:,}",
                seconds(ours_s),
                *(_beside(others.get(label), ours_s) for label in OTHERS),
                error,
                f"{spectrum.error_bound / spectrum.s[0]:.1e}",
                times(ours_s / ideal_s),
            ]
        )
        print(rows[-1], file=sys.stderr)
    record(
        f"matrices-{device}",
        f"One matrix at a time on {device}: seconds, in brackets how much faster ours is",
        [
            *("matrix", "ours", *OTHERS),
            *("largest error / σ₁", "its bound / σ₁", "over the flops"),
        ],
        rows,
    )


if __name__ == "__main__":
    main()
