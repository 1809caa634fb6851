"""Cluster the token embedding of the model at --model_path; the table goes to --out."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from paramscope.cli import run_command


@click.command()
@click.option("--model-path", "--model_path", required=True, help="Folder or file of the model.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder, or table (.csv)."
)
@click.option(
    "--random-state",
    "--random_state",
    default=42,
    show_default=True,
    help="Seed of the random choices; the same seed gives the same files.",
)
@click.option("--verbose", is_flag=True, help="Show the view.")
@click.option("--low-cpu-mem-usage", "--low_cpu_mem_usage", is_flag=True, help="Least memory.")
def embedding_analysis(
    model_path: str, out: Path, *, random_state: int, verbose: bool, low_cpu_mem_usage: bool
) -> None:
    """Cluster a model's token embedding; write the table of clusters as CSV."""
    from paramscope.embeddings.options import EmbeddingOptions
    from paramscope.embeddings.run import embedding_all
    from paramscope.views.embedding_view import embedding_view
    from paramscope.views.progress_bar import shown_progress

    options = EmbeddingOptions(out=out, seed=random_state, workers=1 if low_cpu_mem_usage else None)
    with shown_progress() as progress:
        for result in embedding_all(model_path, options, progress=progress):
            if verbose:
                click.echo("\n".join(embedding_view(result)))
            click.echo(str(result.table))


if __name__ == "__main__":
    run_command(embedding_analysis, sys.argv[1:])
