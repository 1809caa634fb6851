"""The layer-by-layer view of the model at --model_path; the tables go to --out."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from paramscope.cli import run_command


@click.command()
@click.option("--model-path", "--model_path", required=True, help="Folder or file of the model.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder, or table.")
@click.option("--model-id", "--model_id", help="Which model, where the folder holds several.")
@click.option("--revision", help="What to put into the column `revision`.")
@click.option(
    "--rank-k",
    "--rank_k",
    default=128,
    show_default=True,
    help="Singular values that the truncated solver computes; the default solver computes all.",
)
@click.option("--no-gpu", "--no_gpu", is_flag=True, help="Compute on the CPU.")
@click.option("--verbose", is_flag=True, help="Accepted; the view is always shown.")
@click.option("--low-cpu-mem-usage", "--low_cpu_mem_usage", is_flag=True, help="Least memory.")
def transformer_analysis(
    model_path: str,
    out: Path,
    *,
    model_id: str | None,
    revision: str | None,
    rank_k: int,
    no_gpu: bool,
    verbose: bool,
    low_cpu_mem_usage: bool,
) -> int:
    """Measure every matrix of a model and print the view layer by layer."""
    from paramscope.scripting import analyze_to_table

    return analyze_to_table(
        model_path,
        out,
        format_="csv",
        show=True,
        low_cpu_mem_usage=low_cpu_mem_usage,
        model_id=model_id,
        revision=revision,
        rank_k=rank_k,
        device="cpu" if no_gpu else "auto",
    )


if __name__ == "__main__":
    run_command(transformer_analysis, sys.argv[1:])
