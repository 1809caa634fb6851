"""Several quantisations in one checkpoint: told apart, and survived when damaged."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mutation import survive
from quantised import awq, bnb_4bit, bnb_8bit, gptq, mlx
from unpacking import opened, write

_LAYER = "model.layers.{}.self_attn.q_proj"
_CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "quantization_config": {"bits": 4, "desc_act": False},
    "quantization": {"group_size": 64, "bits": 4},
}


def all_forms() -> dict[str, torch.Tensor]:
    """A small layer in every form, some hundred bytes each."""
    small = {"shape": (32, 64), "group": 32}
    return {
        **gptq(name=_LAYER.format(0), shuffled=True, **small)[0],
        **gptq(name=_LAYER.format(1), index=False, **small)[0],
        **awq(name=_LAYER.format(2), **small)[0],
        **bnb_4bit(name=f"{_LAYER.format(3)}.weight", shape=(8, 64), nested=True)[0],
        **bnb_4bit(name=f"{_LAYER.format(4)}.weight", shape=(5, 30), kind="fp4")[0],
        **bnb_8bit(name=f"{_LAYER.format(5)}.weight")[0],
        **mlx(name=_LAYER.format(6), shape=(4, 64))[0],
        **mlx(name=_LAYER.format(7), shape=(4, 64), bits=3)[0],
        **mlx(name=_LAYER.format(8), shape=(4, 64), mode="nvfp4", group=16)[0],
    }


def settings() -> dict[str, Any]:
    own = {
        _LAYER.format(7): {"group_size": 64, "bits": 3},
        _LAYER.format(8): {"group_size": 16, "bits": 4, "mode": "nvfp4"},
    }
    return {**_CONFIG, "quantization": {**_CONFIG["quantization"], **own}}


def test_forms_side_by_side_are_told_apart(tmp_path: Path) -> None:
    with opened(write(tmp_path, all_forms(), settings())) as (checkpoint, tensors):
        found = [tensors[f"{_LAYER.format(index)}.weight"].scheme for index in range(9)]
        owned = [part.name for tensor in checkpoint.tensors for part in tensor.stored]

    assert len(tensors) == 9
    assert sorted(owned) == sorted(tensor.name for tensor in checkpoint.stored)
    assert found == [
        "gptq 4-bit g32",
        "gptq 4-bit g32",
        "awq 4-bit g32",
        "bnb nf4 g64 nested",
        "bnb fp4 g64",
        "bnb int8",
        "mlx 4-bit g64",
        "mlx 3-bit g64",
        "mlx nvfp4 g16",
    ]


@pytest.mark.parametrize("times", [1_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_damaged_files_are_read_or_refused_with_a_sentence(tmp_path: Path, times: int) -> None:
    folder = write(tmp_path / "good", all_forms(), settings())
    good = {file.name: file.read_bytes() for file in folder.iterdir()}

    outcome = survive(tmp_path / "damaged", good, times=times)

    assert min(outcome.values()) > times // 20


def test_damaged_settings_are_survived(tmp_path: Path) -> None:
    """Settings of every type in every place: no tensor is lost, nothing but a sentence comes."""
    tensors = all_forms()
    for value in (None, True, -1, 0, 2**70, 1.5, "x", [], {}, [[]], {"a": 1}):
        for key in ("bits", "group_size", "desc_act", "checkpoint_format", "quant_method", "mode"):
            node = {"bits": 4, "group_size": 32, key: value}
            config = json.loads(json.dumps({"quantization_config": node, "quantization": node}))
            with opened(write(tmp_path, tensors, config)) as (checkpoint, by_name):
                for tensor in by_name.values():
                    if not tensor.refusal:
                        assert len(checkpoint.read(tensor, 0, tensor.numel)) == tensor.numel
                owned = [part.name for tensor in checkpoint.tensors for part in tensor.stored]
            assert sorted(owned) == sorted(tensors)
