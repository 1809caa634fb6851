"""What the tests of packed schemes share: small checkpoints, random windows, two analyses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from paramscope.checkpoint import Checkpoint, PackedTensor, StoredTensor, Window
from paramscope.checkpoint.open import open_checkpoint
from paramscope.pipeline import analyze
from paramscope.source.local import LocalSource


def write(
    folder: Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any] | None = None
) -> Path:
    """A checkpoint by the reference library; gives its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@contextmanager
def opened(folder: Path) -> Iterator[tuple[Checkpoint, dict[str, StoredTensor]]]:
    """The checkpoint, and its tensors by name."""
    with closing(LocalSource(folder)) as source:
        checkpoint = open_checkpoint(source)
        yield checkpoint, {tensor.name: tensor for tensor in checkpoint.tensors}


def refusal(folder: Path, name: str) -> str:
    """Why a tensor is not read."""
    with opened(folder) as (_, tensors):
        return tensors[name].refusal


def assert_decodes_to(folder: Path, name: str, expected: torch.Tensor, *, windows: int = 40) -> str:
    """Whole, and in random windows, the weight has the bits of `expected`, in its dtype.

    Returns:
        The scheme.
    """
    flat = expected.reshape(-1, expected.shape[-1])
    with opened(folder) as (checkpoint, tensors):
        tensor = tensors[name]
        assert isinstance(tensor, PackedTensor)
        assert tensor.refusal == ""
        assert tensor.shape == tuple(expected.shape)
        for window in _windows(*flat.shape, windows):
            values = tensor.decode(checkpoint.read_stored, window)
            assert values.dtype == np.float32
            assert values.shape == window.shape
            found = torch.from_numpy(np.ascontiguousarray(values)).to(expected.dtype)
            assert torch.equal(found.float(), flat[window.rows, window.columns].float())
        return tensor.scheme


def _windows(rows: int, columns: int, count: int) -> Iterator[Window]:
    """All of it, then random ones, which begin and end anywhere."""
    yield Window(0, rows, 0, columns)
    rng = np.random.default_rng(5)
    for _ in range(count):
        row, column = int(rng.integers(rows)), int(rng.integers(columns))
        last_row, last_column = rng.integers(row, rows), rng.integers(column, columns)
        yield Window(row, int(last_row) + 1, column, int(last_column) + 1)


_EQUAL = ("param_name", "part", "block_type", "role", "layer_index", "expert_index", "shape")
_RANKS = ("numel", "actual_rank", "svd_90_percent_rank")


def assert_same_analysis(found: Path, decoded: Path, out: Path) -> list[dict[str, Any]]:
    """Every matrix of the decoded checkpoint is in the packed one, and measures the same.

    Returns:
        The rows of the packed checkpoint that are no buffers.
    """
    left, right = (analyze(folder, out=out / str(i)) for i, folder in enumerate((found, decoded)))
    assert left.meta["coverage"]["complete"]
    rows = {(r["param_name"], r["part"]): r for r in left.rows if r["block_type"] != "buffer"}
    assert set(rows) == {(r["param_name"], r["part"]) for r in right.rows}
    for wanted in right.rows:
        row = rows[wanted["param_name"], wanted["part"]]
        assert row["status"] == "ok", row["reason"]
        for column in (*_EQUAL, *_RANKS):
            assert row[column] == wanted[column], column
        assert row["std"] == pytest.approx(wanted["std"], rel=1e-12)
        np.testing.assert_allclose(
            left.spectrum(str(row["param_name"]), part=str(row["part"])),
            right.spectrum(str(row["param_name"]), part=str(row["part"])),
            atol=float(str(row["sigma_error_bound"])),
        )
    return list(rows.values())
