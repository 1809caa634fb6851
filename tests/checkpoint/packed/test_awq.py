"""AWQ weights, against a slow reading of what AutoAWQ's packing loops write, a nibble at a time."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mutation import peak_bytes
from paramscope.checkpoint import PackedTensor, Window
from quantised import NAME, awq
from unpacking import assert_decodes_to, assert_same_analysis, opened, refusal, write


def settings(**values: Any) -> dict[str, Any]:
    method = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}
    return {"quantization_config": {**method, **values}}


@pytest.mark.parametrize("version", ["gemm", "GEMM", "gemv"])
@pytest.mark.parametrize("group", [32, 64, 128, -1])
def test_weight_has_the_bits_that_the_library_computes(
    tmp_path: Path, version: str, group: int
) -> None:
    tensors, expected, _ = awq(group=group, gemv=version == "gemv")
    folder = write(tmp_path, tensors, settings(group_size=group, version=version))

    scheme = assert_decodes_to(folder, f"{NAME}.weight", expected)

    assert scheme == f"awq 4-bit g{-1 if group == 128 else group}"


def test_without_settings_the_shapes_say_that_it_is_awq(tmp_path: Path) -> None:
    tensors, expected, _ = awq()

    assert assert_decodes_to(write(tmp_path, tensors, {}), f"{NAME}.weight", expected) == (
        "awq 4-bit g32"
    )


def test_older_checkpoints_keep_their_settings_in_a_file_of_their_own(tmp_path: Path) -> None:
    tensors, expected, _ = awq(gemv=True)
    folder = write(tmp_path, tensors, {})
    (folder / "quant_config.json").write_text(
        '{"zero_point": true, "q_group_size": 32, "w_bit": 4, "version": "GEMV", '
        '"quant_method": "awq"}'
    )

    assert_decodes_to(folder, f"{NAME}.weight", expected, windows=5)


def test_auto_round_writes_the_same_layout(tmp_path: Path) -> None:
    tensors, expected, _ = awq()
    config = settings(quant_method="auto-round", packing_format="auto_round:auto_awq")

    assert_decodes_to(write(tmp_path, tensors, config), f"{NAME}.weight", expected, windows=5)


@pytest.mark.parametrize("version", ["gemm", "gemv"])
def test_analysis_is_that_of_the_decoded_weights(tmp_path: Path, version: str) -> None:
    tensors, _, exact = awq(gemv=version == "gemv")
    folder = write(tmp_path / "packed", tensors, settings(version=version))
    decoded = write(tmp_path / "plain", {f"{NAME}.weight": exact}, {})

    (row,) = assert_same_analysis(folder, decoded, tmp_path / "out")

    assert row["block_type"] == "q_proj"


@pytest.mark.parametrize("part", ["qzeros", "scales"])
def test_codes_without_a_part_are_refused(tmp_path: Path, part: str) -> None:
    tensors, _, _ = awq()
    del tensors[f"{NAME}.{part}"]

    why = refusal(write(tmp_path, tensors, settings()), f"{NAME}.qweight")

    assert f"{NAME}.{part}" in why
    assert "found none" in why


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bits": 3}, "expected 4 bits, found 3"),
        ({"group_size": 64}, "expected"),
        ({"group_size": 100}, "expected groups that divide 128 inputs"),
        ({"group_size": 0}, "expected groups that divide"),
        ({"version": "gemv_fast"}, "found 'gemv_fast'"),
        ({"version": "marlin"}, "found 'marlin'"),
        ({"version": "llm-awq"}, "found 'llm-awq'"),
        ({"version": "gemv"}, "expected"),
        ({"quant_method": "gptq"}, "GPTQ codes: expected"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    tensors, _, _ = awq()

    assert said in refusal(write(tmp_path, tensors, settings(**changes)), f"{NAME}.qweight")


@pytest.mark.parametrize(
    ("part", "shape"),
    [("qweight", (0, 9)), ("qweight", (128, 0)), ("scales", (0, 72)), ("scales", (4,))],
)
def test_shapes_that_do_not_fit_are_refused(
    tmp_path: Path, part: str, shape: tuple[int, ...]
) -> None:
    tensors, _, _ = awq()
    old = tensors[f"{NAME}.{part}"]
    tensors[f"{NAME}.{part}"] = torch.zeros(shape, dtype=old.dtype)

    assert "expected" in refusal(write(tmp_path, tensors, settings()), f"{NAME}.qweight")


def test_a_window_takes_no_more_memory_than_the_codes_and_itself(tmp_path: Path) -> None:
    tensors, _, _ = awq(shape=(2048, 2048), group=128)
    codes, window = 2048 * 2048 // 2, Window(100, 200, 0, 2048)
    with opened(write(tmp_path, tensors, settings(group_size=128))) as (checkpoint, by_name):
        tensor = by_name[f"{NAME}.weight"]
        assert isinstance(tensor, PackedTensor)

        peak = peak_bytes(lambda: tensor.decode(checkpoint.read_stored, window))

    assert peak < codes + 4 * 4 * 2048 * 100
