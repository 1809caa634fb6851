"""How to analyse: the options of `analyze` and `run`, in the API and on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paramscope.engine import Settings
from paramscope.errors import UsageError
from paramscope.table.export import WRITERS

METHODS = ("exact", "truncated")
DEFAULT_FORMATS = ("csv", "parquet")
LEAST_MEMORY_BYTES = 1  # nothing fits, so one matrix runs at a time, with all cores


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How to analyse; the same names as the CLI's options.

    Attributes:
        out: folder of the run; by default `data/outputs/<org>--<name>`.
        device: "auto", "cpu" or "cuda".
        svd: whether to compute spectra; without, statistics only.
        method: "exact" for all singular values; "truncated" for the leading `rank_k`, where all
            of them would take too long: ranks are lower bounds then, and the rows say so.
        rank_k: how many singular values the truncated solver computes.
        tolerance: `actual_rank` counts σ > tolerance·σ₁.
        zero_threshold: `sparsity` counts |x| <= this.
        workers: matrices measured side by side; by default one per core. Threads that serve GPUs
            are taken from these, but for one.
        memory_bytes: at most this much in flight; by default a share of the free memory.
        formats: which tables to write besides `params.parquet`, which is always written.
        fresh: throw away what the folder holds.
        hash_files: whether `run_meta.json` gets the SHA-256 of the weight files.
        stream: read a model on the Hub where it is, instead of downloading it first.
        container: which copy of the weights, where there are several: "safetensors", "pytorch"
            or "gguf"; by default the first of these that is there.
    """

    out: Path | None = None
    device: str = "auto"
    svd: bool = True
    method: str = "exact"
    rank_k: int = 128
    tolerance: float = 1e-6
    zero_threshold: float = 1e-8
    workers: int | None = None
    memory_bytes: int | None = None
    formats: Sequence[str] = DEFAULT_FORMATS
    fresh: bool = False
    hash_files: bool = True
    stream: bool = False
    container: str | None = None

    def __post_init__(self) -> None:
        """Refuse values that cannot work before any work is done."""
        if self.out is not None:
            object.__setattr__(self, "out", Path(self.out))
        unknown = sorted(set(self.formats) - set(WRITERS))
        if unknown:
            raise UsageError(f"--format: unknown {unknown[0]!r}. Known: {', '.join(WRITERS)}.")
        if not 0.0 <= self.tolerance < 1.0:
            raise UsageError(f"--tolerance: expected 0 <= tolerance < 1, got {self.tolerance}.")
        if not self.zero_threshold >= 0.0:
            raise UsageError(f"--zero-threshold: expected >= 0, got {self.zero_threshold}.")
        if self.method not in METHODS:
            raise UsageError(f"--method: unknown {self.method!r}. Known: {', '.join(METHODS)}.")
        if self.rank_k < 1:
            raise UsageError(f"--rank_k: expected 1 or more, got {self.rank_k}.")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers: expected 1 or more, got {self.workers}.")

    @property
    def settings(self) -> Settings:
        return Settings(
            svd=self.svd,
            method=self.method,
            rank_k=self.rank_k,
            tolerance=self.tolerance,
            zero_threshold=self.zero_threshold,
        )
