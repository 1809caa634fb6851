"""Measure every parameter of the model at --model_path and write the table to --out."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from paramscope.cli import run_command


@click.command()
@click.option("--model-path", "--model_path", required=True, help="Folder or file of the model.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder, or table.")
@click.option("--format", "format_", type=click.Choice(["csv", "json"]), default="csv")
@click.option("--verbose", is_flag=True, help="Show the layer-by-layer view.")
@click.option("--low-cpu-mem-usage", "--low_cpu_mem_usage", is_flag=True, help="Least memory.")
def analyze(
    model_path: str, out: Path, format_: str, *, verbose: bool, low_cpu_mem_usage: bool
) -> int:
    """Measure every parameter of a model; write the table as CSV or JSON."""
    from paramscope.scripting import analyze_to_table

    return analyze_to_table(
        model_path, out, format_=format_, show=verbose, low_cpu_mem_usage=low_cpu_mem_usage
    )


if __name__ == "__main__":
    run_command(analyze, sys.argv[1:])
