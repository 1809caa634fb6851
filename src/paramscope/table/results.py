"""A finished run, read back from its folder."""

from __future__ import annotations

import importlib.util
import json
import statistics
from collections.abc import Mapping, Sequence
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
        """The table as a pandas data frame.

        Raises:
            UsageError: pandas is not installed; it does not come along.
        """
        import pyarrow.parquet as pq

        if importlib.util.find_spec("pandas") is None:
            raise UsageError("to_pandas: expected pandas, found none. Run: pip install pandas")

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

    def save(self, path: str | Path) -> Path:
        """Write the table to a file, in the format that its ending names.

        Raises:
            UsageError: no table is written with that ending.
        """
        from paramscope.table.export import WRITERS

        path = Path(path)
        write = WRITERS.get(path.suffix.lstrip("."))
        if write is None:
            raise UsageError(
                f"{path}: expected a file that ends in one of {', '.join(WRITERS)}, "
                f"found {path.suffix or 'no ending'}."
            )
        write(path, self.rows)
        return path

    def _repr_html_(self) -> str:
        """For a notebook: the model, and a line per role."""
        from html import escape

        by_role: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            by_role.setdefault((str(row["tower"] or ""), str(row["role"])), []).append(row)
        headings = ("role", "rows", "parameters", "svd 90 % ratio (median)", "not ok")
        lines = [
            (": ".join(filter(None, key)), *_role_summary(rows)) for key, rows in by_role.items()
        ]
        head = "".join(f"<th>{heading}</th>" for heading in headings)
        body = "".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in lines
        )
        title = f"{self.meta['model']['model_id']}: {len(self.rows):,} rows in {self.folder}"
        return (
            f"<p><b>{escape(title)}</b></p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"


def _role_summary(rows: Sequence[Row]) -> tuple[str, str, str, str]:
    """How many, how large, how compressible, how many not measured."""
    ratios = [float(r) for row in rows if (r := row["svd_90_percent_ratio"]) is not None]
    elements = sum(int(row["numel"] or 0) for row in rows)
    not_ok = sum(1 for row in rows if row["status"] != "ok")
    ratio = f"{statistics.median(ratios):.1%}" if ratios else "-"
    return f"{len(rows):,}", f"{elements:,}", ratio, f"{not_ok:,}"
