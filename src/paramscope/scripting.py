"""What the documented scripts share: a model in, one table out, over the same functions."""

from __future__ import annotations

from pathlib import Path

import click

from paramscope.errors import UsageError
from paramscope.options import LEAST_MEMORY_BYTES, Options
from paramscope.pipeline import analyze_all
from paramscope.table.export import WRITERS
from paramscope.table.schema import Row
from paramscope.views.console import has_failures, view
from paramscope.views.progress_bar import shown_progress


def analyze_to_table(
    model_path: str,
    out: Path,
    *,
    format_: str,
    show: bool,
    low_cpu_mem_usage: bool,
    device: str = "auto",
    rank_k: int = 128,
    model_id: str | None = None,
    revision: str | None = None,
) -> int:
    """Analyse every model at a path; the exit code.

    Args:
        out: a file such as `params.csv` gets the rows of all models, and the runs go to the folder
            of the same name without the ending; a folder gets `params.csv` and the rest of the run.
        show: print the layer-by-layer view.
    """
    as_file = out.suffix.lstrip(".") in WRITERS
    if as_file and out.suffix != f".{format_}":
        raise UsageError(f"--out: {out} does not end in .{format_}. Give --format the same ending.")
    options = Options(
        out=out.with_suffix("") if as_file else out,
        device=device,
        rank_k=rank_k,
        formats=(format_, "parquet"),
        memory_bytes=LEAST_MEMORY_BYTES if low_cpu_mem_usage else None,
    )
    rows: list[Row] = []
    failed = False
    with shown_progress() as progress:
        for run in analyze_all(
            model_path, options, model_id=model_id, revision=revision, progress=progress
        ):
            rows += run.rows
            failed = failed or has_failures(run.meta)
            if show:
                click.echo("\n".join(view(run.rows, run.meta)))
            if not as_file:
                click.echo(str(run.folder / f"params.{format_}"))
    if as_file:
        WRITERS[format_](out, rows)
        click.echo(str(out))
    return 1 if failed else 0
