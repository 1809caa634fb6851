"""FP4 and FP6 codes whose scales are powers of two."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from transformers import GptOssConfig, GptOssForCausalLM
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from mutation import peak_bytes
from paramscope.checkpoint import Window
from unpacking import assert_decodes_to, assert_same_analysis, opened, refusal, write

GATE_UP = "model.layers.0.mlp.experts.gate_up_proj"
W1 = "layers.0.ffn.experts.0.w1"


def codes_and_scales(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Blocks (…, rows, groups, 16) of any codes, scales (…, rows, groups) of usual size."""
    random = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8, generator=random)
    return blocks, torch.randint(110, 125, shape, dtype=torch.uint8, generator=random)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts_of_gpt_oss_are_decoded_as_transformers_does(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    blocks, scales = codes_and_scales(3, 24, 2)
    folder = write(tmp_path, {f"{GATE_UP}_blocks": blocks, f"{GATE_UP}_scales": scales})

    expected = convert_moe_packed_tensors(blocks, scales, dtype=dtype)

    assert expected.shape == (3, 64, 24)
    assert assert_decodes_to(folder, GATE_UP, expected) == "mxfp4 g32"


def test_the_smallest_scale_is_exact(tmp_path: Path) -> None:
    blocks, scales = codes_and_scales(1, 4, 1)
    scales[...] = torch.tensor([0, 1, 2, 251], dtype=torch.uint8)[:, None]
    folder = write(tmp_path, {f"{GATE_UP}_blocks": blocks, f"{GATE_UP}_scales": scales})

    expected = convert_moe_packed_tensors(blocks, scales, dtype=torch.float64)

    assert_decodes_to(folder, GATE_UP, expected)


def test_gpt_oss_is_measured_as_its_dequantised_self(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GptOssConfig(
        num_hidden_layers=2,
        num_local_experts=3,
        hidden_size=64,
        intermediate_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=128,
    )
    model = GptOssForCausalLM(config).float()
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    for seed, name in enumerate([n for n in tensors if n.endswith(("gate_up_proj", "down_proj"))]):
        experts, inputs, outputs = tensors.pop(name).shape
        blocks, scales = codes_and_scales(experts, outputs, inputs // 32, seed=seed)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        decoded = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
        model.get_parameter(name).data = decoded
    model.save_pretrained(tmp_path / "plain")
    settings = {**config.to_dict(), "quantization_config": {"quant_method": "mxfp4"}}
    folder = write(tmp_path / "packed", tensors, settings)

    rows = assert_same_analysis(folder, tmp_path / "plain", tmp_path / "out")

    roles = [row["role"] for row in rows if row["dtype"] == "U8"]
    for role in ("moe.expert.gate", "moe.expert.up", "moe.expert.down"):
        assert roles.count(role) == 2 * 3


@pytest.mark.parametrize("names", [(".weight", ".scale"), (".weight", ".weight_scale_inv")])
def test_fp4_experts_of_deepseek_v4_are_decoded_as_transformers_does(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    blocks, scales = codes_and_scales(24, 3)
    codes = blocks.reshape(24, -1).view(torch.int8)
    exponents = scales.view(torch.float8_e8m0fnu)
    folder = write(tmp_path, {W1 + names[0]: codes, W1 + names[1]: exponents})

    expected = Fp8Dequantize(SimpleNamespace())._dequantize_one(codes, exponents, torch.float32)

    assert assert_decodes_to(folder, f"{W1}.weight", expected) == "mxfp4 g32"


def test_stack_of_fp4_experts_is_decoded_as_transformers_does(tmp_path: Path) -> None:
    blocks, scales = codes_and_scales(3, 24, 2)
    codes = blocks.reshape(3, 24, -1).view(torch.int8)
    exponents = scales.view(torch.float8_e8m0fnu)
    folder = write(tmp_path, {GATE_UP: codes, f"{GATE_UP}_scale_inv": exponents})

    expected = Fp8Dequantize(SimpleNamespace())._dequantize_one(codes, exponents, torch.float32)

    assert_decodes_to(folder, GATE_UP, expected)


def scheme_of(**weights: Any) -> QuantizationScheme:
    return QuantizationScheme(targets=["Linear"], weights=weights)


@pytest.mark.parametrize("bits", [4, 6])
def test_what_compressed_tensors_writes_decodes_to_what_it_decodes(
    tmp_path: Path, bits: int
) -> None:
    compressor: Any = BaseCompressor.get_value_from_registry(f"mxfp{bits}-pack-quantized")
    scheme = scheme_of(num_bits=bits, type="float", strategy="group", group_size=32,
                       scale_dtype="torch.uint8")  # fmt: skip
    weight = torch.randn(40, 96, generator=torch.Generator().manual_seed(0))
    scale = 2.0 ** torch.randint(-6, 2, (40, 3)).float()
    made = compressor.compress({"weight": weight, "weight_scale": scale}, scheme)
    folder = write(tmp_path, {f"{W1}.{name}": tensor for name, tensor in made.items()})

    expected = compressor.decompress(made, scheme)["weight"]

    assert assert_decodes_to(folder, f"{W1}.weight", expected) == f"mxfp{bits} g32"


@pytest.mark.parametrize(
    ("blocks", "scales"),
    [
        ((3, 24, 2, 16), (3, 24, 1)),
        ((3, 24, 2, 16), (3, 24, 2, 1)),
        ((3, 24, 2, 16), (3, 48)),
        ((3, 24, 2, 8), (3, 24, 2)),
        ((24, 2, 16), (24, 2)),
        ((0, 24, 2, 16), (0, 24, 2)),
        ((3, 24, 2, 16), ()),
        ((3, 24, 2, 16), None),
    ],
    ids=str,
)
def test_blocks_and_scales_that_do_not_go_together_are_refused(
    tmp_path: Path, blocks: tuple[int, ...], scales: tuple[int, ...] | None
) -> None:
    tensors = {f"{GATE_UP}_blocks": torch.zeros(blocks, dtype=torch.uint8)}
    if scales is not None:
        tensors[f"{GATE_UP}_scales"] = torch.zeros(scales, dtype=torch.uint8)

    reason = refusal(write(tmp_path, tensors), f"{GATE_UP}_blocks")

    assert str(scales) in reason if scales is not None else "without scales" in reason


@pytest.mark.parametrize(
    "scales", [(24, 2), (24, 1), (1, 1), (1,), (), (24, 3, 1), (0, 3)], ids=str
)
def test_two_codes_in_a_byte_need_one_scale_per_32(tmp_path: Path, scales: tuple[int, ...]) -> None:
    exponents = torch.zeros(scales, dtype=torch.uint8).view(torch.float8_e8m0fnu)
    tensors = {f"{W1}.weight": torch.zeros(24, 48, dtype=torch.int8), f"{W1}.scale": exponents}

    assert str(scales) in refusal(write(tmp_path, tensors), f"{W1}.weight")


def test_a_window_reads_the_codes_of_the_experts_it_touches(tmp_path: Path) -> None:
    experts, outputs, groups = 32, 512, 16
    blocks, scales = codes_and_scales(experts, outputs, groups)
    folder = write(tmp_path, {f"{GATE_UP}_blocks": blocks, f"{GATE_UP}_scales": scales})
    one = outputs * groups * 16

    with opened(folder) as (checkpoint, tensors):
        asked = []

        def read(tensor, start, stop):
            asked.append((tensor.name, start, stop))
            return checkpoint.read_stored(tensor, start, stop)

        inputs = 32 * groups
        window = Window(5 * inputs + 7, 6 * inputs, 3, 400)
        tensors[GATE_UP].decode(read, window)
        peak = peak_bytes(lambda: tensors[GATE_UP].decode(checkpoint.read_stored, window))

    assert [span for span in asked if span[0].endswith("_blocks")] == [
        (f"{GATE_UP}_blocks", 5 * one, 6 * one)
    ]
    assert peak < one + 20 * inputs * 400
