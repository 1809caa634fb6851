"""Everything that is measured on the rows of one embedding, as plain data with its tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paramscope.embeddings.grouping import (
    Grouping,
    Wanted,
    cluster_facts,
    curve_facts,
    elbow_facts,
    group,
    labels_everywhere,
)
from paramscope.embeddings.rows import Rows
from paramscope.embeddings.unused import Unused, find_unused
from paramscope.embeddings.whole import (
    duplicate_facts,
    isotropy_facts,
    neighbor_facts,
    norm_facts,
)
from paramscope.errors import CheckpointError
from paramscope.measure import embedding as measures
from paramscope.measure.blocks import Each, Float32, Int64
from paramscope.measure.components import covariance, mean_row, principal_components
from paramscope.measure.duplicates import first_equal, near_duplicates
from paramscope.table.embedding_files import FLAGS, TokenColumns
from paramscope.tokens.vocabulary import Vocabulary

_PRUNING_COMPONENTS = 32
_LISTED = 100


@dataclass(frozen=True, slots=True)
class Measured:
    """What the files hold."""

    tokens: TokenColumns
    curve: list[dict[str, Any]]
    clusters: list[dict[str, Any]]
    facts: dict[str, Any]
    notes: list[str]


def open_rows(
    X: Float32, vocabulary: Vocabulary, *, place: str, each: Each
) -> tuple[Float32, Rows, measures.RowFacts]:
    """Leave out rows that hold NaN or Inf.

    Returns:
        The other rows, moved up inside X; what they stand for; what one pass says of all rows.
    """
    facts = measures.row_facts(X, each=each)
    kept = np.flatnonzero(facts.finite)
    if not len(kept):
        raise CheckpointError(
            f"{place}: expected rows of numbers, found NaN or Inf in each of {len(X):,} rows. "
            "The checkpoint is damaged; get it again."
        )
    rows = Rows(len(X), kept, facts.norms[kept], vocabulary)
    return measures.keep_rows(X, kept), rows, facts


def neighbors(
    X: Float32,
    vocabulary: Vocabulary,
    asked: Sequence[tuple[str, int]],
    *,
    place: str,
    each: Each,
) -> list[dict[str, Any]]:
    """Only the nearest rows of those that were asked for."""
    X, rows, _ = open_rows(X, vocabulary, place=place, each=each)
    return neighbor_facts(X, rows, asked, each=each)


def measure_rows(
    X: Float32,
    vocabulary: Vocabulary,
    options: Wanted,
    *,
    place: str,
    on_step: Callable[[int | None], None],
    each: Each,
) -> Measured:
    """Measure the rows of an embedding; X is scaled in place.

    Args:
        X: shape (n, d), float32, as stored.
        place: what to call the matrix in an error.
        on_step: called with None after the matrix as a whole, then with each k that is done.
    """
    X, rows, of_rows = open_rows(X, vocabulary, place=place, each=each)
    first = first_equal(X, of_rows.hashes[rows.kept])
    mean = mean_row(X, each=each)
    spread = covariance(X, mean, each=each)
    variances, V = principal_components(spread, _PRUNING_COMPONENTS)
    different = np.flatnonzero(first == np.arange(len(X)))
    near = near_duplicates(X, mean, V, different, each=each)
    unused = find_unused(X, rows, each=each)
    matrix = {
        **norm_facts(rows),
        **isotropy_facts(X, rows, variances, each=each),
        **duplicate_facts(first, near, rows),
        **_odd_rows(of_rows),
        "untrained": unused.facts,
    }
    on_step(None)
    found = group(X, spread, options, different=len(different), on_done=on_step, each=each)
    facts = {
        "elbow": elbow_facts(found, options),
        "silhouette": None if found.silhouette is None else found.silhouette.mean,
        "silhouette_sample": 0 if found.silhouette is None else found.silhouette.sample_size,
        "matrix": matrix,
        "tokenizer": _tokenizer_facts(rows, unused),
    }
    return Measured(
        _token_columns(rows, found, of_rows, first, unused),
        curve_facts(found.curve),
        cluster_facts(found, rows),
        facts,
        [*_notes(rows, matrix), *unused.notes, *found.notes],
    )


def _odd_rows(of_rows: measures.RowFacts) -> dict[str, Any]:
    left_out = np.flatnonzero(~of_rows.finite)
    constant = np.flatnonzero(of_rows.constant & of_rows.finite)
    return {
        "nan_rows": len(left_out),
        "nan_token_ids": left_out[:_LISTED].tolist(),
        "constant_rows": len(constant),
        "constant_token_ids": constant[:_LISTED].tolist(),
    }


def _tokenizer_facts(rows: Rows, unused: Unused) -> dict[str, Any]:
    vocabulary = rows.vocabulary
    return {
        "file": vocabulary.file or None,
        "tokens": sum(token is not None for token in vocabulary.raw),
        "rows_without_token": len(unused.padding),
        "tokens_without_row": sum(token is not None for token in vocabulary.raw[rows.total :]),
        "unreachable": len(unused.unreachable),
    }


def _token_columns(
    rows: Rows, found: Grouping, of_rows: measures.RowFacts, first: Int64, unused: Unused
) -> TokenColumns:
    special = [token_id for token_id in rows.vocabulary.special if 0 <= token_id < rows.total]
    repeated = np.bincount(first, minlength=len(first)) > 1
    named = {
        "nan": np.flatnonzero(~of_rows.finite),
        "constant": np.flatnonzero(of_rows.constant & of_rows.finite),
        "duplicate": rows.kept[repeated[first]],
        "padding": unused.padding,
        "unreachable": unused.unreachable[unused.unreachable < rows.total],
        "undertrained": rows.kept[unused.candidates],
        "special": np.array(special, dtype=np.int64),
    }
    flags: list[list[str]] = [[] for _ in range(rows.total)]
    for name in FLAGS:
        for token_id in named[name].tolist():
            flags[token_id].append(name)
    return TokenColumns(
        text=[rows.vocabulary.text(token_id) for token_id in range(rows.total)],
        cluster=labels_everywhere(found, rows),
        distance=rows.spread(found.distances),
        norm=rows.spread(rows.norms),
        x=rows.spread(found.places[:, 0]),
        y=rows.spread(found.places[:, 1]),
        flags=[",".join(names) for names in flags],
    )


def _notes(rows: Rows, matrix: dict[str, Any]) -> list[str]:
    notes = list(rows.vocabulary.notes)
    size = len(rows.vocabulary)
    if size and size < rows.total:
        notes.append(
            f"The tokenizer has ids up to {size - 1:,}, the matrix {rows.total:,} rows: "
            f"{rows.total - size:,} rows beyond them are padding."
        )
    if size > rows.total:
        notes.append(
            f"The tokenizer has ids up to {size - 1:,}, the matrix only {rows.total:,} rows: "
            "the tokens beyond have no row here."
        )
    if matrix["nan_rows"]:
        shown = ", ".join(map(str, matrix["nan_token_ids"][:10]))
        more = ", …" if matrix["nan_rows"] > 10 else ""
        notes.append(
            f"{matrix['nan_rows']:,} rows hold NaN or Inf and are left out: ids {shown}{more}."
        )
    if matrix["constant_rows"]:
        notes.append(f"{matrix['constant_rows']:,} rows hold one value only (flag constant).")
    if not matrix["near_duplicates_complete"]:
        notes.append(
            "So many rows are nearly equal that the search for pairs was cut short: "
            "the counts of near-duplicates are lower bounds."
        )
    return notes
