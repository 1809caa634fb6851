"""bitsandbytes weights, against bitsandbytes itself, which writes and decodes them on the CPU."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mutation import peak_bytes
from paramscope.checkpoint import PackedTensor, Window
from quantised import WEIGHT, bnb_4bit, bnb_8bit, library
from unpacking import assert_decodes_to, assert_same_analysis, opened, refusal, write

CONFIG = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("block", [32, 64, 128, 4096])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_four_bit_weight_has_the_bits_that_the_library_computes(
    tmp_path: Path, kind: str, block: int, nested: bool
) -> None:
    stored, expected = bnb_4bit(kind=kind, block=block, nested=nested)

    scheme = assert_decodes_to(write(tmp_path, stored, CONFIG), WEIGHT, expected)

    assert scheme == f"bnb {kind} g{block}{' nested' if nested else ''}"


@pytest.mark.parametrize("shape", [(37, 50), (1, 64), (5, 7), (3, 1), (300, 1000), (4, 6, 32)])
def test_blocks_may_straddle_rows_and_end_anywhere(tmp_path: Path, shape: tuple[int, ...]) -> None:
    stored, expected = bnb_4bit(shape=shape, nested=True)

    assert_decodes_to(write(tmp_path, stored, CONFIG), WEIGHT, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounded_to_the_dtype_of_the_model_it_is_what_the_model_computes_with(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    stored, expected = bnb_4bit(dtype=dtype, nested=True)
    assert expected.dtype == dtype

    assert_decodes_to(write(tmp_path, stored, CONFIG), WEIGHT, expected)


@pytest.mark.parametrize("storage", [torch.int8, torch.float16, torch.bfloat16, torch.float32])
def test_codes_may_be_stored_as_another_dtype(tmp_path: Path, storage: torch.dtype) -> None:
    stored, expected = bnb_4bit(storage=storage, shape=(37, 40))
    assert stored[WEIGHT].dtype == storage

    assert_decodes_to(write(tmp_path, stored, CONFIG), WEIGHT, expected)


def test_what_a_layer_of_the_library_saves_is_read(tmp_path: Path) -> None:
    bnb = library("bitsandbytes")
    layer = bnb.nn.Linear4bit(128, 64, compress_statistics=True, quant_type="nf4").to("cpu")
    stem = WEIGHT.removesuffix("weight")
    stored = {f"{stem}{key}": value for key, value in layer.state_dict().items()}
    expected = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    folder = write(tmp_path, stored, CONFIG)

    assert_decodes_to(folder, WEIGHT, expected)
    with opened(folder) as (checkpoint, by_name):
        assert set(by_name) == {WEIGHT, f"{stem}bias"}
        assert [part.name.removeprefix(f"{WEIGHT}.") for part in by_name[WEIGHT].stored] == [
            WEIGHT,
            "absmax",
            "quant_map",
            "nested_absmax",
            "nested_quant_map",
            "quant_state.bitsandbytes__nf4",
        ]
        assert len(checkpoint.stored) == len(stored)


def test_eight_bit_weight_has_the_bits_that_the_library_computes(tmp_path: Path) -> None:
    stored, expected = bnb_8bit()

    assert assert_decodes_to(write(tmp_path, stored, CONFIG), WEIGHT, expected) == "bnb int8"


@pytest.mark.parametrize("form", ["nf4", "fp4", "nested", "int8"])
def test_analysis_is_that_of_the_decoded_weights(tmp_path: Path, form: str) -> None:
    if form == "int8":
        stored, expected = bnb_8bit()
    else:
        kind = "nf4" if form == "nested" else form
        stored, expected = bnb_4bit(kind=kind, nested=form == "nested", shape=(48, 100))
    plain = write(tmp_path / "plain", {WEIGHT: expected.float()}, {})

    (row,) = assert_same_analysis(
        write(tmp_path / "packed", stored, CONFIG), plain, tmp_path / "out"
    )

    assert row["block_type"] == "q_proj"
    assert row["nbytes"] == sum(t.numel() * t.element_size() for t in stored.values())


def test_stacks_of_experts_are_read(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.experts.down_proj"
    stored, expected = bnb_4bit(shape=(3, 16, 64), name=name)

    assert_decodes_to(write(tmp_path, stored, CONFIG), name, expected)


@pytest.mark.parametrize("part", ["absmax", "quant_map", "nested_absmax", "nested_quant_map"])
def test_four_bit_codes_without_a_part_are_refused(tmp_path: Path, part: str) -> None:
    stored, _ = bnb_4bit(nested=True)
    del stored[f"{WEIGHT}.{part}"]

    why = refusal(write(tmp_path, stored, CONFIG), WEIGHT)

    assert f"{WEIGHT}.{part}" in why or f".{part}" in why
    assert "found none" in why or "none" in why


@pytest.mark.parametrize("storage", [torch.uint8, torch.bfloat16])
def test_four_bit_codes_without_a_state_are_refused(tmp_path: Path, storage: torch.dtype) -> None:
    stored, _ = bnb_4bit(storage=storage)
    del stored[f"{WEIGHT}.quant_state.bitsandbytes__nf4"]

    assert "quant_state" in refusal(write(tmp_path, stored, CONFIG), WEIGHT)


def state(**changes: Any) -> bytes:
    good = {"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [60, 128]}
    nested = {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.25}
    return json.dumps({**good, **nested, **changes}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"[" * 4000,
        b"\xff\xfe",
        b" " * 100_000,
        b"{}",
        b"9" * 4000,
        state(quant_type="fp4"),
        state(shape=None),
        state(shape=[]),
        state(shape=[60, 127]),
        state(shape=[60, -128]),
        state(shape=[0, 128]),
        state(shape=[True, 7680]),
        state(shape=[60.0, 128.0]),
        state(shape=["60", "128"]),
        state(shape=[2**40, 2**40]),
        state(shape=[10**2000]),
        state(shape=[1] * 1000 + [7680]),
        state(blocksize=0),
        state(blocksize=-64),
        state(blocksize=63),
        state(blocksize=128),
        state(blocksize="64"),
        state(blocksize=None),
        state(nested_blocksize=0),
        state(nested_blocksize=64),
        state(nested_offset=None),
        state(nested_offset="0"),
        state(nested_offset=float("nan")),
        state(nested_offset=1e300),
    ],
    ids=lambda content: content[:20].decode("latin1") + str(len(content)),
)
def test_a_state_that_does_not_fit_is_refused(tmp_path: Path, content: bytes) -> None:
    stored, _ = bnb_4bit(nested=True)
    key = f"{WEIGHT}.quant_state.bitsandbytes__nf4"
    stored[key] = torch.from_numpy(np.frombuffer(content, np.uint8).copy())

    assert "expected" in refusal(write(tmp_path, stored, CONFIG), WEIGHT)


def test_four_bit_codes_with_two_states_are_refused(tmp_path: Path) -> None:
    stored, _ = bnb_4bit()
    stored[f"{WEIGHT}.quant_state.bitsandbytes__fp4"] = torch.zeros(4, dtype=torch.uint8)

    assert "found two" in refusal(write(tmp_path, stored, CONFIG), WEIGHT)


@pytest.mark.parametrize("part", ["quant_map", "absmax"])
def test_no_part_belongs_to_two_weights(tmp_path: Path, part: str) -> None:
    stored, _ = bnb_4bit()
    inner, _ = bnb_4bit(name=f"{WEIGHT}.{part}")
    folder = write(tmp_path, {**inner, **stored}, CONFIG)

    with opened(folder) as (checkpoint, _):
        owned = [tensor.name for whole in checkpoint.tensors for tensor in whole.stored]

    assert sorted(owned) == sorted({**inner, **stored})


@pytest.mark.parametrize("codes", [1, 2, 3])
def test_eight_bit_codes_in_another_order_are_refused(tmp_path: Path, codes: int) -> None:
    stored, _ = bnb_8bit()
    stored[WEIGHT.replace("weight", "weight_format")] = torch.tensor(codes, dtype=torch.uint8)

    assert f"found weight_format {codes}" in refusal(write(tmp_path, stored, CONFIG), WEIGHT)


@pytest.mark.parametrize("scales", [None, torch.ones(47), torch.ones(48).half()])
def test_eight_bit_codes_without_a_scale_per_row_are_refused(
    tmp_path: Path, scales: torch.Tensor | None
) -> None:
    stored, _ = bnb_8bit()
    key = WEIGHT.replace("weight", "SCB")
    del stored[key]
    if scales is not None:
        stored[key] = scales

    assert "expected" in refusal(write(tmp_path, stored, CONFIG), WEIGHT)


@pytest.mark.parametrize("columns", [1024, 1000])
def test_a_window_takes_memory_for_its_own_rows_only(tmp_path: Path, columns: int) -> None:
    stored, _ = bnb_4bit(shape=(2048, columns), nested=True)
    window = Window(500, 600, 0, columns)
    with opened(write(tmp_path, stored, CONFIG)) as (checkpoint, by_name):
        tensor = by_name[WEIGHT]
        assert isinstance(tensor, PackedTensor)

        peak = peak_bytes(lambda: tensor.decode(checkpoint.read_stored, window))

    assert peak < 6 * 4 * 100 * columns
