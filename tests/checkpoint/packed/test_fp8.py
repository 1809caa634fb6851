"""FP8 weights with their scales."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from paramscope.pipeline import analyze


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


@pytest.mark.parametrize("shape", [(576, 256), (192, 640)], ids=["tall", "wide"])
def test_block_scaled_weight_is_measured_as_its_decoded_values(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    codes, factors = block_scaled(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    save_file({name: codes, f"{name}_scale_inv": factors}, tmp_path / "model.safetensors")
    spread = factors.repeat_interleave(128, 0).repeat_interleave(128, 1)[: shape[0], : shape[1]]
    decoded = (codes.float() * spread).numpy()

    run = analyze(tmp_path, out=tmp_path / "out")

    (row,) = run.rows
    assert run.meta["coverage"]["complete"]
    assert (row["param_name"], row["block_type"], row["dtype"]) == (name, "q_proj", "F8_E4M3")
    assert row["stored_tensors"] == f"{name} {name}_scale_inv"
    assert row["numel"] == decoded.size
    assert row["nbytes"] == decoded.size + 4 * factors.numel()
    assert row["std"] == pytest.approx(float(decoded.astype(np.float64).std()), rel=1e-12)
    expected = np.linalg.svd(decoded.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(run.spectrum(name), expected, atol=row["sigma_error_bound"])


def test_fp8_without_scales_is_refused(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({name: torch.zeros(4, 4).to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")

    run = analyze(tmp_path, out=tmp_path / "out")

    (row,) = run.rows
    assert row["status"] == "refused"
    assert "scales" in str(row["reason"])
    assert run.meta["coverage"]["complete"]
