"""The pipeline: a model's bytes to a run's folder. The one module that sees all stages."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable, Iterator, Sequence
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
from paramscope.engine.calibration import compare, rates
from paramscope.engine.cores import worker_count
from paramscope.engine.gpu import gpu_rates
from paramscope.engine.local import memory_budget_bytes, run_tasks
from paramscope.engine.plan import Task, largest_short_side, plan, wall_time_s
from paramscope.options import Options
from paramscope.progress import OnProgress, Progress, silent
from paramscope.run_meta import FileHashes, run_facts, verdict, write_meta
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
        checkpoint = open_checkpoint(source, options.container)
        matrices = dissect(checkpoint.tensors, checkpoint.config)
        folder = options.out or DEFAULT_OUT / folder_name(source.model_id)
        with Journal(folder, _identity(checkpoint, options), fresh=options.fresh) as journal:
            is_whole = (folder / META).is_file() and len(journal.done()) == len(matrices)
            hashing = FileHashes(checkpoint) if options.hash_files and not is_whole else None
            hashes = _measure(checkpoint, matrices, journal, options, crew, hashing, progress)
            if is_whole:
                write_tables(folder, journal, _missing_formats(folder, options.formats))
                return Run(folder)
            timing = {
                "wall_s": round(time.perf_counter() - started, 3),
                "matrices_s": round(journal.time_s(), 3),
            }
            rows = write_tables(folder, journal, (*options.formats, "parquet"))
            write_spectra(folder / SPECTRA, journal.entries(spectra=True))
            facts = run_facts(checkpoint, options, crew, hashes, timing)
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


def _measure(
    checkpoint: Checkpoint,
    matrices: list[Matrix],
    journal: Journal,
    options: Options,
    crew: Crew,
    hashing: FileHashes | None,
    progress: OnProgress,
) -> dict[str, str]:
    """Measure what the journal does not have yet, and store each result as it comes.

    Returns:
        The files' hashes, where they are taken.
    """
    position = {id(matrix): index for index, matrix in enumerate(matrices)}
    done = journal.done()
    machine = rates(largest_short_side(matrices))
    tasks = plan(
        matrices,
        options.settings,
        machine,
        remote=checkpoint.source.remote,
        gpu=gpu_rates(crew.gpus[0]) if crew.gpus else None,
    )
    todo = [
        replace(task, matrices=tuple(m for m in task.matrices if position[id(m)] not in done))
        for task in tasks
    ]
    todo = [task for task in todo if task.matrices]
    hash_work = _HashWork(hashing, machine.hash_s)
    follow = _Follow(
        Progress(checkpoint.source.model_id, len(done), len(matrices), 0.0, 0.0, 0.0),
        tasks,
        todo,
        crew.workers,
        hash_work,
        progress,
    )
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
    hashes = hashing.result() if hashing else {}
    follow.advance((), 0)
    if (
        not done
        and crew.workers == machine.cores
        and not crew.gpus
        and not checkpoint.source.remote
    ):
        estimated_s = wall_time_s(tasks, crew.workers) + hash_work.total_s() / crew.workers
        compare(estimated_s, follow.elapsed_s())
    return hashes


@dataclass(frozen=True)
class _HashWork:
    """The hashing of files as a share of the work: it takes a core while it lasts."""

    hashing: FileHashes | None
    hash_s: float

    def done_and_left_s(self) -> tuple[float, float]:
        if self.hashing is None:
            return 0.0, 0.0
        return self.hashing.read_bytes * self.hash_s, self.hashing.left_bytes * self.hash_s

    def total_s(self) -> float:
        return sum(self.done_and_left_s())


class _Follow:
    """Counts what is done and tells the listener."""

    def __init__(
        self,
        begun: Progress,
        tasks: Iterable[Task],
        todo: Iterable[Task],
        workers: int,
        hash_work: _HashWork,
        listener: OnProgress,
    ) -> None:
        self._tasks_s = sum(task.time_s for task in tasks)
        self._done_s = self._tasks_s - sum(task.time_s for task in todo)
        self._workers = workers
        self._hash_work = hash_work
        self._started = time.perf_counter()
        self._listener = listener
        self._now = replace(begun, work_before=self._done_s)
        self._tell()

    def advance(self, tasks: Sequence[Task], results: int) -> None:
        finished = [task.time_s for task in tasks]
        under_way = self._now.work_under_way
        if finished:  # every worker is, on average, in the middle of a task like the last one
            under_way = finished[-1] / 2 * (1 if tasks[-1].alone else self._workers)
        self._done_s += sum(finished)
        self._now = replace(
            self._now,
            done=self._now.done + results,
            work_under_way=under_way,
            elapsed_s=self.elapsed_s(),
        )
        self._tell()

    def elapsed_s(self) -> float:
        return time.perf_counter() - self._started

    def _tell(self) -> None:
        hashed_s, left_s = self._hash_work.done_and_left_s()
        self._now = replace(
            self._now,
            work_done=self._done_s + hashed_s,
            work_total=self._tasks_s + hashed_s + left_s,
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
