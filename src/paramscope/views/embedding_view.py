"""An embedding's analysis on the console: the matrix as a whole, then cluster by cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from paramscope.table.embedding_result import Embedding
from paramscope.views.words import printable

_TOKENS_SHOWN = 5


def embedding_view(result: Embedding) -> Iterator[str]:
    """Lines: what it is, the matrix as a whole, the table of clusters, notes."""
    facts, matrix = result.facts, result.facts["matrix"]
    norm = matrix["norm"]
    yield f"Model:      {printable(facts['model']['model_id'], 80)}"
    shape = f"({facts['rows']:,} × {facts['columns']:,})"
    yield f"Embedding:  {printable(facts['param_name'], 60)} {shape}"
    yield f"Head:       {_head(facts)}"
    yield (
        f"Norms:      {norm['min']:.3g} ({_texts(matrix['smallest_norms'], 1)}) to "
        f"{norm['max']:.3g} ({_texts(matrix['largest_norms'], 1)}), median {norm['median']:.3g}"
    )
    yield (
        f"Isotropy:   IsoScore {_number(matrix['isoscore'])}, mean cosine "
        f"{_number(matrix['mean_cosine'])}, effective dimension "
        f"{matrix['effective_dimension']:.0f} of {facts['columns']:,}"
    )
    yield (
        f"Duplicates: {matrix['duplicates']:,} rows repeat another; "
        f"{matrix['near_duplicates']:,} are nearly equal to one"
    )
    yield from _untrained(matrix["untrained"])
    for token in result.neighbors:
        near = ", ".join(f"{printable(n['text'])} {n['cosine']:.2f}" for n in token["neighbors"])
        yield f"Nearest:    {printable(token['text'])}: {near}"
    yield ""
    yield f"Clusters:   {result.k}. {facts['elbow']['note']}"
    yield ""
    yield from cluster_table(result.clusters)
    for note in result.notes:
        yield f"Note: {printable(note)}"


def cluster_table(clusters: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A heading and one line per cluster."""
    yield f"{'cluster':>7}{'tokens':>9}{'share':>8}{'silhouette':>12}  nearest to the centre"
    for cluster in clusters:
        score = cluster["silhouette"]
        shown = "-" if score is None else f"{score:.3f}"
        yield (
            f"{cluster['cluster']:>7}{cluster['size']:>9,}{cluster['share']:>8.1%}{shown:>12}  "
            f"{_texts(cluster['representatives'], _TOKENS_SHOWN)}"
        )


def _untrained(facts: Mapping[str, Any]) -> Iterator[str]:
    seeds = ", ".join(
        f"{group['seeds']:,} {group['seeds_from']}" for group in facts["groups"] if group["seeds"]
    )
    yield (
        f"Untrained:  {facts['candidates']:,} candidates, "
        f"{facts['candidates_besides_seeds']:,} of them beyond the known unused "
        f"({seeds or 'none known'})"
    )
    if facts["candidates"]:
        if facts["examples"]:
            yield f"            such as {_texts(facts['examples'], 8)}"
        yield f"            {facts['caveat']}"


def _head(facts: Mapping[str, Any]) -> str:
    if facts["head"] is not None:
        return f"{printable(facts['head'], 60)}, stored on its own"
    return "none stored: tied to the embedding, or absent" if facts["tied"] else "none stored"


def _texts(tokens: Sequence[Mapping[str, Any]], count: int) -> str:
    return "  ".join(printable(token["text"], 16) for token in tokens[:count])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
