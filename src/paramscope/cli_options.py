"""The options that several commands have, and what the library makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import click

if TYPE_CHECKING:
    from paramscope.embeddings.options import EmbeddingOptions
    from paramscope.options import Options

Command = TypeVar("Command", bound=Callable[..., Any])


def analysis_options(command: Command) -> Command:
    """The options that every command which measures has."""
    return _with(
        command,
        click.option("--out", type=click.Path(path_type=Path), help="Folder of the run. Default: data/outputs/<org>--<name>."),
        click.option("--model-id", "--model_id", help="Which model, where MODEL is a folder that holds several."),
        click.option("--revision", help="Branch, tag or commit on the Hub; of local files, what to put into the column."),
        click.option("--stream", is_flag=True, help="Read a model on the Hub where it is, without storing it."),
        click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where spectra are computed; auto takes a GPU for more than 10 s of work."),
        click.option("--no-gpu", "--no_gpu", is_flag=True, help="The same as --device cpu."),
        click.option("--svd/--no-svd", default=True, show_default=True, help="Compute spectra, or statistics only."),
        click.option("--method", type=click.Choice(["exact", "truncated"]), default="exact", show_default=True, help="All singular values, or the leading ones: ranks are lower bounds then."),
        click.option("--rank-k", "--rank_k", default=128, show_default=True, help="How many singular values the truncated solver computes."),
        click.option("--tolerance", type=float, default=1e-6, show_default=True, help="actual_rank counts σ > tolerance·σ₁."),
        click.option("--zero-threshold", type=float, default=1e-8, show_default=True, help="sparsity counts |x| ≤ threshold."),
        click.option("--workers", type=int, help="Matrices measured side by side; threads that serve GPUs count. Default: one per core."),
        click.option("--memory", "memory_gib", type=float, help="At most this many GiB in flight. Default: 60 % of what is free."),
        click.option("--low-cpu-mem-usage", "--low_cpu_mem_usage", is_flag=True, help="One matrix at a time: the smallest memory."),
        click.option("--format", "formats", default="csv,parquet", show_default=True, help="Tables to write: csv, json, jsonl, parquet; several with commas. safetensors, pytorch or gguf among them: the copy of the weights to read, where MODEL has several."),
        click.option("--fresh", is_flag=True, help="Throw away what the folder holds and start over."),
        click.option("--hash/--no-hash", "hash_files", default=True, show_default=True, help="Put the files' SHA-256 into run_meta.json."),
        click.option("--verbose", is_flag=True, help="Say what is done, file by file."),
        click.option("--debug", is_flag=True, help="Show a traceback when something goes wrong."),
    )  # fmt: skip


def embedding_options(command: Command) -> Command:
    """The options of an embedding's analysis."""
    return _with(
        command,
        click.option("--out", type=click.Path(path_type=Path), help="Table of clusters (.csv), or a folder. Default: data/outputs/<org>--<name>/embedding."),
        click.option("--model-id", "--model_id", help="Which model, where MODEL is a folder that holds several."),
        click.option("--revision", help="Branch, tag or commit on the Hub."),
        container_option,
        click.option("--matrix", help="Which matrix, where several are embeddings."),
        click.option("--k", type=int, help="This many clusters; default: the elbow of the curve."),
        click.option("--k-max", default=100, show_default=True, help="The largest number of clusters to try."),
        click.option("--scaling", type=click.Choice(["none", "unit", "standard"]), default="unit", show_default=True, help="Of the rows, before clustering."),
        click.option("--random-state", "--random_state", "--seed", "seed", default=42, show_default=True, help="The same seed gives the same files."),
        click.option("--neighbors", multiple=True, help="A token whose nearest rows are wanted; may be given again."),
        click.option("--map", type=click.Choice(["pca", "umap"]), default="pca", show_default=True, help="How rows are placed on the map; umap needs umap-learn."),
        click.option("--plots/--no-plots", default=True, show_default=True, help="Draw pictures."),
        click.option("--workers", type=int, help="Threads. Default: one per core."),
        click.option("--fresh", is_flag=True, help="Analyse again even if the result is there."),
        click.option("--debug", is_flag=True, help="Show a traceback when something goes wrong."),
    )  # fmt: skip


# The names of `source.selection.CONTAINERS`, which `--help` need not load.
container_option = click.option(
    "--format",
    "container",
    type=click.Choice(["safetensors", "pytorch", "gguf"]),
    help="Which copy of the weights, where MODEL has several. Default: the first of these that is there.",
)


def _with(command: Command, *options: Callable[[Command], Command]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def chosen_options(choices: dict[str, Any]) -> Options:
    """The CLI's choices as `Options`."""
    from paramscope.options import DEFAULT_FORMATS, LEAST_MEMORY_BYTES, Options
    from paramscope.source.selection import CONTAINERS

    gib = choices["memory_gib"]
    memory_bytes = None if gib is None else int(gib * 2**30)
    formats = tuple(filter(None, choices["formats"].replace(" ", "").split(",")))
    containers = [name for name in formats if name in CONTAINERS]
    tables = tuple(name for name in formats if name not in CONTAINERS)
    return Options(
        out=choices["out"],
        device="cpu" if choices["no_gpu"] else choices["device"],
        svd=choices["svd"],
        method=choices["method"],
        rank_k=choices["rank_k"],
        tolerance=choices["tolerance"],
        zero_threshold=choices["zero_threshold"],
        workers=choices["workers"],
        memory_bytes=LEAST_MEMORY_BYTES if choices["low_cpu_mem_usage"] else memory_bytes,
        formats=tables or DEFAULT_FORMATS,
        container=next(iter(containers), None),
        fresh=choices["fresh"],
        hash_files=choices["hash_files"],
        stream=choices["stream"],
    )


def chosen_embedding_options(choices: dict[str, Any]) -> EmbeddingOptions:
    """The CLI's choices as `EmbeddingOptions`."""
    from paramscope.embeddings.options import EmbeddingOptions

    names = (
        *("out", "matrix", "k", "k_max", "scaling", "seed", "neighbors", "map", "plots"),
        *("workers", "fresh", "container"),
    )
    return EmbeddingOptions(**{name: choices[name] for name in names})


class ChosenModel(TypedDict):
    """Which model of a folder, and which revision."""

    model_id: str | None
    revision: str | None


def chosen_model(choices: dict[str, Any]) -> ChosenModel:
    """Which model and revision."""
    return {"model_id": choices["model_id"], "revision": choices["revision"]}
