"""How to analyse an embedding: the options of the function, the command and the script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paramscope.errors import UsageError
from paramscope.measure.embedding import SCALINGS

DEFAULT_SCALING = "unit"
MAPS = ("pca", "umap")


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingOptions:
    """How to analyse an embedding; the same names as the CLI's options.

    Attributes:
        out: a file ending in .csv for the table of clusters, the rest goes beside it; or a folder.
            By default `data/outputs/<org>--<name>/embedding`.
        matrix: which matrix, where several are embeddings, or none is known as one.
        k_max: the largest number of clusters to try.
        k: this many clusters, and no search.
        scaling: of the rows before clustering: "none", "unit" (each row divided by its norm) or
            "standard" (each column divided by its standard deviation).
        seed: of the random choices; the same seed gives the same files.
        neighbors: tokens, or ids, whose nearest rows are wanted.
        map: how rows are placed on the map: "pca" or "umap" (needs the package umap-learn).
        plots: whether to draw pictures.
        workers: threads; by default one per core. No result depends on it.
        fresh: analyse again even if the folder holds the complete result.
        container: which copy of the weights, where there are several: see `Options`.
    """

    out: Path | None = None
    matrix: str | None = None
    k_max: int = 100
    k: int | None = None
    scaling: str = DEFAULT_SCALING
    seed: int = 42
    neighbors: Sequence[str] = ()
    map: str = "pca"
    plots: bool = True
    workers: int | None = None
    fresh: bool = False
    container: str | None = None

    def __post_init__(self) -> None:
        """Refuse values that cannot work before any work is done."""
        if self.out is not None:
            object.__setattr__(self, "out", Path(self.out))
        for name, value, known in (
            ("scaling", self.scaling, SCALINGS),
            ("map", self.map, MAPS),
        ):
            if value not in known:
                raise UsageError(f"--{name}: unknown {value!r}. Known: {', '.join(known)}.")
        if self.k_max < 2:
            raise UsageError(f"--k-max: expected 2 or more, got {self.k_max}.")
        if self.k is not None and self.k < 1:
            raise UsageError(f"--k: expected 1 or more, got {self.k}.")
        if self.seed < 0:
            raise UsageError(f"--seed: expected 0 or more, got {self.seed}.")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers: expected 1 or more, got {self.workers}.")
        if isinstance(self.neighbors, str):
            raise UsageError("neighbors: expected several tokens, got one text. Put it in a list.")
        if self.out is not None and self.out.suffix in (".json", ".parquet", ".jsonl", ".tsv"):
            raise UsageError(f"--out: expected a folder or a file ending in .csv, got {self.out}.")
        if self.map == "umap":
            _demand_umap()

    @property
    def deciding(self) -> dict[str, Any]:
        """The options on which the result depends."""
        names = ("matrix", "k_max", "k", "scaling", "seed", "map")
        return {name: getattr(self, name) for name in names}


def _demand_umap() -> None:
    import importlib.util

    if importlib.util.find_spec("umap") is None:
        raise UsageError("--map umap: needs a package of its own. Run: pip install umap-learn")
