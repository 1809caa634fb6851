"""Tokens that nothing uses, and the tokens whose rows look like theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from paramscope.embeddings.rows import Rows
from paramscope.measure.blocks import Each, Float32, Int64
from paramscope.measure.untrained import LEAST_SEEDS, low_norms, near_seeds
from paramscope.tokens.reachable import unreachable

_EXAMPLES = 20
_CAVEAT = (
    "Candidates only: these rows look like rows that training never moved. Whether the model "
    "mishandles the token shows only when it runs."
)


@dataclass(frozen=True, slots=True)
class Unused:
    """What is known, or suspected, to be unused.

    Attributes:
        padding, unreachable: token ids.
        candidates: which of the measured rows look untrained, shape (m,).
        facts: how they were found, for `clusters.json`.
        notes: sentences for the user.
    """

    padding: Int64
    unreachable: Int64
    candidates: npt.NDArray[np.bool_]
    facts: dict[str, Any]
    notes: list[str]


def find_unused(X: Float32, rows: Rows, *, each: Each) -> Unused:
    """Seeds from the tokenizer, each kind on its own; then the rows near to them.

    Where no kind of seed stands apart from the trained rows, rows of extraordinarily small norm
    are the candidates.
    """
    ids, note = unreachable(rows.vocabulary) if len(rows.vocabulary) else ([], "")
    unreached, padding = np.array(ids, dtype=np.int64), rows.padding()
    candidates = np.zeros(len(X), dtype=bool)
    groups: list[dict[str, Any]] = []
    used: set[int] = set()
    for name, members in (
        ("padding", padding),
        ("reserved", np.array(rows.vocabulary.reserved(), dtype=np.int64)),
        ("unreachable", unreached),
    ):
        fresh = [token_id for token_id in members.tolist() if token_id not in used]
        used.update(fresh)
        found = near_seeds(X, rows.at(fresh), each=each)
        if found is None:
            groups.append({"seeds_from": name, "seeds": len(rows.at(fresh))})
            continue
        candidates |= found.near
        groups.append(
            {
                "seeds_from": name,
                "seeds": found.seeds,
                "threshold": found.threshold,
                "found": int(found.near.sum()),
                "stands_apart": found.stands_apart,
            }
        )
    by_seeds = any(group.get("stands_apart") for group in groups)
    if not by_seeds:
        candidates = low_norms(rows.norms)
    seeded = np.zeros(len(X), dtype=bool)
    seeded[rows.at(sorted(used))] = True
    fresh_finds = np.flatnonzero(candidates & ~seeded)
    lowest = fresh_finds[np.argsort(rows.norms[fresh_finds], kind="stable")][:_EXAMPLES]
    facts = {
        "candidates": int(candidates.sum()),
        "candidates_besides_seeds": len(fresh_finds),
        "method": _method(by_seeds),
        "groups": groups,
        "examples": rows.tokens(lowest, norm=rows.norms[lowest]),
        "caveat": _CAVEAT,
    }
    return Unused(padding, unreached, candidates, facts, [note] if note else [])


def _method(by_seeds: bool) -> str:
    if by_seeds:
        return (
            "rows as near to the median row of unused tokens (rows without a token, reserved "
            "names, tokens that no text leads to) as those themselves are"
        )
    return (
        f"rows of extraordinarily small norm: no kind of unused token has {LEAST_SEEDS} rows that "
        "stand apart from the trained ones"
    )
