"""The pipeline: a model's bytes to a run's folder. The one module that sees all stages."""

from __future__ import annotations

import datetime
import os
import platform
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import paramscope
from paramscope.anatomy import Matrix
from paramscope.anatomy.architecture import architecture
from paramscope.anatomy.dissect import dissect
from paramscope.checkpoint import Checkpoint
from paramscope.checkpoint.open import open_checkpoint
from paramscope.device import choose_gpus
from paramscope.engine import Crew, Settings
from paramscope.engine.calibration import rates
from paramscope.engine.gpu import gpu_name, gpu_rates
from paramscope.engine.local import memory_budget_bytes, run_tasks, worker_count
from paramscope.engine.plan import Task, plan
from paramscope.errors import UsageError
from paramscope.files import write_whole
from paramscope.progress import OnProgress, Progress, silent
from paramscope.source import Source
from paramscope.source.find import find_source, find_sources
from paramscope.source.model_card import licence
from paramscope.table.coverage import coverage
from paramscope.table.export import WRITERS, in_table_order, json_text, write_spectra
from paramscope.table.journal import Entry, Journal
from paramscope.table.results import META, SPECTRA, Run
from paramscope.table.schema import Context, Row, row

DEFAULT_OUT = Path("data/outputs")
METHODS = ("exact", "truncated")
DEFAULT_FORMATS = ("csv", "parquet")


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
        workers: matrices measured side by side; by default one per core.
        memory_bytes: at most this much in flight; by default a share of the free memory.
        formats: which tables to write besides `params.parquet`, which is always written.
        fresh: throw away what the folder holds.
        hash_files: whether `run_meta.json` gets the SHA-256 of the weight files.
        stream: read a model on the Hub where it is, instead of downloading it first.
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

    def __post_init__(self) -> None:
        """Refuse values that cannot work before any work is done."""
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


def analyze(
    model: str | Path,
    options: Options | None = None,
    *,
    model_id: str | None = None,
    revision: str | None = None,
    progress: OnProgress = silent,
    **changes: Any,
) -> Run:
    """Measure every parameter of one checkpoint; goes on where an earlier run stopped.

    Args:
        model: a folder or a file.
        options: how; single options can be given by name instead.
        model_id: which model, where the folder holds several.
        revision: what to put into the column `revision`.
        progress: called a few times a second.

    Raises:
        ParamscopeError: any of its kinds; rows that were finished are kept.
    """
    options = replace(options or Options(), **changes)
    source = find_source(model, model_id=model_id, revision=revision, stored=not options.stream)
    return analyze_source(source, options, progress)


def analyze_all(
    model: str | Path,
    options: Options | None = None,
    *,
    model_id: str | None = None,
    revision: str | None = None,
    progress: OnProgress = silent,
    **changes: Any,
) -> Iterator[Run]:
    """As `analyze`, for each checkpoint in a folder that holds several, one run after another."""
    options = replace(options or Options(), **changes)
    sources = find_sources(model, model_id=model_id, revision=revision, stored=not options.stream)
    for source in sources:
        out = options.out
        if out is not None and len(sources) > 1:
            out = out / folder_name(source.model_id)
        yield analyze_source(source, replace(options, out=out), progress)


def analyze_source(source: Source, options: Options, progress: OnProgress) -> Run:
    """One checkpoint to one run's folder."""
    started = time.perf_counter()
    crew = Crew(
        options.workers or worker_count(),
        options.memory_bytes or memory_budget_bytes(),
        choose_gpus(options.device),
    )
    with closing(source):
        checkpoint = open_checkpoint(source)
        matrices = dissect(checkpoint.tensors, checkpoint.config)
        folder = options.out or DEFAULT_OUT / folder_name(source.model_id)
        with Journal(folder, _identity(checkpoint, options), fresh=options.fresh) as journal:
            measured = _measure(checkpoint, matrices, journal, options, crew, progress)
            if not measured and (folder / META).is_file():
                write_tables(folder, journal, _missing_formats(folder, options.formats))
                return Run(folder)
            hashes = _hashes(checkpoint) if options.hash_files else {}
            timing = {
                "wall_s": round(time.perf_counter() - started, 3),
                "matrices_s": round(journal.time_s(), 3),
            }
            rows = write_tables(folder, journal, (*options.formats, "parquet"))
            write_spectra(folder / SPECTRA, journal.entries(spectra=True))
            meta = _meta(checkpoint, options, crew, hashes, timing)
            write_meta(folder, {**meta, **_verdict(checkpoint, rows)})
    return Run(folder)


