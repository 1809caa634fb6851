"""What is said of the embedding as a whole: norms, isotropy, duplicates, neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paramscope.embeddings.rows import Rows
from paramscope.measure import embedding as measures
from paramscope.measure.blocks import Each, Float32, Float64, Int64
from paramscope.measure.duplicates import NEAR_COSINE, NearDuplicates

NEIGHBORS = 10
_EXTREMES = 10
_GROUPS = 20
_SHARES = 10


def norm_facts(rows: Rows) -> dict[str, Any]:
    """The distribution of the norms of the rows, and the extremes with their tokens."""
    norms = rows.norms
    order = np.argsort(norms, kind="stable")
    lowest, highest = order[:_EXTREMES], order[::-1][:_EXTREMES]
    quantiles = np.quantile(norms, measures.QUANTILES)
    return {
        "norm": {
            "mean": float(norms.mean()),
            "std": float(norms.std()),
            "min": float(norms.min()),
            "median": float(np.median(norms)),
            "max": float(norms.max()),
            "quantiles": {
                f"{share:g}": float(value)
                for share, value in zip(measures.QUANTILES, quantiles, strict=True)
            },
        },
        "smallest_norms": rows.tokens(lowest, norm=norms[lowest]),
        "largest_norms": rows.tokens(highest, norm=norms[highest]),
    }


def isotropy_facts(X: Float32, rows: Rows, variances: Float64, *, each: Each) -> dict[str, Any]:
    """How evenly the rows spread over the directions."""
    total = float(variances.sum())
    shares = variances / total if total > 0.0 else np.zeros_like(variances)
    return {
        "mean_cosine": measures.mean_cosine(X, rows.norms, each=each),
        "isoscore": measures.isoscore(variances),
        "effective_dimension": measures.participation_ratio(variances),
        "entropy_dimension": measures.entropy_dimension(variances),
        "components_90": measures.components_for(variances, 0.9),
        "variance_shares": shares[:_SHARES].tolist(),
    }


def duplicate_facts(first: Int64, near: NearDuplicates, rows: Rows) -> dict[str, Any]:
    """Rows that repeat another row, and pairs that nearly do.

    `duplicates` counts rows that are equal to an earlier one.
    """
    repeats = np.flatnonzero(first != np.arange(len(first)))
    originals, sizes = np.unique(first[repeats], return_counts=True)
    largest = np.lexsort((originals, -sizes))[:_GROUPS]
    groups = []
    for at in largest:
        members = np.flatnonzero(first == originals[at])
        groups.append({"size": len(members), "tokens": rows.tokens(members[:_GROUPS])})
    return {
        "duplicates": len(repeats),
        "duplicate_groups": groups,
        "near_duplicates": near.rows,
        "near_duplicate_pairs": near.pairs,
        "near_duplicate_cosine": NEAR_COSINE,
        "near_duplicates_complete": near.complete,
        "closest_pairs": [
            {"cosine": cosine, "tokens": [rows.token(a), rows.token(b)]}
            for cosine, a, b in near.closest
        ],
    }


def neighbor_facts(
    X: Float32, rows: Rows, asked: Sequence[tuple[str, int]], *, each: Each
) -> list[dict[str, Any]]:
    """The nearest rows, by cosine, of each row that was asked for."""
    result = []
    for word, token_id in asked:
        place = rows.at([token_id])
        found: list[dict[str, Any]] = []
        if len(place):
            near, cosines = measures.nearest_rows(
                X, rows.norms, int(place[0]), NEIGHBORS, each=each
            )
            found = rows.tokens(near, cosine=cosines)
        token = {"token_id": token_id, "text": rows.vocabulary.text(token_id)}
        result.append({"asked": word, **token, "neighbors": found})
    return result
