"""FP4 codes with a scale in FP8 per 16, and one in float32 for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme

from unpacking import assert_decodes_to, assert_same_analysis, refusal, write

Q = "model.layers.0.self_attn.q_proj"
SCHEME = QuantizationScheme(
    targets=["Linear"],
    weights={"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
)
LUT = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def compressor() -> Any:
    return BaseCompressor.get_value_from_registry("nvfp4-pack-quantized")


def by_compressed_tensors(rows: int, columns: int) -> dict[str, torch.Tensor]:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    common = 448 * 6 / weight.abs().max().reshape(1)
    scale = weight.reshape(rows, -1, 16).abs().amax(-1) / 6 * common
    tensors = {
        "weight": weight,
        "weight_scale": scale.to(torch.float8_e4m3fn).float(),
        "weight_global_scale": common,
    }
    made: dict[str, torch.Tensor] = compressor().compress(tensors, SCHEME)
    return made


def named(made: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{Q}.{name}": tensor for name, tensor in made.items()}


def by_modelopt(*shape: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """From the layout of NVIDIA ModelOpt's `nvfp4_tensor.py`, and its arithmetic in float32."""
    random = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, shape, dtype=torch.uint8, generator=random)
    groups = (*shape[:-1], shape[-1] // 8)
    scales = (torch.rand(groups, generator=random) * 448).to(torch.float8_e4m3fn)
    common = torch.tensor(0.000731) if len(shape) == 2 else torch.rand(shape[0], generator=random)
    factors = scales.float() * common.reshape(-1, *[1] * (len(shape) - 1))
    values = torch.stack([LUT[(codes & 15).long()], LUT[(codes >> 4).long()]], -1)
    decoded = values.reshape(*groups, 16) * factors[..., None]
    made = {"weight": codes, "weight_scale": scales, "weight_scale_2": common}
    return named(made), decoded.reshape(*shape[:-1], -1)


def test_what_compressed_tensors_writes_decodes_to_what_it_decodes(tmp_path: Path) -> None:
    made = by_compressed_tensors(40, 96)
    folder = write(tmp_path, named(made))

    expected = compressor().decompress(made, SCHEME)["weight"]

    assert expected.dtype == torch.bfloat16
    assert assert_decodes_to(folder, f"{Q}.weight", expected) == "nvfp4 g16"


@pytest.mark.parametrize("shape", [(40, 48), (3, 40, 48)], ids=["matrix", "stack"])
def test_what_modelopt_writes_is_multiplied(tmp_path: Path, shape: tuple[int, ...]) -> None:
    tensors, expected = by_modelopt(*shape)

    assert_decodes_to(write(tmp_path, tensors), f"{Q}.weight", expected)


def test_it_is_measured_as_its_decoded_values(tmp_path: Path) -> None:
    tensors, decoded = by_modelopt(64, 40)
    tensors[f"{Q}.input_scale"] = torch.tensor(0.5)
    folder = write(tmp_path / "packed", tensors)
    plain = write(tmp_path / "plain", {f"{Q}.weight": decoded})

    (row,) = assert_same_analysis(folder, plain, tmp_path / "out")

    assert (row["role"], row["dtype"]) == ("attn.q", "U8")
    assert row["stored_tensors"] == " ".join(
        f"{Q}.{name}" for name in ("weight", "weight_scale", "weight_scale_2")
    )


@pytest.mark.parametrize("missing", ["weight_global_scale", "weight_scale"])
def test_codes_without_one_of_their_scales_are_refused(tmp_path: Path, missing: str) -> None:
    made = by_compressed_tensors(8, 32)
    del made[missing]

    assert missing in refusal(write(tmp_path, named(made)), f"{Q}.weight_packed")


@pytest.mark.parametrize("shape", [(8,), (8, 1), (8, 3), (2, 8), (16,), (), (8, 2, 1), (0, 2)])
def test_scales_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    made = by_compressed_tensors(8, 32)
    made["weight_scale"] = torch.zeros(shape).to(torch.float8_e4m3fn)

    assert str(shape) in refusal(write(tmp_path, named(made)), f"{Q}.weight_packed")


def test_a_global_scale_of_several_numbers_is_refused(tmp_path: Path) -> None:
    made = by_compressed_tensors(8, 32)
    made["weight_global_scale"] = torch.ones(3)

    assert "(3,)" in refusal(write(tmp_path, named(made)), f"{Q}.weight_packed")
