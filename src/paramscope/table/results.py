"""A finished run, read back from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramscope.errors import RunError, UsageError, nearest_first
from paramscope.measure.spectrum import Float64
from paramscope.table.schema import Row

if TYPE_CHECKING:
    import pandas as pd

META = "run_meta.json"
TABLE = "params.parquet"
SPECTRA = "spectra.parquet"


class Run:
    """The results of one analysis of one checkpoint.

    Attributes:
        folder: where everything is: `params.parquet`, `spectra.parquet`, `run_meta.json`, ….
    """

    def __init__(self, folder: str | Path) -> None:
        """Open a run's folder.

        Raises:
            RunError: the folder holds no finished run.
        """
        self.folder = Path(folder)
        if not (self.folder / META).is_file():
            raise RunError(
                f"{self.folder}: expected a finished run with {META}, found none. "
                "Run: paramscope analyze MODEL --out FOLDER"
            )

    @cached_property
    def meta(self) -> Mapping[str, Any]:
        """What `run_meta.json` says: versions, settings, files, coverage, timings."""
        meta: Mapping[str, Any] = json.loads((self.folder / META).read_text("utf-8"))
        return meta

    @cached_property
    def rows(self) -> list[Row]:
        """The table, one dict per row, in table order."""
        import pyarrow.parquet as pq

        rows: list[Row] = pq.read_table(self.folder / TABLE).to_pylist()
        return rows

    def to_pandas(self) -> pd.DataFrame:
        """The table as a pandas data frame (pandas is not installed along)."""
        import pyarrow.parquet as pq

        return pq.read_table(self.folder / TABLE).to_pandas()

    def spectrum(self, param_name: str, part: str = "") -> Float64:
        """All singular values of one matrix, shape (k,), descending, float64.

        Raises:
            UsageError: there is no such matrix, or it has no spectrum.
        """
        import numpy as np
        import pyarrow.parquet as pq

        table = pq.read_table(
            self.folder / SPECTRA, filters=[("param_name", "=", param_name), ("part", "=", part)]
        )
        if table.num_rows == 0:
            names = [str(row["param_name"]) + (f" [{row['part']}]" if row["part"] else "")
                     for row in self.rows]  # fmt: skip
            wanted = f"{param_name} [{part}]" if part else param_name
            raise UsageError(
                f"{self.folder}: no spectrum of {wanted!r}. Nearest: "
                f"{', '.join(nearest_first(wanted, names)[:3])}."
            )
        return np.asarray(table["singular_values"][0].values.to_numpy())

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"
