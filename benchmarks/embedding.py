"""The analysis of embeddings: speed, quality, memory, and what the default scaling rests on.

    python benchmarks/embedding.py sweep      K-means on the real model, against scikit-learn
    python benchmarks/embedding.py scaling    clusters against forms of tokens, for each scaling
    python benchmarks/embedding.py large      an embedding of Qwen3-4B's shape, the whole command
    python benchmarks/embedding.py threads    the same result whatever the number of threads

`sweep` times both in one run, alternating; scikit-learn takes several minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import unicodedata
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from paramscope.demo_model import demo_model
from paramscope.measure.blocks import threads
from paramscope.measure.cluster import STARTS, Search, ks_to_try
from paramscope.measure.components import covariance, principal_components, project
from paramscope.measure.embedding import SCALINGS, scale_rows

WORKERS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
FIXED = (8, 32, 100)


def real_rows(scaling: str, each) -> np.ndarray:
    tensors = load_file(demo_model() / "model.safetensors")
    X = tensors["embeddings.word_embeddings.weight"].copy()
    return scale_rows(X, scaling, variances=X.astype(np.float64).var(axis=0), each=each)


def search_of(X: np.ndarray, each, *, seed: int = 42) -> Search:
    zero = np.zeros(X.shape[1])
    _, V = principal_components(covariance(X, zero, each=each), 64)
    return Search(X, project(X, zero, V, each=each), k_max=100, seed=seed, each=each)


def sweep(scaling: str, *, sweep_all: bool) -> None:
    from sklearn.cluster import KMeans

    ks = sorted({*FIXED, *ks_to_try(100)}) if sweep_all else list(FIXED)
    with threads(WORKERS) as each:
        X = real_rows(scaling, each)
        started = time.perf_counter()
        search = search_of(X, each)
        ours_s = preparation_s = time.perf_counter() - started
    print(f"all-MiniLM-L6-v2, {len(X):,} × {X.shape[1]}, {scaling}, {WORKERS} cores")
    print(f"{'k':>4}{'ours s':>9}{'sklearn s':>11}{'faster':>8}{'inertia, ours to sklearn':>26}")
    theirs_s = 0.0
    for k in ks:
        with threads(WORKERS) as each:
            search._each = each
            started = time.perf_counter()
            ours = search.clustering(k)
            one_s = time.perf_counter() - started
        started = time.perf_counter()
        theirs = KMeans(k, n_init=10, random_state=42).fit(X)
        other_s = time.perf_counter() - started
        ours_s, theirs_s = ours_s + one_s, theirs_s + other_s
        change = ours.inertia / theirs.inertia_ - 1.0
        print(
            f"{k:>4}{one_s:>9.2f}{other_s:>11.2f}{other_s / one_s:>7.1f}×{change:>+26.3%}",
            flush=True,
        )
    print(f"{len(ks)} values of k: ours {ours_s:.1f} s ({preparation_s:.1f} s of it for all k), "
          f"KMeans(n_init=10) {theirs_s:.1f} s: {theirs_s / ours_s:.1f}× faster")  # fmt: skip


def forms() -> tuple[list[str], np.ndarray]:
    """What each token of the real model looks like: script, digits, suffix piece, unused, …."""
    tokens = (demo_model() / "vocab.txt").read_text("utf-8").split("\n")[:-1]
    names = [form(token) for token in tokens]
    unique, labels = np.unique(names, return_inverse=True)
    return list(unique), labels


def form(token: str) -> str:
    if re.fullmatch(r"\[unused\d+\]", token):
        return "unused"
    if re.fullmatch(r"\[[A-Z]+\]", token):
        return "special"
    piece, text = token.startswith("##"), token.removeprefix("##")
    letters = [character for character in text if character.isalpha()]
    if text.isdecimal():
        kind = "digits"
    elif letters:
        kind = unicodedata.name(letters[0], "OTHER").split()[0].lower()
    else:
        kind = "punctuation"
    return f"piece, {kind}" if piece else kind


def scaling_table(seeds: int) -> None:
    from sklearn.metrics import adjusted_mutual_info_score

    unique, labels = forms()
    ks = (4, 8, 16, 23, 32, 64, 100)
    print(
        f"{len(labels):,} tokens of {len(unique)} forms, {seeds} seeds; adjusted mutual information"
    )
    print(f"{'scaling':<10}" + "".join(f"{f'k = {k}':>15}" for k in ks) + f"{'mean':>9}")
    for scaling in SCALINGS:
        with threads(WORKERS) as each:
            X = real_rows(scaling, each)
            scores: dict[int, list[float]] = {k: [] for k in ks}
            for seed in range(seeds):
                search = search_of(X, each, seed=seed)
                for k in ks:
                    found = search.clustering(k)
                    scores[k].append(adjusted_mutual_info_score(labels, found.labels))
        cells = [f"{statistics.mean(s):.3f} ± {statistics.stdev(s):.3f}" for s in scores.values()]
        mean = statistics.mean(score for each_k in scores.values() for score in each_k)
        print(
            f"{scaling:<10}" + "".join(f"{cell:>15}" for cell in cells) + f"{mean:>9.3f}",
            flush=True,
        )


def write_large(folder: Path, *, rows: int = 151_936, columns: int = 2560, noise: bool) -> None:
    """A bf16 embedding: a mixture in 200 directions and noise, or noise alone."""
    shape = {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [0, rows * columns * 2]}
    header = json.dumps({"model.embed_tokens.weight": shape}).encode()
    header += b" " * (-len(header) % 8)
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((200, columns), dtype=np.float32)
    basis *= 0.01 / np.sqrt(np.arange(1, 201, dtype=np.float32))[:, None]
    centres = rng.standard_normal((300, 200), dtype=np.float32)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for start in range(0, rows, 4096):
            n = min(4096, rows - start)
            x = 0.02 * rng.standard_normal((n, columns), dtype=np.float32)
            if not noise:
                near = centres[rng.integers(300, size=n)]
                x += (near + 0.7 * rng.standard_normal((n, 200), dtype=np.float32)) @ basis
            file.write((x.view(np.uint32) >> 16).astype("<u2").tobytes())
    vocabulary = {f"t{i}": i for i in range(rows - 267)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3"}))


def large() -> None:
    script = Path(__file__).parents[1] / "scripts" / "embedding_analysis.py"
    for noise in (False, True):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_large(folder, noise=noise)
            command = [sys.executable, str(script), "--model_path", name, "--out", f"{name}/out"]
            started = time.perf_counter()
            process = subprocess.Popen(command)
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - started
            if status:
                raise SystemExit("the command failed")
            kind = "noise alone" if noise else "a mixture"
            print(f"151,936 × 2,560 bf16, {kind}: {wall:.0f} s (CPU {usage.ru_utime:.0f} s), "
                  f"peak {usage.ru_maxrss / 2**20:.2f} GiB", flush=True)  # fmt: skip


def thread_counts() -> None:
    found = []
    for workers in (1, 2, 3):
        with threads(workers) as each:
            search = search_of(real_rows("unit", each), each)
            found.append([search.clustering(k) for k in FIXED])
    for others in found[1:]:
        for k, one, other in zip(FIXED, found[0], others, strict=True):
            same = np.array_equal(one.labels, other.labels)
            equal = np.array_equal(one.centres, other.centres)
            print(f"k = {k}: labels {'equal' if same else 'DIFFER'}, "
                  f"centres {'equal bit for bit' if equal else 'DIFFER'}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=["sweep", "scaling", "large", "threads"])
    parser.add_argument("--scaling", choices=SCALINGS, default="standard", help="of `sweep`")
    parser.add_argument("--fixed", action="store_true", help="`sweep` only k = 8, 32, 100")
    parser.add_argument("--seeds", type=int, default=5, help="of `scaling`")
    choice = parser.parse_args()
    if choice.what == "sweep":
        print(f"{STARTS} starts in 64 principal components, swaps, Lloyd on the complete rows")
        sweep(choice.scaling, sweep_all=not choice.fixed)
    elif choice.what == "scaling":
        scaling_table(choice.seeds)
    elif choice.what == "large":
        large()
    else:
        thread_counts()


if __name__ == "__main__":
    main()
