"""FP8 weights with their scales."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize

from mutation import peak_bytes
from paramscope.checkpoint import Window
from paramscope.pipeline import analyze
from unpacking import assert_decodes_to, assert_same_analysis, opened, refusal, write

Q = "model.layers.0.self_attn.q_proj.weight"
GATE_UP = "model.layers.0.mlp.experts.gate_up_proj"
DOWN = "model.layers.0.mlp.experts.down_proj"
FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def block_scaled(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and factors as DeepSeek-V3's own script would make them: 128×128, the last partial."""
    rows, columns = (-(-size // 128) for size in weight.shape)
    factors = torch.empty(rows, columns)
    codes = torch.empty(weight.shape, dtype=torch.float8_e4m3fn)
    for i in range(rows):
        for j in range(columns):
            here = (slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128))
            factors[i, j] = weight[here].abs().max() / 448
            codes[here] = (weight[here] / factors[i, j]).to(torch.float8_e4m3fn)
    return codes, factors


def by_transformers(
    name: str, weight: torch.Tensor, block: tuple[int, int] | None, scale_fmt: str = "float"
) -> dict[str, torch.Tensor]:
    """Codes and scales as transformers writes them."""
    config = SimpleNamespace(weight_block_size=block, scale_fmt=scale_fmt)
    quantizer = SimpleNamespace(quantization_config=config)
    return Fp8Quantize(quantizer).convert({name: weight})


def of_transformers(codes: torch.Tensor, scales: torch.Tensor, dtype=torch.float32) -> torch.Tensor:
    """What transformers decodes."""
    return Fp8Dequantize(SimpleNamespace())._dequantize_one(codes, scales, dtype)


@pytest.mark.parametrize("shape", [(576, 256), (192, 640)], ids=["tall", "wide"])
def test_block_scaled_weight_is_measured_as_its_decoded_values(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    codes, factors = block_scaled(random(*shape))
    save_file({Q: codes, f"{Q}_scale_inv": factors}, tmp_path / "model.safetensors")
    spread = factors.repeat_interleave(128, 0).repeat_interleave(128, 1)[: shape[0], : shape[1]]
    decoded = (codes.float() * spread).numpy()

    run = analyze(tmp_path, out=tmp_path / "out")

    (row,) = run.rows
    assert run.meta["coverage"]["complete"]
    assert (row["param_name"], row["block_type"], row["dtype"]) == (Q, "q_proj", "F8_E4M3")
    assert row["stored_tensors"] == f"{Q} {Q}_scale_inv"
    assert row["numel"] == decoded.size
    assert row["nbytes"] == decoded.size + 4 * factors.numel()
    assert row["std"] == pytest.approx(float(decoded.astype(np.float64).std()), rel=1e-12)
    expected = np.linalg.svd(decoded.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(run.spectrum(Q), expected, atol=row["sigma_error_bound"])


@pytest.mark.parametrize(
    ("block", "scale_fmt", "label"),
    [
        ((128, 128), "float", "fp8 e4m3 128×128"),
        ((64, 32), "float", "fp8 e4m3 64×32"),
        ((1, 32), "ue8m0", "fp8 e4m3 g32"),
        (None, "float", "fp8 e4m3 per tensor"),
    ],
)
def test_what_transformers_writes_decodes_to_what_transformers_decodes(
    tmp_path: Path, block: tuple[int, int] | None, scale_fmt: str, label: str
) -> None:
    tensors = by_transformers(Q, random(256, 384), block, scale_fmt)
    settings = {"weight_block_size": None if block is None else list(block)}
    folder = write(tmp_path, tensors, {"quantization_config": settings})

    expected = of_transformers(*tensors.values())

    assert assert_decodes_to(folder, Q, expected) == label


def test_scales_that_are_exponents_may_be_bytes(tmp_path: Path) -> None:
    tensors = by_transformers(Q, random(128, 96), (1, 32), "ue8m0")
    tensors[f"{Q}_scale_inv"] = tensors[f"{Q}_scale_inv"].view(torch.uint8)
    folder = write(tmp_path, tensors)

    assert_decodes_to(folder, Q, of_transformers(*tensors.values()))


def test_stack_of_experts_is_decoded_and_split_as_the_model_without_quantisation(
    tmp_path: Path,
) -> None:
    config = {
        "model_type": "qwen3_moe",
        "hidden_size": 256,
        "num_experts": 3,
        "num_attention_heads": 2,
        **FP8,
    }
    tensors, plain = {}, {}
    for name, shape in {GATE_UP: (3, 512, 256), DOWN: (3, 256, 256)}.items():
        made = by_transformers(name, random(*shape), (128, 128))
        tensors |= made
        plain[name] = of_transformers(*made.values())
    folder = write(tmp_path / "fp8", tensors, config)

    assert set(tensors) == {name + end for name in plain for end in ("", "_scale_inv")}
    for name, expected in plain.items():
        assert assert_decodes_to(folder, name, expected) == "fp8 e4m3 128×128"
    rows = assert_same_analysis(folder, write(tmp_path / "plain", plain, config), tmp_path / "out")
    assert len(rows) == 9
    assert {r["role"] for r in rows} == {"moe.expert.gate", "moe.expert.up", "moe.expert.down"}


def test_one_scale_per_expert_is_one_for_the_gate_and_one_for_the_up(tmp_path: Path) -> None:
    codes = random(3, 512, 256).to(torch.float8_e4m3fn)
    scales = random(3, 2, 1).abs()
    folder = write(
        tmp_path,
        {
            GATE_UP: codes,
            f"{GATE_UP}_scale_inv": scales,
            DOWN: codes[:, :256],
            f"{DOWN}_scale_inv": scales[:, :1],
        },
        {"quantization_config": {"quant_method": "fp8", "weight_block_size": None}},
    )

    assert_decodes_to(folder, GATE_UP, of_transformers(codes, scales))
    scheme = assert_decodes_to(folder, DOWN, of_transformers(codes[:, :256], scales[:, :1]))
    assert scheme == "fp8 e4m3 per expert"


@pytest.mark.parametrize("names", [".weight_scale", ".scale", ".qscale_weight"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("shape", "label"),
    [
        ((), "per tensor"),
        ((1,), "per tensor"),
        ((1, 1), "per tensor"),
        ((150,), "per channel"),
        ((150, 1), "per channel"),
    ],
)
def test_scales_multiply_in_their_own_dtype(
    tmp_path: Path, shape: tuple[int, ...], label: str, dtype: torch.dtype, names: str
) -> None:
    codes = random(150, 130).to(torch.float8_e4m3fn)
    scales = random(*shape).abs().to(dtype)
    folder = write(tmp_path, {Q: codes, Q.removesuffix(".weight") + names: scales})

    expected = codes.to(dtype) * scales.reshape(-1, 1)

    assert assert_decodes_to(folder, Q, expected, windows=5) == f"fp8 e4m3 {label}"


@pytest.mark.parametrize("name", ["e5m2", "e4m3fnuz", "e5m2fnuz"])
def test_other_fp8_dtypes_have_their_own_values(tmp_path: Path, name: str) -> None:
    dtype = getattr(torch, f"float8_{name}")
    codes, scale = random(40, 24).to(dtype), torch.tensor([0.37])
    folder = write(tmp_path, {Q: codes, f"{Q}_scale": scale})

    assert assert_decodes_to(folder, Q, codes.float() * scale) == f"fp8 {name} per tensor"


@pytest.mark.parametrize("shape", [(2, 1, 80), (2, 80, 1)], ids=["up", "down"])
def test_experts_stored_inputs_first_have_a_scale_per_column(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    """From the layout of transformers' `FbgemmFp8Llama4TextExperts`; its kernels need CUDA."""
    codes, scales = random(2, 48, 80).to(torch.float8_e4m3fn), random(*shape).abs()
    folder = write(tmp_path, {DOWN: codes, f"{DOWN}_scale": scales})

    scheme = assert_decodes_to(folder, DOWN, codes.float() * scales.reshape(2, 1, 80))

    assert scheme == "fp8 e4m3 per channel"


def test_scales_of_activations_stay_buffers(tmp_path: Path) -> None:
    codes = random(32, 16).to(torch.float8_e4m3fn)
    folder = write(
        tmp_path,
        {Q: codes, f"{Q}_scale": torch.tensor(0.5), Q[:-6] + "input_scale": torch.tensor(0.25)},
    )

    run = analyze(folder, out=tmp_path / "out")

    roles = {str(row["param_name"]): (row["role"], row["status"]) for row in run.rows}
    assert roles == {Q: ("attn.q", "ok"), Q[:-6] + "input_scale": ("packing", "ok")}
    assert run.meta["coverage"]["complete"]


def test_fp8_without_scales_is_refused(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({name: torch.zeros(4, 4).to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")

    run = analyze(tmp_path, out=tmp_path / "out")

    (row,) = run.rows
    assert row["status"] == "refused"
    assert "scales" in str(row["reason"])
    assert run.meta["coverage"]["complete"]


@pytest.mark.parametrize(
    "shape",
    [(3,), (2, 3), (5, 1), (3, 2, 1), (0, 2), (576, 256), (256,), (1, 256), (5, 2, 1, 1)],
    ids=str,
)
def test_scales_of_another_shape_are_refused_with_both_shapes(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    codes = torch.zeros(576, 256).to(torch.float8_e4m3fn)
    folder = write(tmp_path, {Q: codes, f"{Q}_scale_inv": torch.ones(shape)}, FP8)

    reason = refusal(folder, Q)

    assert "(5, 2)" in reason
    assert str(shape) in reason


def test_blocks_of_two_sizes_that_both_fit_are_refused(tmp_path: Path) -> None:
    codes = torch.zeros(100, 64).to(torch.float8_e4m3fn)
    groups = {
        str(rows): {"weights": {"num_bits": 8, "type": "float", "strategy": "block",
                                "block_structure": [rows, 64]}}
        for rows in (50, 60)
    }  # fmt: skip
    folder = write(
        tmp_path,
        {Q: codes, f"{Q}_scale": torch.ones(2, 1)},
        {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": groups}},
    )

    assert "none is certain" in refusal(folder, Q)


@pytest.mark.parametrize("zero_point", [torch.float8_e4m3fn, torch.int8])
def test_fp8_with_zero_points_is_refused(tmp_path: Path, zero_point: torch.dtype) -> None:
    codes = torch.zeros(8, 8).to(torch.float8_e4m3fn)
    points = torch.zeros(1).to(zero_point)
    folder = write(tmp_path, {Q: codes, f"{Q}_scale": torch.ones(1), f"{Q}_zero_point": points})

    assert "zero points" in refusal(folder, Q)


def test_a_window_needs_no_more_memory_than_itself(tmp_path: Path) -> None:
    rows, columns = 8192, 4096
    codes = torch.zeros(rows, columns, dtype=torch.uint8).view(torch.float8_e4m3fn)
    folder = write(tmp_path, {Q: codes, f"{Q}_scale_inv": torch.ones(64, 32)}, FP8)

    with opened(folder) as (checkpoint, tensors):
        window = Window(1000, 1256, 0, columns)
        peak = peak_bytes(lambda: tensors[Q].decode(checkpoint.read_stored, window))

    assert peak < 20 * 256 * columns
