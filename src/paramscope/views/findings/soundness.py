"""Whether the checkpoint is whole and sound."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from paramscope.views.findings.dead import dead_findings, is_zero
from paramscope.views.findings.finding import (
    SHOWN,
    Evidence,
    Finding,
    Name,
    Table,
    Text,
    count,
    matrices,
    more,
    number,
    percent,
)
from paramscope.views.findings.model import layers
from paramscope.views.words import bytes_text, printable

_SMALLEST_DUPLICATE = 16  # elements: shorter vectors are equal by chance
_SPARSE = 0.05  # trained dense weights hold next to no zeros
_REASON_LENGTH = 160


def soundness_findings(evidence: Evidence) -> Iterator[Finding]:
    """Faults first: what is missing, what is no number, what is empty, what is there twice."""
    yield _coverage(evidence)
    yield from _missing_layers(evidence)
    yield _not_finite(evidence)
    yield from _not_measured(evidence)
    yield from dead_findings(evidence)
    yield from _duplicates(evidence)
    yield from _constant(evidence)
    yield from _sparse(evidence)


def _coverage(evidence: Evidence) -> Finding:
    covered = evidence.meta["coverage"]
    if covered["complete"]:
        return Finding(
            "coverage",
            "sound",
            (f"The table holds all {covered['expected']:,} elements of the checkpoint.",),
            (f"Counted tensor by tensor against the headers of {covered['tensors']:,} tensors.",),
        )
    wrong = [Name(printable(str(name), 72)) for name in covered["wrong"][:3]]
    names = [part for name in wrong for part in (", ", name)][1:]
    return Finding(
        "coverage",
        "fault",
        (
            f"The table holds {covered['found']:,} of the checkpoint's "
            f"{covered['expected']:,} elements.",
        ),
        ("They differ in ", *names, ".") if names else (),
    )


def _missing_layers(evidence: Evidence) -> Iterator[Finding]:
    says = (evidence.meta["model"].get("architecture") or {}).get("layers")
    found = layers(evidence)
    if isinstance(says, int) and len(found) == 1 and 0 < next(iter(found.values())) < says:
        there = next(iter(found.values()))
        yield Finding(
            "missing-layers",
            "fault",
            (f"The config speaks of {count(says, 'layer')}, the checkpoint holds {there:,}.",),
            ("A shard may be missing, or the model was cut.",),
        )


def _not_finite(evidence: Evidence) -> Finding:
    bad = [p for p, row in enumerate(evidence.rows) if row["nan_count"] or row["inf_count"]]
    if not bad:
        read = sum(1 for row in evidence.rows if row["nan_count"] is not None)
        return Finding(
            "nan", "sound", (f"No NaN and no infinity in any of the {read:,} rows that were read.",)
        )
    lines = tuple(
        (
            (evidence.name(place),),
            (f"{int(number(evidence.rows[place], 'nan_count')):,}",),
            (f"{int(number(evidence.rows[place], 'inf_count')):,}",),
            (f"{int(number(evidence.rows[place], 'numel')):,}",),
        )
        for place in bad[:SHOWN]
    )
    return Finding(
        "nan",
        "fault",
        (f"NaN or infinity in {matrices(len(bad))}: ", *evidence.names(bad), "."),
        ("Such a model computes NaN as soon as the element is used.",),
        rows=tuple(bad),
        table=Table(
            ("Matrix", "NaN", "Infinite", "Elements"),
            lines,
            numeric=frozenset({1, 2, 3}),
            more=more(bad),
        ),
    )


def _not_measured(evidence: Evidence) -> Iterator[Finding]:
    """Rows that failed or were refused for another reason than NaN."""
    by_reason: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, row in enumerate(evidence.rows):
        if row["status"] != "ok" and not row["nan_count"] and not row["inf_count"]:
            by_reason[str(row["status"]), str(row["reason"])].append(place)
    ordered = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    for index, ((status, reason), places) in enumerate(ordered[:SHOWN]):
        yield Finding(
            f"not-measured-{index}",
            "notable",
            (f"{count(len(places), 'row')} {status}: ", *evidence.names(places), "."),
            (Name(printable(reason, _REASON_LENGTH)), "."),
            rows=tuple(places),
        )


def _duplicates(evidence: Evidence) -> Iterator[Finding]:
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for place, row in enumerate(evidence.rows):
        trained = row["block_type"] != "buffer" and row["min"] != row["max"]
        if trained and row.get("content_hash") and number(row, "numel") >= _SMALLEST_DUPLICATE:
            groups[row["content_hash"], row["shape"], row["dtype"]].append(place)
    same = sorted(
        (g for g in groups.values() if len(g) > 1), key=lambda g: -_bytes_twice(evidence, g)
    )
    if not same:
        if groups:
            yield Finding("duplicates", "sound", ("No two parameters hold the same numbers.",))
        return
    copies = sum(len(group) - 1 for group in same)
    saved = sum(_bytes_twice(evidence, group) for group in same)
    first: Text = (evidence.name(same[0][0]), " = ", evidence.name(same[0][1]))
    lines = tuple(
        (
            evidence.names(group, most=4),
            (str(evidence.rows[group[0]]["shape"]),),
            (f"{len(group):,}",),
            (bytes_text(_bytes_twice(evidence, group)),),
        )
        for group in same[:SHOWN]
    )
    yield Finding(
        "duplicates",
        "notable",
        (
            f"{count(copies, 'parameter is a copy', 'parameters are copies')} of another: ",
            *first,
            f"{', …' if copies > 1 else ''}.",
        ),
        (f"Stored once each, as some formats can, they take {bytes_text(saved)} less.",),
        rows=tuple(place for group in same for place in group),
        table=Table(
            ("The same numbers", "Shape", "Times", "Could be saved"),
            lines,
            numeric=frozenset({2, 3}),
            more=f"and {len(same) - SHOWN:,} more groups" if len(same) > SHOWN else "",
        ),
    )


def _bytes_twice(evidence: Evidence, group: Sequence[int]) -> int:
    return int(number(evidence.rows[group[0]], "nbytes")) * (len(group) - 1)


def _constant(evidence: Evidence) -> Iterator[Finding]:
    rows = evidence.rows
    constant = [
        p
        for p in evidence.weights()
        if rows[p]["min"] is not None and rows[p]["min"] == rows[p]["max"] != 0.0
    ]
    if constant:
        yield Finding(
            "constant",
            "notable",
            (
                f"{matrices(len(constant))} hold{'s' if len(constant) == 1 else ''} one number "
                "throughout: ",
                *evidence.names(constant),
                ".",
            ),
            ("Such a matrix was initialised and never trained.",),
            rows=tuple(constant),
        )


def _sparse(evidence: Evidence) -> Iterator[Finding]:
    sparse = [
        p
        for p in evidence.weights()
        if number(evidence.rows[p], "sparsity") >= _SPARSE and not is_zero(evidence.rows[p])
    ]
    if not sparse:
        return
    sparse.sort(key=lambda p: -number(evidence.rows[p], "sparsity"))
    zeros = sum(
        number(evidence.rows[p], "sparsity") * number(evidence.rows[p], "numel") for p in sparse
    )
    kinds = Counter(str(evidence.rows[p]["role"]) for p in sparse)
    roles = ", ".join(f"{role} ({n:,})" for role, n in kinds.most_common(4))
    first = evidence.rows[sparse[0]]
    yield Finding(
        "sparse",
        "notable",
        (
            f"{matrices(len(sparse))} {'is' if len(sparse) == 1 else 'are'} sparse, up to "
            f"{percent(number(first, 'sparsity'))} zeros: ",
            *evidence.names(sparse),
            ".",
        ),
        (f"{int(zeros):,} elements are zero. By role: {roles}.",),
        rows=tuple(sparse),
    )
