"""The pipeline: a model's bytes to a run's folder. The one module that sees all stages."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import paramscope
from paramscope.anatomy import Matrix
from paramscope.anatomy.dissect import dissect
from paramscope.checkpoint import Checkpoint
from paramscope.checkpoint.open import open_checkpoint
from paramscope.device import choose_gpus
from paramscope.engine import Crew
from paramscope.engine.calibration import Rates, compare, rates
from paramscope.engine.cores import worker_count
from paramscope.engine.gpu import gpu_rates
from paramscope.engine.gram import GpuError
from paramscope.engine.local import memory_budget_bytes, run_tasks
from paramscope.engine.plan import Task, largest_short_side, plan, wall_time_s
from paramscope.errors import DeviceError
from paramscope.monitor import HashWork, Monitor
from paramscope.options import Options
from paramscope.progress import OnProgress, Progress, silent
from paramscope.run_meta import FileHashes, run_facts, verdict, write_meta
from paramscope.source import Source
from paramscope.source.find import find_source, find_sources
from paramscope.table.export import WRITERS, in_table_order, write_spectra
from paramscope.table.journal import Entry, Journal
from paramscope.table.results import META, SPECTRA, Run
from paramscope.table.schema import Context, Row, row

_log = logging.getLogger(__name__)

DEFAULT_OUT = Path("data/outputs")
_WORTH_A_GPU_S = 10.0  # PyTorch takes seconds to load, and the device to be measured


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
    source = find_source(
        model,
        model_id=model_id,
        revision=revision,
        stored=not options.stream,
        container=options.container,
    )
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
    sources = find_sources(
        model,
        model_id=model_id,
        revision=revision,
        stored=not options.stream,
        container=options.container,
    )
    for source in sources:
        out = options.out
        if out is not None and len(sources) > 1:
            out = out / folder_name(source.model_id)
        yield analyze_source(source, replace(options, out=out), progress)


def analyze_source(source: Source, options: Options, progress: OnProgress) -> Run:
    """One checkpoint to one run's folder."""
    started = time.perf_counter()
    with closing(source):
        checkpoint = open_checkpoint(source, options.container)
        matrices = dissect(checkpoint.tensors, checkpoint.config)
        folder = options.out or DEFAULT_OUT / folder_name(source.model_id)
        is_new = options.fresh or not (folder / META).is_file()
        planned = _plan(checkpoint, matrices, options, is_new=is_new)
        with Journal(folder, _identity(checkpoint, options), fresh=options.fresh) as journal:
            is_whole = (folder / META).is_file() and len(journal.done()) == len(matrices)
            hashing = FileHashes(checkpoint) if options.hash_files and not is_whole else None
            hashes = _measure(checkpoint, matrices, planned, journal, options, hashing, progress)
            if is_whole:
                write_tables(folder, journal, _missing_formats(folder, options.formats))
                return Run(folder)
            timing = {
                "wall_s": round(time.perf_counter() - started, 3),
                "matrices_s": round(journal.time_s(), 3),
            }
            rows = write_tables(folder, journal, (*options.formats, "parquet"))
            write_spectra(folder / SPECTRA, journal.entries(spectra=True))
            facts = run_facts(checkpoint, options, planned.crew, hashes, timing)
            write_meta(folder, {**facts, **verdict(checkpoint, rows)})
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


@dataclass(frozen=True)
class _Planned:
    """What there is to do, who does it, and how fast this machine is."""

    tasks: list[Task]
    crew: Crew
    machine: Rates


def _plan(
    checkpoint: Checkpoint, matrices: list[Matrix], options: Options, *, is_new: bool
) -> _Planned:
    """A GPU that was not asked for is used where the cores would take longer than it to start."""
    machine = rates(largest_short_side(matrices))
    workers = options.workers or worker_count()
    remote = checkpoint.source.remote
    tasks = plan(matrices, options.settings, machine, remote=remote)
    gpus: tuple[str, ...] = ()
    exact = options.settings.svd and options.settings.method == "exact"
    pays = is_new and exact and wall_time_s(tasks, workers) > _WORTH_A_GPU_S
    if options.device != "auto" or pays:
        gpus = choose_gpus(options.device)
    if gpus and (gpu := _rates_of(gpus[0], options)) is not None:
        tasks = plan(matrices, options.settings, machine, remote=remote, gpu=gpu)
    if all(task.gpu_time_s is None for task in tasks):
        gpus = ()
    return _Planned(
        tasks, Crew(workers, options.memory_bytes or memory_budget_bytes(), gpus), machine
    )


def _rates_of(gpu: str, options: Options) -> Rates | None:
    """None where the GPU cannot be measured now, and was not asked for."""
    try:
        return gpu_rates(gpu)
    except GpuError as error:
        problem = f"{gpu} takes no work now ({error})"
    if options.device == "cuda":
        raise DeviceError(f"❌ CUDA not available: {problem}. Wait, or use --device cpu.")
    _log.warning("⚠️  GPU %s, going on without", problem)
    return None


def _measure(
    checkpoint: Checkpoint,
    matrices: list[Matrix],
    planned: _Planned,
    journal: Journal,
    options: Options,
    hashing: FileHashes | None,
    progress: OnProgress,
) -> dict[str, str]:
    """Measure what the journal does not have yet, and store each result as it comes.

    Returns:
        The files' hashes, where they are taken.
    """
    position = {id(matrix): index for index, matrix in enumerate(matrices)}
    done = journal.done()
    tasks, crew, machine = planned.tasks, planned.crew, planned.machine
    todo = [
        replace(task, matrices=tuple(m for m in task.matrices if position[id(m)] not in done))
        for task in tasks
    ]
    todo = [task for task in todo if task.matrices]
    begun = Progress(checkpoint.source.model_id, len(done), len(matrices), 0.0, 0.0, 0.0)
    monitor = Monitor(begun, tasks, todo, crew.workers, HashWork(hashing, machine.hash_s), progress)
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
            monitor.advance([finished.task for finished in batch], len(results))
    while hashing and hashing.under_way(0.2):
        monitor.advance((), 0)
    hashes = hashing.result() if hashing else {}
    monitor.advance((), 0)
    as_planned = not (done or crew.gpus or checkpoint.source.remote or options.memory_bytes)
    if as_planned and crew.workers == machine.cores:
        compare(wall_time_s(tasks, crew.workers, monitor.hashing_s), monitor.elapsed_s)
    return hashes


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
