"""Download a model from the Hugging Face Hub: `Qwen/Qwen3-4B` into `OUT/Qwen/Qwen3-4B`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from paramscope.cli import run_command, show_messages


@click.command()
@click.option("--model-id", "--model_id", required=True, help="Such as Qwen/Qwen3-4B.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder above.")
@click.option("--revision", help="A branch, tag or commit; by default the main branch.")
@click.option("--verbose", is_flag=True, help="Say what is waited for.")
@click.option(
    "--low-cpu-mem-usage",
    "--low_cpu_mem_usage",
    is_flag=True,
    help="Accepted; a download needs little memory anyway.",
)
def main(
    model_id: str, out: Path, revision: str | None, *, verbose: bool, low_cpu_mem_usage: bool
) -> None:
    """Fetch what an analysis needs: weights, configuration, tokenizer, model card."""
    from paramscope.source.download import download
    from paramscope.views.progress_bar import shown_download

    show_messages(verbose=verbose)
    with shown_download() as progress:
        result = download(model_id, out=out, revision=revision, progress=progress)
    click.echo(str(result.folder))


if __name__ == "__main__":
    run_command(main, sys.argv[1:])
