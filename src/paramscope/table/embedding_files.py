"""The files of an embedding's analysis: written whole, read back, drawn again without weights.

clusters.csv      one row per cluster (or the name that was asked for)
tokens.parquet    one row per token
curve.csv         one row per k that was tried
clusters.json     everything that is not per token; written last, so that it says: complete
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paramscope.files import whole_file, write_whole
from paramscope.measure.blocks import Float64, Int64
from paramscope.table.export import csv_cell, json_text

CLUSTERS, TOKENS, CURVE = "clusters.json", "tokens.parquet", "curve.csv"
TABLE, PLOTS, NEIGHBORS = "clusters.csv", "plots", "neighbors.json"

CLUSTER_COLUMNS = ("cluster", "size", "share", "mean_distance", "silhouette", "representatives")
CURVE_COLUMNS = (
    "k",
    "inertia",
    "calinski_harabasz",
    "davies_bouldin",
    "silhouette",
    "chosen",
)
FLAGS = ("nan", "constant", "duplicate", "padding", "unreachable", "undertrained", "special")


@dataclass(frozen=True, slots=True)
class TokenColumns:
    """The table of tokens, by columns of one length.

    Attributes:
        text: readable; `⟨id⟩` where the tokenizer has no token.
        cluster: -1 where the row was left out of the clusters.
        distance: to the centre of its cluster, in scaled units; NaN where left out.
        norm: Euclidean norm of the row as stored; NaN where it is not finite.
        x, y: place on the map; NaN where left out.
        flags: names out of `FLAGS`, joined by commas.
    """

    text: Sequence[str]
    cluster: Int64
    distance: Float64
    norm: Float64
    x: Float64
    y: Float64
    flags: Sequence[str]

    def __len__(self) -> int:
        return len(self.text)


def write_tokens(path: Path, tokens: TokenColumns) -> None:
    """One row per token, in the order of ids."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {
        "token_id": pa.array(np.arange(len(tokens))),
        "text": pa.array(tokens.text, pa.string()),
        "cluster": pa.array(tokens.cluster, pa.int64(), mask=tokens.cluster < 0),
    }
    for name in ("distance", "norm", "x", "y"):
        arrays[name] = pa.array(getattr(tokens, name), pa.float64(), from_pandas=True)
    arrays["flags"] = pa.array(tokens.flags, pa.string())
    with whole_file(path) as part:
        pq.write_table(pa.table(arrays), part)


def read_tokens(path: Path) -> TokenColumns:
    """The table of tokens, as it was written."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    numbers = {
        name: np.asarray(table[name].to_numpy(), dtype=np.float64)
        for name in ("distance", "norm", "x", "y")
    }
    return TokenColumns(
        text=table["text"].to_pylist(),
        cluster=np.asarray(pc.fill_null(table["cluster"], -1).to_numpy(), dtype=np.int64),
        flags=table["flags"].to_pylist(),
        **numbers,
    )


def write_clusters_csv(path: Path, clusters: Sequence[Mapping[str, Any]]) -> None:
    """One row per cluster; the representatives are a JSON array of texts in one cell."""
    rows = []
    for cluster in clusters:
        texts = [token["text"] for token in cluster["representatives"]]
        rows.append({**cluster, "representatives": json.dumps(texts, ensure_ascii=False)})
    _write_csv(path, CLUSTER_COLUMNS, rows)


def write_curve(path: Path, points: Sequence[Mapping[str, Any]]) -> None:
    """One row per k; `chosen` is 1 for the one that was taken, else 0."""
    _write_csv(path, CURVE_COLUMNS, points)


def read_curve(path: Path) -> list[dict[str, float | None]]:
    """The curve's rows; an empty cell is None."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [{key: float(cell) if cell else None for key, cell in row.items()} for row in rows]


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with whole_file(path) as part, part.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([csv_cell(row[name]) for name in columns])


def write_json_file(path: Path, content: Any) -> None:
    """One strict JSON value and a line feed."""
    write_whole(path, (json_text(content) + "\n").encode())


def read_json_file(path: Path) -> Any:
    """A JSON file's content; None where it is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
