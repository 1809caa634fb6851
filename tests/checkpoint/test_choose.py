"""Which copy of the weights is read where a folder holds several."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from paramscope.checkpoint import Checkpoint
from paramscope.checkpoint.open import open_checkpoint
from paramscope.cli import paramscope
from paramscope.errors import CheckpointError, NoCheckpointError
from paramscope.source.local import LocalSource
from paramscope.structure import inspect

NAME = "model.layers.0.self_attn.q_proj.weight"


def opened(folder: Path, container: str | None = None) -> Checkpoint:
    with closing(LocalSource(folder)) as source:
        return open_checkpoint(source, container)


def values(folder: Path, container: str | None = None) -> np.ndarray:
    with closing(LocalSource(folder)) as source:
        checkpoint = open_checkpoint(source, container)
        (tensor,) = checkpoint.tensors
        return tensor.dtype.decode(checkpoint.read(tensor, 0, tensor.numel))


def write_gguf(path: Path, values: np.ndarray) -> None:
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(1)
    writer.add_tensor("blk.0.attn_q.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    weights = {NAME: torch.randn(8, 32, generator=torch.Generator().manual_seed(0))}
    save_file(weights, tmp_path / "model.safetensors")
    torch.save(weights, tmp_path / "pytorch_model.bin")
    torch.save({"step": 3}, tmp_path / "optimizer.pt")
    write_gguf(tmp_path / "model-F16.gguf", weights[NAME].half().numpy())
    write_gguf(tmp_path / "model-F32.gguf", weights[NAME].numpy())
    return tmp_path


def test_the_best_copy_is_read_and_the_others_are_named(copies: Path) -> None:
    checkpoint = opened(copies)
    assert (checkpoint.format, checkpoint.weight_files) == ("safetensors", ("model.safetensors",))
    assert any("--format pytorch or --format gguf" in note for note in checkpoint.notes)


@pytest.mark.parametrize(
    ("container", "file"), [("pytorch", "pytorch_model.bin"), ("gguf", "model-F32.gguf")]
)
def test_another_copy_is_read_where_it_is_asked_for(
    copies: Path, container: str, file: str
) -> None:
    assert opened(copies, container).weight_files == (file,)
    np.testing.assert_array_equal(values(copies, container), values(copies))
    assert inspect(copies, container=container).model["format"] == container


def test_a_file_given_as_model_is_read_alone(copies: Path) -> None:
    (tensor,) = opened(copies / "model-F16.gguf").tensors
    assert (tensor.name, tensor.stored_dtype) == ("blk.0.attn_q.weight", "F16")


def test_a_copy_that_is_not_there_is_an_error_that_names_those_that_are(copies: Path) -> None:
    for file in copies.glob("*.gguf"):
        file.unlink()
    with pytest.raises(NoCheckpointError, match=r"found them in safetensors, PyTorch pickle"):
        opened(copies, "gguf")


def test_a_series_with_a_gap_is_an_error(tmp_path: Path) -> None:
    save_file({NAME: torch.zeros(2, 2)}, tmp_path / "model-00001-of-00003.safetensors")
    with pytest.raises(CheckpointError, match="one of 3 shards, of which 2 are missing"):
        opened(tmp_path)


def test_one_option_takes_tables_and_the_copy_to_read(copies: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["analyze", str(copies), "--format", "jsonl,pytorch", "--out", str(out), "--json"]
    paramscope.main(arguments, standalone_mode=False)
    assert {file.name for file in out.glob("params.*")} == {"params.jsonl", "params.parquet"}
    assert '"format": "pytorch"' in (out / "run_meta.json").read_text("utf-8")


def test_the_structure_tells_of_packed_and_of_refused_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = torch.ones(128, 128).to(torch.float8_e4m3fn)
    save_file(
        {
            NAME: codes,
            f"{NAME}_scale_inv": torch.ones(1, 1),
            "model.layers.0.mlp.up_proj.weight": codes.clone(),
        },
        tmp_path / "model.safetensors",
    )
    paramscope.main(["inspect", str(tmp_path)], standalone_mode=False)
    said = capsys.readouterr().out
    assert "Packed:     1 × fp8 e4m3" in said
    assert "Refused:    1, such as model.layers.0.mlp.up_proj.weight" in said
    assert all(len(line) <= 80 for line in said.splitlines() if not line.startswith("Note"))
