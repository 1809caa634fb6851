"""The pipeline: a model's bytes to a run's folder. The one module that sees all stages."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import paramscope
from paramscope.anatomy import Matrix
from paramscope.anatomy.dissect import dissect
from paramscope.checkpoint import Checkpoint
from paramscope.checkpoint.open import open_checkpoint
from paramscope.engine.calibration import compare
from paramscope.engine.local import run_tasks
from paramscope.errors import SourceError
from paramscope.monitor import HashWork, Monitor
from paramscope.options import Options
from paramscope.planning import Planned, plan_run
from paramscope.progress import OnProgress, Progress, silent
from paramscope.run_meta import FileHashes, run_facts, verdict, write_meta
from paramscope.several import each_model, folder_name
from paramscope.source import Source
from paramscope.source.find import find_source, find_sources
from paramscope.table.export import WRITERS, in_table_order, write_spectra
from paramscope.table.journal import Entry, Journal
from paramscope.table.results import META, SPECTRA, Run
from paramscope.table.schema import Context, Row, row

DEFAULT_OUT = Path("data/outputs")


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
    yield from each_model(
        sources,
        options.out,
        lambda source, out: analyze_source(source, replace(options, out=out), progress),
    )


def analyze_source(source: Source, options: Options, progress: OnProgress) -> Run:
    """One checkpoint to one run's folder."""
    started = time.perf_counter()
    with closing(source):
        checkpoint = open_checkpoint(source, options.container)
        matrices = dissect(checkpoint.tensors, checkpoint.config)
        folder = options.out or DEFAULT_OUT / folder_name(source.model_id)
        planned = plan_run(
            matrices,
            options.settings,
            device=options.device,
            workers=options.workers,
            memory_bytes=options.memory_bytes,
            remote=source.remote,
            finished=(folder / META).is_file() and not options.fresh,
        )
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
            _check_unchanged(checkpoint)
            rows = write_tables(folder, journal, (*options.formats, "parquet"))
            write_spectra(folder / SPECTRA, journal.entries(spectra=True))
            facts = run_facts(checkpoint, options, planned.crew, hashes, timing)
            write_meta(folder, {**facts, **verdict(checkpoint, rows)})
    return Run(folder)


def _check_unchanged(checkpoint: Checkpoint) -> None:
    for file, state in checkpoint.states.items():
        if checkpoint.source.state(file) != state:
            raise SourceError(
                f"{file}: changed while it was measured. Wait until it is whole, and start over "
                "with --fresh."
            )


def _identity(checkpoint: Checkpoint, options: Options) -> dict[str, Any]:
    return {
        "checkpoint": checkpoint.digest,
        "version": paramscope.__version__,
        **asdict(options.settings),
    }


def _measure(
    checkpoint: Checkpoint,
    matrices: list[Matrix],
    planned: Planned,
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
        compare(planned.time_s(monitor.hashing_s), monitor.elapsed_s)
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
