"""What does nothing: layers, matrices, rows and columns that are zero throughout."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from paramscope.table.schema import Row
from paramscope.views.findings.finding import (
    SHOWN,
    Evidence,
    Finding,
    Table,
    count,
    matrices,
    more,
    number,
)
from paramscope.views.words import printable


def is_zero(row: Row) -> bool:
    """Whether every element is zero."""
    return bool(row["numel"]) and row["min"] == 0.0 and row["max"] == 0.0 and row["status"] == "ok"


def dead_findings(evidence: Evidence) -> Iterator[Finding]:
    """Layers, matrices, rows and columns of zeros, each named once: the largest that is dead."""
    zero = [p for p in evidence.weights() if is_zero(evidence.rows[p])]
    dead_layers = _dead_layers(evidence, set(zero))
    for index, ((tower, layer), places) in enumerate(dead_layers.items()):
        where = f"Layer {layer}" + (f" of {printable(tower, 24)}" if tower else "")
        yield Finding(
            f"dead-layer-{index}",
            "fault",
            (f"{where} is dead: all its {matrices(len(places))} are zero.",),
            ("What goes into it comes out unchanged, or not at all.",),
            rows=tuple(places),
        )
    in_dead_layers = {place for places in dead_layers.values() for place in places}
    alone = [place for place in zero if place not in in_dead_layers]
    if alone:
        verb = "is" if len(alone) == 1 else "are"
        yield Finding(
            "zero-matrices",
            "fault",
            (f"{matrices(len(alone))} {verb} zero throughout: ", *evidence.names(alone), "."),
            rows=tuple(alone),
        )
    yield from _dead_rows(evidence, set(zero))


def _dead_layers(evidence: Evidence, zero: set[int]) -> dict[tuple[str, int], list[int]]:
    by_layer: dict[tuple[str, int], list[int]] = defaultdict(list)
    for place in evidence.weights():
        row = evidence.rows[place]
        if isinstance(row["layer_index"], int):
            by_layer[str(row["tower"] or ""), row["layer_index"]].append(place)
    return {key: places for key, places in by_layer.items() if zero.issuperset(places)}


def _dead_rows(evidence: Evidence, zero: set[int]) -> Iterator[Finding]:
    """Rows and columns of zeros in matrices that are not zero throughout."""
    places = [
        p
        for p in evidence.weights()
        if p not in zero
        and (evidence.rows[p].get("zero_rows") or evidence.rows[p].get("zero_cols"))
    ]
    known = any(evidence.rows[p].get("zero_rows") is not None for p in evidence.weights())
    if not places:
        if known and not zero:
            yield Finding(
                "dead-rows", "sound", ("No matrix has a row or a column of zeros throughout.",)
            )
        return
    places.sort(key=lambda p: -_dead_share(evidence.rows[p]))
    rows = int(sum(number(evidence.rows[p], "zero_rows") for p in places))
    columns = int(sum(number(evidence.rows[p], "zero_cols") for p in places))
    lines = tuple(
        (
            (evidence.name(p),),
            (f"{int(number(evidence.rows[p], 'zero_rows')):,} of {evidence.rows[p]['rows']:,}",),
            (f"{int(number(evidence.rows[p], 'zero_cols')):,} of {evidence.rows[p]['cols']:,}",),
        )
        for p in places[:SHOWN]
    )
    what = [count(rows, "row") if rows else "", count(columns, "column") if columns else ""]
    yield Finding(
        "dead-rows",
        "notable",
        (
            f"{' and '.join(filter(None, what))} of zeros throughout, in {matrices(len(places))}: ",
            *evidence.names(places),
            ".",
        ),
        (
            "A row of zeros is an output that nothing moves; in an embedding, a token that was "
            "never trained, or padding. A column of zeros is an input that is ignored.",
        ),
        rows=tuple(places),
        table=Table(
            ("Matrix", "Rows of zeros", "Columns of zeros"),
            lines,
            numeric=frozenset({1, 2}),
            more=more(places),
        ),
    )


def _dead_share(row: Row) -> float:
    return max(
        number(row, "zero_rows") / number(row, "rows"),
        number(row, "zero_cols") / number(row, "cols"),
    )
