"""What depends on where elements stand, through the whole engine."""

from __future__ import annotations

import numpy as np
import pytest

import paramscope

GPT2 = {"model_type": "gpt2", "n_head": 2, "n_embd": 16}


@pytest.fixture
def rows(write_checkpoint, tmp_path):
    """Rows of the table by name, for some tensors and options."""

    def analysed(tensors, **options):
        model = write_checkpoint(tensors, config=GPT2)
        run = paramscope.analyze(model, out=tmp_path / "run", fresh=True, **options)
        return {row["param_name"]: row for row in run.rows}

    return analysed


def with_dead_parts(shape, dtype=np.float16):
    W = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    W[[1, 3]] = 0
    W[:, 5] = 0
    return W


@pytest.mark.parametrize("shape", [(90, 20), (20, 90), (30, 30)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_and_columns_are_those_of_the_matrix(rows, shape, dtype):
    row = rows({"a.weight": with_dead_parts(shape, dtype)})["a.weight"]
    assert (row["zero_rows"], row["zero_cols"]) == (2, 1)


@pytest.mark.parametrize("shape", [(16, 64), (64, 16)])
def test_a_matrix_stored_transposed_counts_its_outputs_as_rows(rows, shape):
    name = "h.0.mlp.c_fc.weight"
    row = rows({name: with_dead_parts(shape)})[name]
    assert (row["rows"], row["cols"]) == shape[::-1]
    assert (row["zero_rows"], row["zero_cols"]) == (1, 2)


def test_memory_and_workers_change_no_fingerprint(rows):
    tensors = {
        "tall": with_dead_parts((900, 40)),
        "wide": with_dead_parts((40, 900)),
        "h.0.attn.c_attn.weight": with_dead_parts((16, 48)),
    }
    first = rows(tensors)
    second = rows(tensors, workers=1, memory_bytes=1)
    names = ("content_hash", "zero_rows", "zero_cols")
    assert [[r[n] for n in names] for r in first.values()] == [
        [r[n] for n in names] for r in second.values()
    ]
    assert len({row["content_hash"] for row in first.values()}) == len(first)


def test_equal_matrices_have_equal_fingerprints_and_unread_ones_none(rows):
    W = with_dead_parts((30, 20))
    found = rows({"a": W, "b": W.copy(), "c": -W})
    assert found["a"]["content_hash"] == found["b"]["content_hash"] != found["c"]["content_hash"]
