"""What the clusters of the token embedding tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from paramscope.views.findings.finding import Evidence, Finding, Name, Table, Text, count, percent
from paramscope.views.words import printable

_TOKENS_SHOWN = 6
_TOKEN_LENGTH = 24
_CLUSTERS_SHOWN = 12


def embedding_findings(evidence: Evidence) -> Iterator[Finding]:
    """How many clusters, whether the elbow is clear, and what is in them."""
    found = evidence.embedding
    if not found:
        return
    clusters = sorted(found.get("clusters") or [], key=lambda c: -int(c.get("size") or 0))
    places = tuple(
        p for p, row in enumerate(evidence.rows) if row["param_name"] == found.get("param_name")
    )
    elbow = found.get("elbow") or {}
    clear = elbow.get("clear")
    note = str(elbow.get("note") or "")
    yield Finding(
        "clusters",
        "fact",
        (
            "The ",
            count(int(found.get("rows") or 0), "row"),
            " of ",
            evidence.name(places[0])
            if places
            else Name(printable(str(found.get("param_name")), 72)),
            f" fall into {count(int(found.get('k') or len(clusters)), 'cluster')}",
            "; the elbow is clear." if clear else "; no elbow is clear." if clear is False else ".",
        ),
        ((printable(note, 300),) if note else ()),
        rows=places,
        table=Table(
            ("Cluster", "Rows", "Share", "Silhouette", "Nearest to its centre"),
            tuple(_line(cluster) for cluster in clusters[:_CLUSTERS_SHOWN]),
            numeric=frozenset({0, 1, 2, 3}),
            more=(
                f"and {len(clusters) - _CLUSTERS_SHOWN:,} more"
                if len(clusters) > _CLUSTERS_SHOWN
                else ""
            ),
        ),
    )
    matrix = found.get("matrix") or {}
    yield from _norms(matrix)
    yield from _odd_rows(matrix)
    for index, text in enumerate(found.get("notes") or []):
        yield Finding(f"embedding-note-{index}", "fact", (printable(str(text), 400),))


def _norms(matrix: Mapping[str, Any]) -> Iterator[Finding]:
    norm = matrix.get("norm") or {}
    if norm.get("min") is None or norm.get("max") is None:
        return
    smallest, largest = (
        _tokens(matrix.get("smallest_norms"), 1),
        _tokens(matrix.get("largest_norms"), 1),
    )
    dimension = matrix.get("effective_dimension")
    cosine = matrix.get("mean_cosine")
    detail = ""
    if dimension is not None and cosine is not None:
        detail = (
            f"Its effective dimension is {dimension:.1f}; two rows have a cosine of {cosine:.3f} "
            "on average."
        )
    yield Finding(
        "embedding-norms",
        "fact",
        (
            f"The rows' norms reach from {norm['min']:.3g} (",
            *smallest,
            f") to {norm['max']:.3g} (",
            *largest,
            f"), with a median of {norm['median']:.3g}.",
        ),
        (detail,) if detail else (),
    )


def _odd_rows(matrix: Mapping[str, Any]) -> Iterator[Finding]:
    """Rows that are no numbers, that equal others, that look untrained."""
    nan_rows = int(matrix.get("nan_rows") or 0)
    if nan_rows:
        ids = ", ".join(str(i) for i in (matrix.get("nan_token_ids") or [])[:_TOKENS_SHOWN])
        yield Finding(
            "embedding-nan",
            "fault",
            (f"{count(nan_rows, 'row')} of the embedding hold NaN or infinity: token {ids}.",),
        )
    equal = int(matrix.get("duplicates") or 0)
    if equal:
        yield Finding(
            "embedding-duplicates",
            "notable",
            (f"{count(equal, 'row equals', 'rows equal')} another row of the embedding.",),
        )
    untrained = matrix.get("untrained") or {}
    candidates = int(untrained.get("candidates") or 0)
    if candidates:
        looks = "row looks" if candidates == 1 else "rows look"
        yield Finding(
            "embedding-untrained",
            "notable",
            (
                f"{candidates:,} {looks} as if training never moved them; for example ",
                *_tokens(untrained.get("examples"), _TOKENS_SHOWN),
                ".",
            ),
            (printable(str(untrained.get("caveat") or ""), 300),),
        )


def _tokens(found: Any, most: int) -> Text:
    parts: list[str | Name] = []
    for item in (found or [])[:most]:
        name = item.get("text") if item.get("text") is not None else f"#{item.get('token_id')}"
        parts += [" "] if parts else []
        parts.append(Name(printable(str(name), _TOKEN_LENGTH)))
    return tuple(parts) or ("-",)


def _line(cluster: Mapping[str, Any]) -> tuple[Text, ...]:
    silhouette = cluster.get("silhouette")
    return (
        (str(cluster.get("cluster")),),
        (f"{int(cluster.get('size') or 0):,}",),
        (percent(float(cluster.get("share") or 0.0)),),
        ("-" if silhouette is None else f"{float(silhouette):.2f}",),
        _tokens(cluster.get("representatives"), _TOKENS_SHOWN),
    )
