"""The report of a run, drawn from its tables alone; and the whole way from a model to a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramscope.errors import CheckpointError, UsageError
from paramscope.files import write_whole
from paramscope.progress import OnProgress, silent
from paramscope.table.results import Run

if TYPE_CHECKING:
    from paramscope.options import Options
    from paramscope.source import Source

PAGE, DOCUMENT, PLOTS, EMBEDDING = "report.html", "report.md", "plots", "embedding"
PLOT_FORMATS = ("png", "svg")

Tell = Callable[[str], None]


def _tell_nobody(sentence: str) -> None:
    """Say nothing."""


def report(run_dir: str | Path, *, plots: Sequence[str] = ("png",)) -> Path:
    """Draw the report of a finished run again, from its tables; the weights are not needed.

    The same tables give the same files, byte for byte.

    Args:
        run_dir: a run's folder, as `analyze` leaves it.
        plots: which static plots to draw: "png", "svg", both, or none.

    Returns:
        The path of `report.html`; `report.md` and `plots/` are beside it.

    Raises:
        RunError: the folder holds no finished run.
        UsageError: a format of plots that is not known.
    """
    unknown = sorted(set(plots) - set(PLOT_FORMATS))
    if unknown:
        raise UsageError(f"--plots: unknown {unknown[0]!r}. Known: {', '.join(PLOT_FORMATS)}.")
    from paramscope.views.findings import Evidence, find
    from paramscope.views.html import page
    from paramscope.views.markdown import markdown
    from paramscope.views.page_data import read_embedding
    from paramscope.views.sampled_spectra import sample_spectra

    run = Run(run_dir)
    rows = run.rows
    spectra = sample_spectra(run, rows)
    embedding = read_embedding(run.folder / EMBEDDING)
    evidence = Evidence(rows, run.meta, spectra.errors, spectra.distances, embedding)
    sections = find(evidence)
    shown = _draw_plots(run.folder, evidence, spectra, plots)
    write_whole(run.folder / DOCUMENT, markdown(evidence, sections, shown).encode())
    path = run.folder / PAGE
    write_whole(path, page(evidence, sections, spectra, run.folder / EMBEDDING).encode())
    return path


def _draw_plots(
    folder: Path, evidence: Any, spectra: Any, formats: Sequence[str]
) -> dict[str, str]:
    """The plots, and those of the embedding where there are: by file, what each shows."""
    from paramscope.views.plots import draw_plots

    shown = {}
    if formats:
        drawn = draw_plots(evidence, spectra, folder / PLOTS, formats)
        shown = {f"{PLOTS}/{name}": says for name, says in drawn.items()}
    for picture in sorted((folder / EMBEDDING / "plots").glob("*.png")):
        what = picture.stem.replace("_", " ")
        shown[f"{EMBEDDING}/plots/{picture.name}"] = f"Embedding: {what}"
    return shown


def run(
    model: str | Path,
    options: Options | None = None,
    *,
    model_id: str | None = None,
    revision: str | None = None,
    plots: Sequence[str] = ("png",),
    progress: OnProgress = silent,
    tell: Tell = _tell_nobody,
    **changes: Any,
) -> Run:
    """Analyse every matrix of one checkpoint, and its embedding, and write the report.

    Each stage goes on where it was stopped, and does nothing where it is complete.

    Args:
        model: a folder, a file, or a Hub id.
        options: how to analyse; single options can be given by name instead.
        model_id: which model, where the folder holds several.
        revision: commit, tag or branch of a Hub id.
        plots: which static plots to draw: "png", "svg", both, or none.
        progress: called a few times a second.
        tell: called with a sentence when a stage begins or is left out.

    Raises:
        ParamscopeError: any of its kinds; what was finished is kept.
    """
    from paramscope.options import Options
    from paramscope.source.find import find_source

    options = replace(options or Options(), **changes)
    stored = not options.stream
    source = find_source(
        model, model_id=model_id, revision=revision, stored=stored, container=options.container
    )
    return _run_source(source, options, plots, progress, tell)


def run_all(
    model: str | Path,
    options: Options | None = None,
    *,
    model_id: str | None = None,
    revision: str | None = None,
    plots: Sequence[str] = ("png",),
    progress: OnProgress = silent,
    tell: Tell = _tell_nobody,
    **changes: Any,
) -> Iterator[Run]:
    """As `run`, for each checkpoint in a folder that holds several, one after another."""
    from paramscope.options import Options
    from paramscope.several import each_model
    from paramscope.source.find import find_sources

    options = replace(options or Options(), **changes)
    stored = not options.stream
    sources = find_sources(
        model, model_id=model_id, revision=revision, stored=stored, container=options.container
    )
    yield from each_model(
        sources,
        options.out,
        lambda source, out: _run_source(source, replace(options, out=out), plots, progress, tell),
    )


def _run_source(
    source: Source, options: Options, plots: Sequence[str], progress: OnProgress, tell: Tell
) -> Run:
    from paramscope.pipeline import analyze_source

    name, revision = source.model_id, source.revision
    place = name if source.remote else source.location  # the commit is told apart from it
    finished = analyze_source(source, options, progress)
    _analyse_embedding(place, name, revision, finished.folder, options, progress, tell)
    tell(f"Drawing the report of {name}.")
    report(finished.folder, plots=plots)
    return finished


def _analyse_embedding(
    place: str,
    name: str,
    revision: str,
    folder: Path,
    options: Options,
    progress: OnProgress,
    tell: Tell,
) -> None:
    """The embedding of the same checkpoint; a model that has none gets a sentence instead."""
    from paramscope.embeddings.run import embedding

    try:
        embedding(
            place,
            out=folder / EMBEDDING,
            model_id=name,
            revision=revision or None,
            workers=options.workers,
            fresh=options.fresh,
            container=options.container,
            progress=progress,
            stored=not options.stream,
        )
    except (UsageError, CheckpointError) as problem:  # none, or none whose numbers can be read
        tell(f"No analysis of an embedding: {problem}")
