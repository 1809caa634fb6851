from __future__ import annotations

import csv
import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from paramscope.table.export import (
    WRITERS,
    csv_cell,
    in_table_order,
    json_text,
    write_spectra,
)
from paramscope.table.journal import Entry
from paramscope.table.schema import COLUMNS, Row

FIRST = """
model_path model_id revision param_name layer_index block_type shape rows cols design_rank
actual_rank rank_ratio svd_90_percent_rank svd_90_percent_ratio mean std var sparsity dtype
created_at part role tower expert_index min max numel nbytes nan_count inf_count
""".split()  # noqa: SIM905  a list to compare by eye


def made_up_row(**cells) -> Row:
    fill = {"string": "text", "int64": 3, "float64": 0.1}
    return {column.name: fill[column.dtype] for column in COLUMNS} | cells


def test_the_columns_that_the_scripts_always_had_come_first():
    names = [column.name for column in COLUMNS]
    assert names[: len(FIRST)] == FIRST
    assert names[-2:] == ["status", "reason"]
    assert len(set(names)) == len(names)


def test_rows_are_sorted_by_layer_as_a_number_and_the_rest_comes_last():
    layers = [None, 10, 2, 0, None, 2]
    entries = [
        Entry(i, made_up_row(layer_index=layer, param_name=str(i)), None, 0.0)
        for i, layer in enumerate(layers)
    ]
    ordered = in_table_order(reversed(entries))
    assert [row["layer_index"] for row in ordered] == [0, 2, 2, 10, None, None]
    assert [row["param_name"] for row in ordered] == ["3", "2", "5", "1", "0", "4"]


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_rows_back(tmp_path, name):
    rows = [
        made_up_row(layer_index=0, mean=1 / 3, param_name='a,"b"\nc', reason=""),
        made_up_row(layer_index=None, mean=-1e-300, param_name="ключ 😀", reason="<script>"),
    ]
    path = tmp_path / f"params.{name}"
    WRITERS[name](path, rows)
    readers = {
        "csv": lambda: list(csv.DictReader(io.StringIO(path.read_bytes().decode(), newline=""))),
        "json": lambda: json.loads(path.read_text("utf-8")),
        "jsonl": lambda: [json.loads(line) for line in path.read_text("utf-8").splitlines()],
        "parquet": lambda: pq.read_table(path).to_pylist(),
    }
    found = readers[name]()
    if name == "csv":
        found = [typed(row) for row in found]
    assert found == rows
    assert [path.name for path in tmp_path.iterdir()] == [path.name]


def typed(row: dict[str, str]) -> Row:
    convert = {"string": str, "int64": int, "float64": float}
    types = {column.name: convert[column.dtype] for column in COLUMNS}
    return {
        name: None if cell == "" and types[name] is not str else types[name](cell)
        for name, cell in row.items()
    }


def test_an_empty_table_is_a_table(tmp_path):
    for name, write in WRITERS.items():
        write(tmp_path / name, [])
    assert json.loads((tmp_path / "json").read_text()) == []
    assert pq.read_table(tmp_path / "parquet").num_rows == 0


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_text_becomes_a_formula(text):
    assert csv_cell(text) == f"'{text}"


def test_numbers_stay_numbers_in_full_precision():
    assert csv_cell(-0.1) == "-0.1"
    assert float(csv_cell(2 / 3)) == 2 / 3
    assert csv_cell(0) == "0"
    assert csv_cell(None) == ""


def test_json_has_no_nan_and_no_infinity():
    assert json_text({"a": [float("nan"), {"b": float("inf")}], "c": 1.5}) == (
        '{"a": [null, {"b": null}], "c": 1.5}'
    )


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "params.csv"
    WRITERS["csv"](path, [made_up_row()])
    before = path.read_bytes()
    with pytest.raises(KeyError):
        WRITERS["csv"](path, [made_up_row(), {}])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["params.csv"]


def test_spectra_come_back_to_the_last_bit(tmp_path, monkeypatch):
    monkeypatch.setattr("paramscope.table.export._SPECTRA_PER_GROUP_VALUES", 10)
    rng = np.random.default_rng(0)
    spectra = [rng.random(n) for n in (3, 20, 1, 0)]
    entries = [Entry(i, made_up_row(part=str(i)), s, 0.0) for i, s in enumerate(spectra)]
    write_spectra(tmp_path / "spectra.parquet", [*entries, Entry(9, made_up_row(), None, 0.0)])
    found = pq.read_table(tmp_path / "spectra.parquet").to_pylist()
    assert [row["part"] for row in found] == ["0", "1", "2", "3"]
    for row, s in zip(found, spectra, strict=True):
        assert row["singular_values"] == s.tolist()
