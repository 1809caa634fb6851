"""The analysis of a token embedding: a model's bytes to clusters, tables and pictures."""

from __future__ import annotations

import datetime
import hashlib
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

import paramscope
from paramscope.anatomy.dissect import dissect
from paramscope.checkpoint import Checkpoint
from paramscope.checkpoint.open import open_checkpoint
from paramscope.embeddings.find import Found, find_embedding, fingerprint, label, read_rows
from paramscope.embeddings.measured import Measured, measure_rows, neighbors
from paramscope.embeddings.options import EmbeddingOptions
from paramscope.engine.cores import worker_count
from paramscope.errors import UsageError
from paramscope.measure.blocks import threads
from paramscope.pipeline import DEFAULT_OUT
from paramscope.progress import OnProgress, Progress, silent
from paramscope.run_meta import model_facts
from paramscope.several import each_model, folder_name
from paramscope.source import Source
from paramscope.source.find import find_source, find_sources
from paramscope.table import embedding_files as files
from paramscope.table.embedding_result import Embedding
from paramscope.table.results import META
from paramscope.tokens.vocabulary import Vocabulary, read_vocabulary


def embedding(
    model: str | Path,
    options: EmbeddingOptions | None = None,
    *,
    model_id: str | None = None,
    revision: str | None = None,
    stored: bool = True,
    progress: OnProgress = silent,
    **changes: Any,
) -> Embedding:
    """Cluster the token embedding of one checkpoint and measure it as a whole.

    Where the folder holds the complete result of the same weights, tokenizer and options,
    nothing is computed again.

    Args:
        model: a folder or a file.
        options: how; single options can be given by name instead.
        model_id: which model, where the folder holds several.
        revision: the revision that the result names.
        stored: whether a model on the Hub is downloaded first, or read where it is.
        progress: called after each step.

    Raises:
        UsageError: there is no embedding; the message says what was looked at.
        ParamscopeError: any of its other kinds.
    """
    options = replace(options or EmbeddingOptions(), **changes)
    source = find_source(
        model, model_id=model_id, revision=revision, stored=stored, container=options.container
    )
    return _embedding_of(source, options, progress)


def embedding_all(
    model: str | Path,
    options: EmbeddingOptions | None = None,
    *,
    model_id: str | None = None,
    revision: str | None = None,
    stored: bool = True,
    progress: OnProgress = silent,
    **changes: Any,
) -> Iterator[Embedding]:
    """As `embedding`, for each checkpoint in a folder that holds several, one after another."""
    options = replace(options or EmbeddingOptions(), **changes)
    sources = find_sources(
        model, model_id=model_id, revision=revision, stored=stored, container=options.container
    )
    several = options.out is not None and len(sources) > 1
    yield from each_model(
        sources,
        options.out.with_suffix("") if options.out and several else options.out,
        lambda source, out: _embedding_of(source, replace(options, out=out), progress),
    )


def _embedding_of(source: Source, options: EmbeddingOptions, progress: OnProgress) -> Embedding:
    started = time.perf_counter()
    with closing(source):
        checkpoint = open_checkpoint(source, options.container)
        matrices = dissect(checkpoint.tensors, checkpoint.config)
        found = find_embedding(
            matrices, checkpoint.config, wanted=options.matrix, place=source.location
        )
        vocabulary = read_vocabulary(source, found.matrix.tensor.file, checkpoint.own_tokens)
        rows_of = _neighbor_rows(options.neighbors, vocabulary, found.matrix.rows)
        table = _table_path(options.out, source.model_id)
        inputs = _inputs(checkpoint, found, vocabulary, options)
        kept = None if options.fresh else _complete(table, inputs)
        if kept is not None and not rows_of:
            numel = found.matrix.numel
            progress(Progress(source.model_id, numel, numel, 1.0, 1.0, 0.0, 1.0))
            return _with_plots(kept, options.plots)
        place = f"{source.location}: {label(found.matrix)}"
        with threads(options.workers or worker_count()) as each:
            X = read_rows(checkpoint, found.matrix, each=each)
            if kept is None:
                steps = _Steps(source.model_id, X.shape, options, progress)
                measured = measure_rows(
                    X, vocabulary, options, place=place, on_step=steps.done, each=each
                )
                _write(table, checkpoint, found, measured, inputs, options, started)
            if rows_of:
                if kept is None:  # X was scaled; read it again, but never hold it twice
                    del X
                    X = read_rows(checkpoint, found.matrix, each=each)
                near = neighbors(X, vocabulary, rows_of, place=place, each=each)
                files.write_json_file(table.parent / files.NEIGHBORS, near)
    return _with_plots(Embedding.load(table), options.plots)


def _table_path(out: Path | None, model_id: str) -> Path:
    if out is None:
        return DEFAULT_OUT / folder_name(model_id) / "embedding" / files.TABLE
    return out if out.suffix == ".csv" else out / files.TABLE


