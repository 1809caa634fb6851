"""Which matrix of a checkpoint is the token embedding, and its rows as float32."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paramscope.anatomy import Matrix
from paramscope.anatomy.view import View
from paramscope.checkpoint import Checkpoint
from paramscope.errors import CheckpointError, UsageError, nearest_first
from paramscope.measure.blocks import Each, Float32

_READ_ELEMENTS = 2**22
_SAMPLED_ROWS = 64
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Found:
    """The embedding of a checkpoint.

    Attributes:
        head: the output head that belongs to it, or None where none is stored.
        tied: whether the head is the embedding itself.
        notes: what was chosen among what, in sentences.
    """

    matrix: Matrix
    head: Matrix | None
    tied: bool
    notes: tuple[str, ...]


def label(matrix: Matrix) -> str:
    """The stored tensor's name, with the part in brackets where it is a piece of it."""
    return matrix.tensor.name + (f" [{matrix.part}]" if matrix.part else "")


def find_embedding(
    matrices: Sequence[Matrix], config: Any, *, wanted: str | None, place: str
) -> Found:
    """The matrix whose rows are tokens, by its role, or by the name that the user gives.

    Of several, the one with the most rows is taken; of equal ones the first stored.

    Raises:
        UsageError: there is none, or none of that name; the message says what was looked at.
        CheckpointError: it is stored as codes that are not read as numbers.
    """
    candidates = [matrix for matrix in matrices if matrix.role == "embed.token"]
    chosen = _named(matrices, wanted, place) if wanted else _largest(candidates, matrices, place)
    notes = []
    if not wanted and len(candidates) > 1:
        names = ", ".join(f"{label(m)} ({m.rows:,} × {m.columns:,})" for m in candidates[:_SHOWN])
        notes.append(
            f"{len(candidates)} token embeddings are here: {names}. Taken: {label(chosen)}; "
            "--matrix NAME takes another."
        )
    if chosen.refusal:
        raise CheckpointError(
            f"{label(chosen)}: expected weights that can be read as numbers, found "
            f"{chosen.refusal}. Give the checkpoint before quantisation."
        )
    head = _head(matrices, chosen)
    says = _tie_setting(config)
    tied = head is None and says is not False
    notes.append(_tied_sentence(head, says))
    return Found(chosen, head, tied, tuple(notes))


def _largest(candidates: list[Matrix], matrices: Sequence[Matrix], place: str) -> Matrix:
    usable = [matrix for matrix in candidates if matrix.numel > 0]
    if usable:
        return max(usable, key=lambda matrix: matrix.rows)
    near = [m for m in matrices if m.role.startswith("embed.") or m.role == "output"]
    largest = sorted(matrices, key=lambda m: (-m.rows, m.tensor.name))
    looked_at = dict.fromkeys([*near, *largest[:_SHOWN]])
    shown = "; ".join(f"{label(m)} {m.rows}×{m.columns} {m.role}" for m in list(looked_at)[:_SHOWN])
    raise UsageError(
        f"{place}: expected a token embedding, found none among {len(matrices):,} matrices. "
        f"Looked at: {shown or 'nothing'}. Name one with --matrix."
    )


def _named(matrices: Sequence[Matrix], wanted: str, place: str) -> Matrix:
    by_name = {label(matrix): matrix for matrix in matrices if matrix.rows > 1}
    if wanted not in by_name:
        near = nearest_first(wanted, list(by_name))[:3]
        raise UsageError(
            f"--matrix: {place} has no matrix {wanted!r}. Nearest: {', '.join(near) or 'none'}."
        )
    return by_name[wanted]


def _head(matrices: Sequence[Matrix], chosen: Matrix) -> Matrix | None:
    """The output head with as many rows and columns, or the only one as wide."""
    heads = [matrix for matrix in matrices if matrix.role == "output" and matrix.rows > 1]
    same = [m for m in heads if (m.rows, m.columns) == (chosen.rows, chosen.columns)]
    return next(iter(same), None)


def _tie_setting(config: Any) -> bool | None:
    """`tie_word_embeddings`, of the whole model or of its text part; None where nothing says."""
    for node in (config, config.get("text_config"), config.get("llm_config")):
        if isinstance(node, dict) and isinstance(node.get("tie_word_embeddings"), bool):
            return bool(node["tie_word_embeddings"])
    return None


def _tied_sentence(head: Matrix | None, says: bool | None) -> str:
    setting = "says nothing of it" if says is None else f"says tie_word_embeddings = {says}"
    if head is not None:
        return f"The output head {label(head)} is stored on its own; the configuration {setting}."
    if says is False:
        return f"No output head of this shape is stored, though the configuration {setting}."
    return (
        f"No output head of this shape is stored; the configuration {setting}. "
        "If the model has one, it is the embedding itself."
    )


def fingerprint(checkpoint: Checkpoint, matrix: Matrix) -> str:
    """SHA-256 over the checkpoint's identity and 64 rows spread over the matrix."""
    digest = hashlib.sha256(checkpoint.digest.encode())
    first, last = matrix.view.span
    width = max(1, min(matrix.columns, last - first))
    for start in np.linspace(first, last - width, _SAMPLED_ROWS).astype(np.int64):
        digest.update(checkpoint.read(matrix.tensor, int(start), int(start) + width).tobytes())
    return digest.hexdigest()


def read_rows(checkpoint: Checkpoint, matrix: Matrix, *, each: Each = map) -> Float32:
    """The whole matrix, shape (rows, columns), float32; read and decoded by blocks."""
    tensor, view = matrix.tensor, matrix.view
    X = np.empty((view.rows, view.columns), dtype=np.float32)
    with np.errstate(all="ignore"):  # among the codes are NaNs
        table = tensor.dtype.values().astype(np.float32) if tensor.dtype.countable else None

    @np.errstate(all="ignore")  # a float64 beyond float32's range becomes Inf, and is counted
    def fill(job: tuple[int, View]) -> None:
        row, block = job
        start, stop = block.span
        codes = block.cut(checkpoint.read(tensor, start, stop), start)
        into = X[row : row + block.rows]
        if table is None:
            into[...] = codes
        else:
            np.take(table, codes, out=into, mode="clip")

    jobs, row = [], 0
    for block in view.blocks(_READ_ELEMENTS):
        jobs.append((row, block))
        row += block.rows
    list(each(fill, jobs))
    return np.ascontiguousarray(X.T) if matrix.transposed else X
