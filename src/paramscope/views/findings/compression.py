"""Which matrices a low-rank factorisation would shrink, what it saves and what it costs.

W (m×n) ≈ A·B with A m×r and B r×n takes r·(m + n) numbers: less than W below the break-even rank
m·n/(m + n). Truncated after r singular values, the relative error in the Frobenius norm is
√(1 - energy(r)). A matrix of random numbers also falls below its break-even rank where it is far
from square; so only what is clearly more compressible than random numbers is called compressible.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from paramscope.measure.random_matrix import random_energy_rank
from paramscope.table.schema import Row
from paramscope.views.findings.finding import (
    SHARES,
    SHOWN,
    Evidence,
    Finding,
    Table,
    Text,
    matrices,
    more,
    number,
    percent,
)
from paramscope.views.words import bytes_text, count_text

_BELOW_RANDOM = 0.85  # of the rank that random numbers need: finite matrices scatter around it
_LIKE_RANDOM = 0.05  # largest difference of the spectra, relative to the largest value
_LARGE = 128  # singular values: the spectra of smaller random matrices differ by more
_AT_LEAST_BELOW = 2  # and by so many, since small ranks are coarse


@dataclass(frozen=True, slots=True)
class Factorised:
    """One matrix as a product of two, at one rank.

    Attributes:
        rank: r; parameters and bytes saved may be negative above the break-even rank.
        error: relative, in the Frobenius norm, in [0, 1].
    """

    rank: int
    saved: int
    saved_bytes: int
    error: float


def break_even_rank(rows: int, columns: int) -> float:
    """m·n / (m + n): a factorisation saves below it."""
    return rows * columns / (rows + columns)


def factorised(evidence: Evidence, place: int, percent_: int) -> Factorised:
    """What keeping `percent_` % of the variance would save and cost."""
    row = evidence.rows[place]
    rows, columns = int(number(row, "rows")), int(number(row, "cols"))
    rank = int(number(row, f"svd_{percent_}_percent_rank"))
    saved = rows * columns - rank * (rows + columns)
    per_element = number(row, "nbytes") / max(1.0, number(row, "numel"))
    errors = evidence.errors.get(place)
    at_most = math.sqrt(1 - percent_ / 100)
    error = at_most if errors is None else errors[SHARES.index(percent_)]
    return Factorised(rank, saved, round(saved * per_element), error)


def compression_findings(evidence: Evidence) -> Iterator[Finding]:
    """Matrices below the rank of their shape; those with few strong directions; their sum."""
    with_ranks = [
        p for p in evidence.weights() if evidence.rows[p]["svd_90_percent_rank"] is not None
    ]
    measured = [p for p in with_ranks if evidence.rows[p]["method"] != "factors"]
    if not measured:
        why = (
            "All matrices are stored as factors, of low rank by construction: none is judged."
            if with_ranks
            else "No singular values were computed, so none is judged."
        )
        yield Finding("compressible", "fact", (why,))
        return
    yield _deficient(evidence, measured)
    yield from _like_random(evidence, measured)
    compressible = [p for p in measured if _is_structured(evidence.rows[p])]
    saving = [p for p in compressible if factorised(evidence, p, 90).saved > 0]
    if not saving:
        yield Finding(
            "compressible",
            "sound",
            ("No matrix is clearly more compressible than random numbers of its shape.",),
            (
                "Judged by the directions that carry 90 % of the variance, against the "
                "Marchenko-Pastur law.",
            ),
        )
        return
    saving.sort(
        key=lambda p: -factorised(evidence, p, 90).saved / number(evidence.rows[p], "numel")
    )
    yield _most_compressible(evidence, saving, len(measured))
    yield _totals(evidence, saving)


def _is_structured(row: Row) -> bool:
    rank = number(row, "svd_90_percent_rank")
    random = random_energy_rank(int(number(row, "rows")), int(number(row, "cols")), 0.90)
    return 0 < rank <= min(_BELOW_RANDOM * random, random - _AT_LEAST_BELOW)


def _deficient(evidence: Evidence, measured: list[int]) -> Finding:
    rows = evidence.rows
    deficient = [
        p
        for p in measured
        if rows[p]["method"] != "krylov"
        and 0 < number(rows[p], "actual_rank") < number(rows[p], "design_rank")
    ]
    if not deficient:
        return Finding("rank-deficient", "sound", ("No matrix has a lower rank than its shape.",))
    deficient.sort(key=lambda p: number(rows[p], "rank_ratio"))
    lines = tuple(_deficient_line(evidence, p) for p in deficient[:SHOWN])
    are = "has a lower rank than its" if len(deficient) == 1 else "have a lower rank than their"
    return Finding(
        "rank-deficient",
        "notable",
        (f"{matrices(len(deficient))} {are} shape: ", *evidence.names(deficient), "."),
        (
            "A factorisation at that rank loses nothing beyond the tolerance of the rank "
            f"({evidence.meta['options'].get('tolerance', 1e-6):g} of the largest singular value).",
        ),
        rows=tuple(deficient),
        table=Table(
            ("Matrix", "Shape", "Rank", "Break-even rank", "Saved without loss"),
            lines,
            numeric=frozenset({2, 3, 4}),
            more=more(deficient),
        ),
    )


def _deficient_line(evidence: Evidence, place: int) -> tuple[Text, ...]:
    row = evidence.rows[place]
    m, n, rank = (int(number(row, key)) for key in ("rows", "cols", "actual_rank"))
    saved = m * n - rank * (m + n)
    saved_bytes = round(saved * number(row, "nbytes") / max(1.0, number(row, "numel")))
    return (
        (evidence.name(place),),
        (str(row["shape"]),),
        (f"{rank:,} of {min(m, n):,}",),
        (f"{break_even_rank(m, n):,.1f}",),
        (f"{saved:,} ({bytes_text(saved_bytes)})" if saved > 0 else "nothing",),
    )


def _like_random(evidence: Evidence, measured: list[int]) -> Iterator[Finding]:
    """Matrices whose spectrum training has not moved from that of random numbers."""
    alike = [
        p
        for p in measured
        if number(evidence.rows[p], "design_rank") >= _LARGE
        and evidence.distances.get(p, 1.0) <= _LIKE_RANDOM
    ]
    if alike:
        yield Finding(
            "like-random",
            "fact",
            (
                f"{matrices(len(alike))} of {len(measured):,} "
                f"{'has' if len(alike) == 1 else 'have'} the singular values of random numbers: ",
                *evidence.names(alike),
                ".",
            ),
            (
                "They follow the Marchenko-Pastur law to within 5 % of the largest value, as after "
                "an initialisation that no training has moved far from.",
            ),
            rows=tuple(alike),
        )


def _most_compressible(evidence: Evidence, saving: list[int], measured: int) -> Finding:
    best = evidence.rows[saving[0]]
    ratio = number(best, "svd_90_percent_ratio")
    return Finding(
        "compressible",
        "notable",
        (
            f"{matrices(len(saving))} of {measured:,} would shrink by a low-rank factorisation "
            "that keeps 90 % of the variance; most of all ",
            evidence.name(saving[0]),
            f", where {percent(ratio)} of the directions carry it.",
        ),
        (
            "Named are those that are clearly more compressible than random numbers of the same "
            "shape (Marchenko-Pastur law). Saved: m·n - r·(m + n) parameters at rank r, in the "
            "stored dtype. Error: ‖W - W_r‖ / ‖W‖ in the Frobenius norm, of the weights, which is "
            "not the error of the model's output.",
        ),
        rows=tuple(saving),
        table=Table(
            (
                "Matrix",
                "Shape",
                "Break-even rank",
                *(f"Keeping {share} % of the variance" for share in SHARES),
            ),
            tuple(_saving_line(evidence, p) for p in saving[:SHOWN]),
            numeric=frozenset({2}),
            more=more(saving),
        ),
    )


def _saving_line(evidence: Evidence, place: int) -> tuple[Text, ...]:
    row = evidence.rows[place]
    break_even = break_even_rank(int(number(row, "rows")), int(number(row, "cols")))
    return (
        (evidence.name(place),),
        (str(row["shape"]),),
        (f"{break_even:,.1f}",),
        *((_at(factorised(evidence, place, share)),) for share in SHARES),
    )


def _at(found: Factorised) -> str:
    if found.saved <= 0:
        return f"rank {found.rank:,}: saves nothing"
    return (
        f"rank {found.rank:,}: saves {found.saved:,} ({bytes_text(found.saved_bytes)}), "
        f"error {percent(found.error)}"
    )


def _totals(evidence: Evidence, saving: list[int]) -> Finding:
    parameters = int(evidence.meta["coverage"]["parameters"]) or 1
    lines = []
    for share in SHARES:
        each = [f for p in saving if (f := factorised(evidence, p, share)).saved > 0]
        saved = sum(f.saved for f in each)
        lines.append(
            (
                (f"{share} %",),
                (f"{len(each):,}",),
                (count_text(saved),),
                (percent(saved / parameters),),
                (bytes_text(sum(f.saved_bytes for f in each)),),
                (percent(max((f.error for f in each), default=0.0)),),
            )
        )
    at_90 = lines[0]
    return Finding(
        "savings",
        "fact",
        (
            f"Factorised where that saves, keeping 90 % of each matrix's variance, {at_90[2][0]} "
            f"parameters would go ({at_90[3][0]} of all), {at_90[4][0]}.",
        ),
        (
            "Each of these matrices would then be off by the error named. Whether the model bears "
            "that, weights alone do not tell.",
        ),
        rows=tuple(saving),
        table=Table(
            (
                "Variance kept",
                "Matrices that shrink",
                "Parameters saved",
                "Of all",
                "Bytes saved",
                "Largest relative error",
            ),
            tuple(lines),
            numeric=frozenset({1, 2, 3, 4, 5}),
        ),
    )