def _inputs(
    checkpoint: Checkpoint, found: Found, vocabulary: Vocabulary, options: EmbeddingOptions
) -> dict[str, Any]:
    """What the result depends on."""
    texts = hashlib.sha256(repr((vocabulary.raw, sorted(vocabulary.special))).encode())
    return {
        "version": paramscope.__version__,
        "weights": fingerprint(checkpoint, found.matrix),
        "tokenizer": texts.hexdigest(),
        **options.deciding,
    }


def _complete(table: Path, inputs: dict[str, Any]) -> Embedding | None:
    """What the folder holds, if that is the complete result of the same inputs."""
    facts = files.read_json_file(table.parent / files.CLUSTERS)
    parts = (table, table.parent / files.TOKENS, table.parent / files.CURVE)
    if not isinstance(facts, dict) or facts.get("inputs") != inputs:
        return None
    return Embedding.load(table) if all(part.is_file() for part in parts) else None


def _with_plots(result: Embedding, wanted: bool) -> Embedding:
    if wanted:
        from paramscope.views.embedding_plots import PICTURES, draw

        if not all((result.folder / files.PLOTS / f"{name}.png").is_file() for name in PICTURES):
            draw(result)
    return result


def _neighbor_rows(
    wanted: Sequence[str], vocabulary: Vocabulary, rows: int
) -> list[tuple[str, int]]:
    """The rows of the tokens asked for."""
    found = []
    for token in wanted:
        ids = [token_id for token_id in vocabulary.find(token) if token_id < rows]
        if not ids:
            near = vocabulary.nearest(token)
            hint = f" Nearest: {', '.join(near)}." if near else ""
            raise UsageError(f"--neighbors: no token {token!r} has a row here.{hint}")
        found += [(token, token_id) for token_id in ids]
    return found


class _Steps:
    """Tells the listener how far the work is, weighed by what each step costs."""

    def __init__(
        self, name: str, shape: tuple[int, ...], options: EmbeddingOptions, listener: OnProgress
    ) -> None:
        n, d = shape
        self._started = time.perf_counter()
        self._listener = listener
        self._unit = 2e-11 * n * d
        self._whole = 3.0 * d + 20.0 * n / d
        ks = options.k or 6 * options.k_max
        total = self._unit * (self._whole + 20.0 * ks)
        self._now = Progress(name, 0, n * d, 0.0, total, 0.0)
        listener(self._now)

    def done(self, k: int | None) -> None:
        """A k is done; None: the matrix as a whole."""
        work = self._unit * (self._whole if k is None else 20.0 * k)
        work_done = min(self._now.work_total, self._now.work_done + work)
        self._now = replace(
            self._now,
            done=int(self._now.total * work_done / self._now.work_total),
            work_done=work_done,
            elapsed_s=time.perf_counter() - self._started,
        )
        self._listener(self._now)


def _write(
    table: Path,
    checkpoint: Checkpoint,
    found: Found,
    measured: Measured,
    inputs: dict[str, Any],
    options: EmbeddingOptions,
    started: float,
) -> None:
    """All files; clusters.json last, so that its presence says that the result is complete."""
    folder = table.parent
    old = files.read_json_file(folder / files.CLUSTERS)
    (folder / files.CLUSTERS).unlink(missing_ok=True)
    for picture in (folder / files.PLOTS).glob("*.png") if isinstance(old, dict) else ():
        if picture.stem in ("elbow", "cluster_sizes", "map", "norms"):
            picture.unlink()
    files.write_tokens(folder / files.TOKENS, measured.tokens)
    files.write_curve(folder / files.CURVE, measured.curve)
    files.write_clusters_csv(table, measured.clusters)
    meta = files.read_json_file(folder / META)
    if not (folder / META).is_file() or (isinstance(meta, dict) and "embedding" in meta):
        files.write_json_file(folder / META, _meta(checkpoint, found, options, started))
    facts = {
        "model": model_facts(checkpoint),
        "param_name": label(found.matrix),
        "rows": found.matrix.rows,
        "columns": found.matrix.columns,
        "dtype": found.matrix.tensor.stored_dtype,
        "k": len(measured.clusters),
        "scaling": options.scaling,
        "seed": options.seed,
        "map": options.map,
        "clusters": measured.clusters,
        "tied": found.tied,
        "head": None if found.head is None else label(found.head),
        **measured.facts,
        "notes": [*checkpoint.notes, *found.notes, *measured.notes],
        "inputs": inputs,
    }
    files.write_json_file(folder / files.CLUSTERS, facts)


def _meta(
    checkpoint: Checkpoint, found: Found, options: EmbeddingOptions, started: float
) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.timezone.utc)
    chosen = {**asdict(options), "out": None if options.out is None else str(options.out)}
    return {
        "model": model_facts(checkpoint),
        "embedding": label(found.matrix),
        "options": chosen,
        "versions": {
            "paramscope": paramscope.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "numpy": np.__version__,
        },
        "timing": {"wall_s": round(time.perf_counter() - started, 3)},
        "created_at": now.isoformat(timespec="milliseconds"),
    }
