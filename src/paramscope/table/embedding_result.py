"""The result of an embedding's analysis, read back from its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramscope.errors import RunError
from paramscope.table import embedding_files as files

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Embedding:
    """The clusters of one token embedding, and the embedding as a whole.

    Attributes:
        table: the file with one row per cluster; everything else lies beside it.
        facts: what `clusters.json` says.
        curve: one dict per k that was tried.
        neighbors: one dict per token that was asked for, most recent request.
    """

    table: Path
    facts: Mapping[str, Any]
    curve: Sequence[Mapping[str, float | None]]
    neighbors: Sequence[Mapping[str, Any]]

    @classmethod
    def load(cls, path: str | Path) -> Embedding:
        """Read a result back.

        Args:
            path: the table of clusters, or the folder.

        Raises:
            RunError: there is no complete result.
        """
        table = Path(path)
        table = table if table.suffix == ".csv" else table / files.TABLE
        facts = files.read_json_file(table.parent / files.CLUSTERS)
        curve = table.parent / files.CURVE
        if not isinstance(facts, dict) or not curve.is_file():
            raise RunError(
                f"{table.parent}: expected a complete analysis with {files.CLUSTERS}, found none. "
                "Run: paramscope embedding MODEL --out FOLDER"
            )
        neighbors = files.read_json_file(table.parent / files.NEIGHBORS)
        return cls(table, facts, files.read_curve(curve), neighbors or [])

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self.table.parent

    @property
    def clusters(self) -> Sequence[Mapping[str, Any]]:
        """One dict per cluster, the largest first: size, share, mean_distance, silhouette, …."""
        clusters: Sequence[Mapping[str, Any]] = self.facts["clusters"]
        return clusters

    @property
    def k(self) -> int:
        """How many clusters were chosen."""
        return int(self.facts["k"])

    @property
    def notes(self) -> Sequence[str]:
        """What a user should know, in sentences."""
        notes: Sequence[str] = self.facts["notes"]
        return notes

    def tokens(self) -> files.TokenColumns:
        """The table of tokens, by columns."""
        return files.read_tokens(self.folder / files.TOKENS)

    def to_pandas(self) -> pd.DataFrame:
        """The table of tokens as a pandas data frame (pandas is not installed along)."""
        import pyarrow.parquet as pq

        return pq.read_table(self.folder / files.TOKENS).to_pandas()

    def to_dict(self) -> dict[str, Any]:
        """Everything that is not per token, as `paramscope embedding --json` prints it."""
        return {
            "folder": str(self.folder),
            "table": str(self.table),
            **self.facts,
            "curve": [dict(point) for point in self.curve],
            "neighbors": list(self.neighbors),
        }
