"""MLX weights, against MLX itself, which writes and decodes them on the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mutation import peak_bytes
from paramscope.checkpoint import PackedTensor, Window
from quantised import NAME, mlx
from unpacking import assert_decodes_to, assert_same_analysis, opened, refusal, write

_TORCH = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def settings(bits: int = 4, group: int = 64, **values: Any) -> dict[str, Any]:
    node = {"group_size": group, "bits": bits, **values}
    return {"quantization": node, "quantization_config": node}


@pytest.mark.parametrize("dtype", _TORCH)
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 8])
def test_weight_has_the_bits_that_mlx_computes(tmp_path: Path, bits: int, dtype: str) -> None:
    stored, expected = mlx(bits=bits, dtype=dtype)
    assert expected.dtype == _TORCH[dtype]

    scheme = assert_decodes_to(
        write(tmp_path, stored, settings(bits)), f"{NAME}.weight", expected, windows=15
    )

    assert scheme == f"mlx {bits}-bit g64"


@pytest.mark.parametrize("group", [32, 64, 128])
def test_groups_of_every_size_are_read(tmp_path: Path, group: int) -> None:
    stored, expected = mlx(group=group, bits=6)

    assert_decodes_to(write(tmp_path, stored, settings(6, group)), f"{NAME}.weight", expected)


@pytest.mark.parametrize(
    ("mode", "bits", "group"), [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]
)
def test_small_floats_are_read(tmp_path: Path, mode: str, bits: int, group: int) -> None:
    stored, expected = mlx(mode=mode, bits=bits, group=group)
    folder = write(tmp_path, stored, settings(bits, group, mode=mode))

    assert assert_decodes_to(folder, f"{NAME}.weight", expected) == f"mlx {mode} g{group}"


def test_layers_may_have_settings_of_their_own(tmp_path: Path) -> None:
    stored, expected = mlx(bits=8, group=32)
    config = settings(**{NAME: {"group_size": 32, "bits": 8}, "lm_head": False})

    assert assert_decodes_to(write(tmp_path, stored, config), f"{NAME}.weight", expected) == (
        "mlx 8-bit g32"
    )


def test_stacks_of_experts_are_read(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.switch_mlp.up_proj"
    stored, expected = mlx(shape=(3, 24, 128), name=name)

    assert_decodes_to(write(tmp_path, stored, settings()), f"{name}.weight", expected)


def test_analysis_is_that_of_the_decoded_weights(tmp_path: Path) -> None:
    embedding = "model.embed_tokens"
    stored, expected = mlx(bits=3)
    more, also_expected = mlx(shape=(100, 64), name=embedding)
    config = settings(3, **{embedding: {"group_size": 64, "bits": 4}})
    folder = write(tmp_path / "packed", {**stored, **more}, config)
    plain = {f"{NAME}.weight": expected.float(), f"{embedding}.weight": also_expected.float()}

    rows = assert_same_analysis(folder, write(tmp_path / "plain", plain, {}), tmp_path / "out")

    assert {row["block_type"] for row in rows} == {"q_proj", "embedding"}
    assert {row["dtype"] for row in rows} == {"U32"}


@pytest.mark.parametrize("part", ["scales", "biases"])
def test_codes_without_a_part_are_refused(tmp_path: Path, part: str) -> None:
    stored, _ = mlx()
    del stored[f"{NAME}.{part}"]

    why = refusal(write(tmp_path, stored, settings()), f"{NAME}.weight")

    assert f"expected {NAME}.{part}" in why
    assert "found none" in why


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "expected bits and group_size in the configuration, found none"),
        (settings(8, 64), "expected"),
        (settings(4, 0), "expected 1 to 8 bits in groups of 32, 64 or 128"),
        (settings(7, 64), "expected 1 to 8 bits in groups of 32, 64 or 128"),
        (settings(mode="log"), "found 'log'"),
        (settings(mode=["affine"]), "expected the mode affine"),
        (settings(mode="mxfp4"), "expected 4 bits in groups of 32"),
        (settings(4, 32, mode="mxfp4"), "expected"),
        ({"quantization": {"group_size": "64", "bits": 4}}, "expected bits and group_size"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    stored, _ = mlx()

    assert said in refusal(write(tmp_path, stored, config), f"{NAME}.weight")


@pytest.mark.parametrize("shape", [(0, 32), (40, 0), (40, 31)])
def test_shapes_that_do_not_fit_are_refused(tmp_path: Path, shape: tuple[int, int]) -> None:
    stored, _ = mlx()
    stored[f"{NAME}.weight"] = torch.zeros(shape, dtype=torch.uint32)

    assert "expected" in refusal(write(tmp_path, stored, settings()), f"{NAME}.weight")


def test_a_window_takes_memory_for_its_own_rows_only(tmp_path: Path) -> None:
    stored, _ = mlx(shape=(2048, 1024))
    window = Window(500, 600, 0, 1024)
    with opened(write(tmp_path, stored, settings())) as (checkpoint, by_name):
        tensor = by_name[f"{NAME}.weight"]
        assert isinstance(tensor, PackedTensor)

        peak = peak_bytes(lambda: tensor.decode(checkpoint.read_stored, window))

    assert peak < 6 * 4 * 100 * 1024