def folder_name(model_id: str) -> str:
    """`Qwen/Qwen3-4B` as one folder's name: `Qwen--Qwen3-4B`."""
    return model_id.replace("/", "--")


def _identity(checkpoint: Checkpoint, options: Options) -> dict[str, Any]:
    return {
        "checkpoint": checkpoint.header_digest,
        "version": paramscope.__version__,
        **asdict(options.settings),
    }


def _measure(
    checkpoint: Checkpoint,
    matrices: list[Matrix],
    journal: Journal,
    options: Options,
    crew: Crew,
    progress: OnProgress,
) -> int:
    """Measure what the journal does not have yet, store each result as it comes; how many."""
    position = {id(matrix): index for index, matrix in enumerate(matrices)}
    done = journal.done()
    tasks = plan(
        matrices,
        options.settings,
        rates(),
        remote=checkpoint.source.remote,
        gpu=gpu_rates(crew.gpus[0]) if crew.gpus else None,
    )
    todo = [
        replace(task, matrices=tuple(m for m in task.matrices if position[id(m)] not in done))
        for task in tasks
    ]
    todo = [task for task in todo if task.matrices]
    follow = _Follow(checkpoint.source.model_id, len(matrices), len(done), tasks, todo, progress)
    batches = run_tasks(todo, checkpoint, crew)
    with closing(batches):
        for batch in batches:
            results = [result for finished in batch for result in finished.results]
            if results:
                context = _context(checkpoint.source, options)
                journal.add(
                    Entry(
                        position[id(result.matrix)],
                        row(result, context),
                        None if result.spectrum is None else result.spectrum.s,
                        result.time_s,
                    )
                    for result in results
                )
            follow.advance([finished.task for finished in batch], len(results))
    return len(matrices) - len(done)


class _Follow:
    """Counts what is done and tells the listener."""

    def __init__(
        self,
        label: str,
        total: int,
        done: int,
        tasks: Iterable[Task],
        todo: Iterable[Task],
        listener: OnProgress,
    ) -> None:
        work_total = sum(task.time_s for task in tasks)
        work_before = work_total - sum(task.time_s for task in todo)
        self._started = time.perf_counter()
        self._listener = listener
        self._now = Progress(label, done, total, work_before, work_total, 0.0, work_before)
        listener(self._now)

    def advance(self, tasks: Iterable[Task], results: int) -> None:
        self._now = replace(
            self._now,
            done=self._now.done + results,
            work_done=self._now.work_done + sum(task.time_s for task in tasks),
            elapsed_s=time.perf_counter() - self._started,
        )
        self._listener(self._now)


def _context(source: Source, options: Options) -> Context:
    now = datetime.datetime.now(datetime.timezone.utc)
    return Context(
        model_path=source.location,
        model_id=source.model_id,
        revision=source.revision,
        tolerance=options.tolerance,
        created_at=now.isoformat(timespec="milliseconds"),
    )


def write_tables(folder: Path, journal: Journal, formats: Iterable[str]) -> list[Row]:
    """Write `params.<format>` for each format; the rows that were written."""
    rows = in_table_order(journal.entries(spectra=False))
    for name in dict.fromkeys(formats):
        WRITERS[name](folder / f"params.{name}", rows)
    return rows


def _missing_formats(folder: Path, formats: Iterable[str]) -> list[str]:
    return [name for name in formats if not (folder / f"params.{name}").is_file()]


def _verdict(checkpoint: Checkpoint, rows: Sequence[Row]) -> dict[str, Any]:
    """Whether the table holds all of the checkpoint, and how the rows fared."""
    covered = coverage(checkpoint.tensors, rows)
    statuses = Counter(row["status"] for row in rows)
    counts = {status: statuses[status] for status in ("ok", "failed", "refused")}
    return {
        "coverage": {**asdict(covered), "complete": covered.complete},
        "rows": {"total": len(rows), **counts},
    }


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """`run_meta.json`: written last, so that its presence says that the run is whole."""
    write_whole(folder / META, (json_text(meta) + "\n").encode())


def _hashes(checkpoint: Checkpoint) -> dict[str, str]:
    """SHA-256 of the weight files, several files at a time."""
    with ThreadPoolExecutor(max_workers=worker_count()) as pool:
        return dict(
            zip(
                checkpoint.weight_files,
                pool.map(checkpoint.source.sha256, checkpoint.weight_files),
                strict=True,
            )
        )


def _meta(
    checkpoint: Checkpoint,
    options: Options,
    crew: Crew,
    hashes: dict[str, str],
    timing: dict[str, float],
) -> dict[str, Any]:
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

    return {
        "paramscope": paramscope.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
    }
