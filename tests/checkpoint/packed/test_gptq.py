"""GPTQ weights, against a slow reading of the layout that GPTQModel writes, one bit at a time."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mutation import peak_bytes
from paramscope.checkpoint import PackedTensor, Window
from paramscope.errors import CheckpointError
from paramscope.pipeline import analyze
from quantised import NAME, gptq, packed_down
from unpacking import (
    assert_decodes_to,
    assert_same_analysis,
    opened,
    refusal,
    write,
)


def settings(**values: Any) -> dict[str, Any]:
    return {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32, **values}}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weight_has_the_bits_that_the_library_computes(
    tmp_path: Path, bits: int, dtype: torch.dtype
) -> None:
    tensors, expected, _ = gptq(bits=bits, dtype=dtype)
    folder = write(tmp_path, tensors, settings(bits=bits))

    scheme = assert_decodes_to(folder, f"{NAME}.weight", expected)

    assert scheme == f"gptq {bits}-bit g32"


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("layout", ["gptq", "gptq_v2"])
def test_stored_zero_points_are_one_less_only_in_the_first_format(
    tmp_path: Path, bits: int, layout: str
) -> None:
    tensors, expected, _ = gptq(bits=bits, offset=1 if layout == "gptq" else 0)
    folder = write(tmp_path, tensors, settings(bits=bits, checkpoint_format=layout))

    assert_decodes_to(folder, f"{NAME}.weight", expected, windows=5)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_zero_points_of_zero_come_back_as_the_library_wrote_them(tmp_path: Path, bits: int) -> None:
    """In words without straddling codes the library subtracts from the word, with borrows."""
    tensors, expected, _ = gptq(bits=bits, offset=0)
    stored = tensors[f"{NAME}.qzeros"].contiguous().numpy().view(np.uint32)
    if bits == 3:
        zeros = np.unpackbits(stored.view(np.uint8), axis=1, bitorder="little")
        values = (zeros.reshape(len(stored), -1, 3) * (1, 2, 4)).sum(-1)
        tensors[f"{NAME}.qzeros"] = packed_down((values - 1).T % 8, 3).T
    else:
        ones = np.uint32(sum(1 << place for place in range(0, 32, bits)))
        tensors[f"{NAME}.qzeros"] = torch.from_numpy((stored - ones).view(np.int32))
    folder = write(tmp_path, tensors, settings(bits=bits))

    assert_decodes_to(folder, f"{NAME}.weight", expected, windows=5)


@pytest.mark.parametrize(("group", "label"), [(-1, "g-1"), (64, "g64")])
def test_groups_may_be_whole_columns_or_end_in_a_partial_one(
    tmp_path: Path, group: int, label: str
) -> None:
    tensors, expected, _ = gptq(group=group)
    folder = write(tmp_path, tensors, settings(group_size=group))

    assert assert_decodes_to(folder, f"{NAME}.weight", expected) == f"gptq 4-bit {label}"


@pytest.mark.parametrize("bits", [3, 4])
def test_activation_order_gives_each_input_its_own_group(tmp_path: Path, bits: int) -> None:
    tensors, expected, _ = gptq(bits=bits, shuffled=True)
    folder = write(tmp_path, tensors, settings(bits=bits, desc_act=True))

    scheme = assert_decodes_to(folder, f"{NAME}.weight", expected)

    assert scheme == f"gptq {bits}-bit g32 act-order"


@pytest.mark.parametrize("config", [None, settings(), {"quantization_config": {}}])
def test_neither_g_idx_nor_settings_are_needed_where_the_shapes_say_it(
    tmp_path: Path, config: Mapping[str, Any] | None
) -> None:
    tensors, expected, _ = gptq(index=False)

    assert_decodes_to(write(tmp_path, tensors, config), f"{NAME}.weight", expected, windows=5)


def test_inputs_that_do_not_fill_the_last_word_are_as_many_as_g_idx_says(tmp_path: Path) -> None:
    tensors, expected, _ = gptq(shape=(64, 93))
    folder = write(tmp_path, tensors, settings())

    assert_decodes_to(folder, f"{NAME}.weight", expected)


def test_older_checkpoints_keep_their_settings_in_a_file_of_their_own(tmp_path: Path) -> None:
    tensors, expected, _ = gptq(offset=0, shuffled=True)
    folder = write(tmp_path, tensors, {})
    older = {"bits": 4, "group_size": 32, "desc_act": True, "checkpoint_format": "gptq_v2"}
    (folder / "quantize_config.json").write_text(json.dumps(older))

    scheme = assert_decodes_to(folder, f"{NAME}.weight", expected, windows=5)

    assert scheme == "gptq 4-bit g32 act-order"


@pytest.mark.parametrize(
    ("packing", "offset"), [("auto_round:auto_gptq", 1), ("auto_round:gptqmodel", 0)]
)
def test_auto_round_writes_the_same_layout(tmp_path: Path, packing: str, offset: int) -> None:
    tensors, expected, _ = gptq(offset=offset, index=False)
    config = settings(quant_method="auto-round", packing_format=packing)

    assert_decodes_to(write(tmp_path, tensors, config), f"{NAME}.weight", expected, windows=5)


def test_layers_with_settings_of_their_own_are_read_by_their_shapes(tmp_path: Path) -> None:
    tensors, expected, _ = gptq(bits=8, group=16)
    folder = write(tmp_path, tensors, settings(dynamic={"+:.*q_proj": {"bits": 8}}))

    assert assert_decodes_to(folder, f"{NAME}.weight", expected, windows=5) == "gptq 8-bit g16"


@pytest.mark.parametrize("bits", [3, 4])
def test_analysis_is_that_of_the_decoded_weights(tmp_path: Path, bits: int) -> None:
    tensors, _, exact = gptq(bits=bits, shuffled=True)
    bias = {f"{NAME}.bias": torch.arange(64.0).half()}
    config = settings(bits=bits, desc_act=True)
    folder = write(tmp_path / "packed", {**tensors, **bias}, config)
    decoded = write(tmp_path / "plain", {f"{NAME}.weight": exact, **bias}, {})

    rows = assert_same_analysis(folder, decoded, tmp_path / "out")

    weight = next(row for row in rows if row["block_type"] == "q_proj")
    assert weight["dtype"] == "I32"
    assert weight["nbytes"] == sum(t.numel() * t.element_size() for t in tensors.values())


@pytest.mark.parametrize("part", ["qzeros", "scales"])
def test_codes_without_a_part_are_refused(tmp_path: Path, part: str) -> None:
    tensors, _, _ = gptq()
    del tensors[f"{NAME}.{part}"]

    why = refusal(write(tmp_path, tensors, settings()), f"{NAME}.qweight")

    assert f"expected {NAME}.{part}" in why
    assert "found none" in why


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bits": 8}, "expected 8 bits, as the configuration says, found 4"),
        ({"group_size": 128}, "expected 1 groups of 128 of 96 inputs, found 3"),
        ({"checkpoint_format": "marlin"}, "found 'marlin'"),
        ({"is_marlin_format": True}, "found 'marlin'"),
        ({"checkpoint_format": "gptq_p"}, "found 'gptq_p'"),
        ({"checkpoint_format": ["gptq"]}, "expected the checkpoint format gptq or gptq_v2"),
        ({"quant_method": "awq"}, "AWQ codes: expected"),
        ({"quant_method": "new"}, "codes of the method new, which is not read"),
    ],
)
def test_settings_that_the_shapes_contradict_are_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    tensors, _, _ = gptq()

    assert said in refusal(write(tmp_path, tensors, settings(**changes)), f"{NAME}.qweight")


def test_activation_order_without_g_idx_is_refused(tmp_path: Path) -> None:
    tensors, _, _ = gptq(index=False)
    folder = write(tmp_path, tensors, settings(desc_act=True))

    assert "expected g_idx" in refusal(folder, f"{NAME}.qweight")


@pytest.mark.parametrize(
    ("part", "shape"),
    [
        ("qweight", (0, 64)),
        ("qweight", (12, 0)),
        ("qweight", (768,)),
        ("qweight", (11, 64)),
        ("scales", (0, 64)),
        ("scales", (3, 63)),
        ("qzeros", (3, 7)),
        ("qzeros", (0, 8)),
        ("g_idx", (97,)),
        ("g_idx", (0,)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    tmp_path: Path, part: str, shape: tuple[int, ...]
) -> None:
    tensors, _, _ = gptq()
    old = tensors[f"{NAME}.{part}"]
    tensors[f"{NAME}.{part}"] = torch.zeros(shape, dtype=old.dtype)

    assert "expected" in refusal(write(tmp_path, tensors, settings()), f"{NAME}.qweight")


@pytest.mark.parametrize("index", [-1, 3, 2**31 - 1])
def test_groups_that_there_are_not_are_an_error_that_names_them(tmp_path: Path, index: int) -> None:
    tensors, _, _ = gptq()
    tensors[f"{NAME}.g_idx"][7] = index
    said = rf"model.safetensors: .*q_proj\.g_idx.*from 0 to 2.*{index}"

    with (
        opened(write(tmp_path, tensors, settings())) as (checkpoint, by_name),
        pytest.raises(CheckpointError, match=said),
    ):
        checkpoint.read(by_name[f"{NAME}.weight"], 0, 10)


def test_every_part_belongs_to_the_weight_and_to_nothing_else(tmp_path: Path) -> None:
    tensors, _, _ = gptq()
    with opened(write(tmp_path, tensors, settings())) as (checkpoint, by_name):
        (weight,) = by_name.values()

    parts = [part.name.removeprefix(f"{NAME}.") for part in weight.stored]
    assert parts == ["qweight", "qzeros", "scales", "g_idx"]
    assert {part.name for part in checkpoint.stored} == set(tensors)


def test_a_window_takes_no_more_memory_than_the_codes_and_itself(tmp_path: Path) -> None:
    tensors, _, _ = gptq(shape=(2048, 2048), group=128)
    codes, window = 2048 * 2048 // 2, Window(0, 2048, 100, 200)
    with opened(write(tmp_path, tensors, settings(group_size=128))) as (checkpoint, by_name):
        tensor = by_name[f"{NAME}.weight"]
        assert isinstance(tensor, PackedTensor)

        peak = peak_bytes(lambda: tensor.decode(checkpoint.read_stored, window))

    assert peak < codes + 4 * 4 * 2048 * 100


def test_a_family_that_stores_inputs_first_was_turned_by_the_packer(tmp_path: Path) -> None:
    stored, _, exact = gptq(name="transformer.h.0.attn.c_attn", shape=(96, 32))
    save_file(stored, tmp_path / "model.safetensors")
    config = {"model_type": "gpt2", "n_head": 4, "n_embd": 32}
    (tmp_path / "config.json").write_text(json.dumps(config))

    run = analyze(tmp_path, out=tmp_path / "out")

    assert [(row["part"], row["rows"], row["cols"]) for row in run.rows] == [
        ("q", 32, 32),
        ("k", 32, 32),
        ("v", 32, 32),
    ]
    for row, part in zip(run.rows, exact.double().numpy().reshape(3, 32, 32), strict=True):
        assert row["std"] == pytest.approx(part.std(), rel=1e-6)
