"""Tables as files: CSV, JSON, JSONL, Parquet; spectra as Parquet. Whole or not at all."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramscope.files import whole_file
from paramscope.table.journal import Entry
from paramscope.table.schema import COLUMN_NAMES, COLUMNS, Row, Value

if TYPE_CHECKING:
    import pyarrow as pa

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_SPECTRA_PER_GROUP_VALUES = 2**20


def in_table_order(entries: Iterable[Entry]) -> list[Row]:
    """Rows by layer, numerically, then as stored; rows outside the layers last."""

    def place(entry: Entry) -> tuple[bool, int, int]:
        layer = entry.row["layer_index"]
        return (layer is None, int(layer or 0), entry.position)

    return [entry.row for entry in sorted(entries, key=place)]


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Comma-separated, UTF-8, header first; an empty cell is no value."""
    with whole_file(path) as part, part.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMN_NAMES)
        for row in rows:
            writer.writerow([csv_cell(row[name]) for name in COLUMN_NAMES])


def csv_cell(value: Value) -> str:
    """A cell's text: numbers in full precision; text that a spreadsheet would run is quoted."""
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULA_STARTS) else value
    return repr(value)


def write_json(path: Path, rows: Sequence[Row]) -> None:
    """One array of objects; no NaN or Infinity, which JSON has not."""
    with whole_file(path) as part, part.open("w", encoding="utf-8") as stream:
        stream.write("[\n")
        for number, row in enumerate(rows):
            stream.write((",\n" if number else "") + json_text(row))
        stream.write("\n]\n")


def write_jsonl(path: Path, rows: Sequence[Row]) -> None:
    """One object per line."""
    with whole_file(path) as part, part.open("w", encoding="utf-8") as stream:
        stream.writelines(json_text(row) + "\n" for row in rows)


def json_text(value: Any) -> str:
    """Strict JSON; a number that JSON cannot hold becomes null."""
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    """Typed columns; the meaning of each is in its field's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            pa.field(column.name, column.dtype, metadata={"meaning": column.meaning})
            for column in COLUMNS
        ]
    )
    table = pa.table({name: [row[name] for row in rows] for name in COLUMN_NAMES}, schema=schema)
    with whole_file(path) as part:
        pq.write_table(table, part)


def write_spectra(path: Path, entries: Iterable[Entry]) -> None:
    """`spectra.parquet`: param_name, part, and every singular value, descending, float64."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("param_name", "string"),
            ("part", "string"),
            pa.field("singular_values", pa.list_(pa.float64())),
        ]
    )
    text = ["param_name", "part"]  # a dictionary of numbers that all differ takes time and room
    with whole_file(path) as part, pq.ParquetWriter(part, schema, use_dictionary=text) as writer:
        group: list[Entry] = []
        values = 0
        for entry in entries:
            if entry.s is None:
                continue
            group.append(entry)
            values += len(entry.s)
            if values > _SPECTRA_PER_GROUP_VALUES:
                writer.write_table(_spectra_table(group, schema))
                group, values = [], 0
        writer.write_table(_spectra_table(group, schema))


def _spectra_table(group: Sequence[Entry], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    return pa.table(
        {
            "param_name": [entry.row["param_name"] for entry in group],
            "part": [entry.row["part"] for entry in group],
            "singular_values": [entry.s for entry in group],
        },
        schema=schema,
    )


WRITERS: dict[str, Callable[[Path, Sequence[Row]], None]] = {
    "csv": write_csv,
    "json": write_json,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
}
