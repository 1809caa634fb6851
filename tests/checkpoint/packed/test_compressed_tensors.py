"""Integer weights as the library compressed-tensors stores them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

from mutation import peak_bytes, survive
from paramscope.checkpoint import Window
from unpacking import assert_decodes_to, assert_same_analysis, opened, refusal, write

Q = "model.layers.0.self_attn.q_proj"
Tensors = dict[str, torch.Tensor]


def scheme_of(**weights: Any) -> QuantizationScheme:
    return QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights))


def config_of(*schemes: QuantizationScheme) -> dict[str, Any]:
    """The configuration that the library writes for these schemes."""
    groups = {f"group_{i}": scheme.model_dump(mode="json") for i, scheme in enumerate(schemes)}
    return {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": groups}}


def made_by(
    form: str, scheme: QuantizationScheme, rows: int, columns: int, dtype: torch.dtype
) -> tuple[Tensors, torch.Tensor]:
    """The tensors that the library writes for a random weight, and what it decodes them to."""
    compressor: Any = BaseCompressor.get_value_from_registry(form)
    args = scheme.weights
    grid = {
        "tensor": (1,),
        "channel": (rows, 1),
        "group": (rows, columns // (args.group_size or columns)),
        "block": tuple(
            -(-n // b) for n, b in zip((rows, columns), args.block_structure or (1, 1), strict=True)
        ),
    }[args.strategy]
    random = torch.Generator().manual_seed(0)
    tensors = {
        "weight": torch.randn(rows, columns, generator=random).to(dtype),
        "weight_scale": (0.02 + torch.rand(grid, generator=random) / 4).to(dtype),
    }
    if not args.symmetric:
        half = 2 ** (args.num_bits - 1)
        tensors["weight_zero_point"] = torch.randint(
            -half, half, grid, dtype=torch.int8, generator=random
        )
    made = compressor.compress(tensors, scheme)
    decoded = compressor.decompress(made, scheme)["weight"]
    return {f"{Q}.{name}": tensor for name, tensor in made.items()}, decoded


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zero points"])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(
    ("shape", "size"), [((70, 96), 32), ((37, 101), -1), ((64, 128), 128)], ids=str
)
def test_packed_integers_decode_to_what_the_library_decodes(
    tmp_path: Path, shape: tuple[int, int], size: int, bits: int, symmetric: bool
) -> None:
    strategy = "channel" if size < 0 else "group"
    scheme = scheme_of(num_bits=bits, strategy=strategy, group_size=size, symmetric=symmetric)
    tensors, expected = made_by("pack-quantized", scheme, *shape, torch.bfloat16)
    folder = write(tmp_path, tensors, config_of(scheme))

    label = assert_decodes_to(folder, f"{Q}.weight", expected, windows=10)

    assert label == f"compressed-tensors int{bits} {'per channel' if size < 0 else f'g{size}'}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "weights",
    [
        {"num_bits": 8, "strategy": "tensor"},
        {"num_bits": 8, "strategy": "channel"},
        {"num_bits": 8, "strategy": "channel", "symmetric": False},
        {"num_bits": 8, "strategy": "group", "group_size": 16, "symmetric": False},
        {"num_bits": 4, "strategy": "group", "group_size": 16},
        {"num_bits": 8, "strategy": "block", "block_structure": [32, 48]},
    ],
    ids=lambda w: f"{w['strategy']} {w['num_bits']} {w.get('symmetric', True)}",
)
def test_integers_in_bytes_decode_to_what_the_library_decodes(
    tmp_path: Path, weights: dict[str, Any], dtype: torch.dtype
) -> None:
    scheme = scheme_of(**weights)
    tensors, expected = made_by("int-quantized", scheme, 70, 96, dtype)
    folder = write(tmp_path, tensors, config_of(scheme))

    assert assert_decodes_to(folder, f"{Q}.weight", expected).startswith("compressed-tensors int8")


@pytest.mark.parametrize(
    "weights",
    [
        {"strategy": "tensor"},
        {"strategy": "channel"},
        {"strategy": "group", "group_size": 32},
        {"strategy": "block", "block_structure": [32, 48]},
        {"strategy": "block", "block_structure": [128, 128]},
    ],
    ids=lambda w: str(w.get("block_structure", w["strategy"])),
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fp8_decodes_to_what_the_library_decodes(
    tmp_path: Path, weights: dict[str, Any], dtype: torch.dtype
) -> None:
    scheme = scheme_of(num_bits=8, type="float", **weights)
    tensors, expected = made_by("float-quantized", scheme, 70, 96, dtype)
    folder = write(tmp_path, tensors, config_of(scheme))

    assert assert_decodes_to(folder, f"{Q}.weight", expected).startswith("fp8 e4m3")


def test_mxfp8_decodes_to_what_the_library_decodes(tmp_path: Path) -> None:
    compressor: Any = BaseCompressor.get_value_from_registry("mxfp8-quantized")
    scheme = scheme_of(num_bits=8, type="float", strategy="group", group_size=32,
                       scale_dtype="torch.uint8")  # fmt: skip
    weight = torch.randn(40, 96, generator=torch.Generator().manual_seed(0))
    scale = 2.0 ** torch.randint(-9, -6, (40, 3)).float()
    made = compressor.compress({"weight": weight, "weight_scale": scale}, scheme)
    folder = write(
        tmp_path, {f"{Q}.{name}": part for name, part in made.items()}, config_of(scheme)
    )

    expected = compressor.decompress(made, scheme)["weight"]

    assert assert_decodes_to(folder, f"{Q}.weight", expected) == "fp8 e4m3 g32"


INT4 = scheme_of(num_bits=4, strategy="group", group_size=32)
INT4_ASYMMETRIC = scheme_of(num_bits=4, strategy="group", group_size=32, symmetric=False)
INT8_16 = scheme_of(num_bits=8, strategy="group", group_size=16)
INT8_CHANNEL = scheme_of(num_bits=8, strategy="channel")


def test_the_quantisation_that_fits_the_shapes_is_meant(tmp_path: Path) -> None:
    tensors, expected = made_by("pack-quantized", INT4, 70, 96, torch.bfloat16)
    folder = write(tmp_path, tensors, config_of(INT8_CHANNEL, INT4_ASYMMETRIC, INT4))

    assert assert_decodes_to(folder, f"{Q}.weight", expected) == "compressed-tensors int4 g32"


def test_where_two_fit_the_stored_shape_decides(tmp_path: Path) -> None:
    tensors, expected = made_by("pack-quantized", INT4, 70, 96, torch.bfloat16)
    folder = write(tmp_path / "with", tensors, config_of(INT4, INT8_16))
    del tensors[f"{Q}.weight_shape"]
    without = write(tmp_path / "without", tensors, config_of(INT4, INT8_16))

    assert_decodes_to(folder, f"{Q}.weight", expected)
    assert "more than one fits" in refusal(without, f"{Q}.weight_packed")


def test_the_stored_shape_is_read_only_where_it_is_needed(tmp_path: Path) -> None:
    tensors, expected = made_by("pack-quantized", INT4, 70, 96, torch.bfloat16)
    del tensors[f"{Q}.weight_shape"]

    assert_decodes_to(write(tmp_path, tensors, config_of(INT4)), f"{Q}.weight", expected)


@pytest.mark.parametrize("filled", [True, False], ids=["filled", "not filled"])
def test_columns_of_a_group_need_not_lie_together(tmp_path: Path, filled: bool) -> None:
    """From the layout of compressed-tensors 0.9, whose later versions do not read it."""
    tensors, _ = made_by("pack-quantized", INT4_ASYMMETRIC, 70, 96, torch.float32)
    in_order, expected = made_by("pack-quantized", INT4_ASYMMETRIC, 70, 96, torch.float32)
    index = torch.arange(96) // 32
    if filled:
        index = index[torch.randperm(96, generator=torch.Generator().manual_seed(1))]
        decoder: Any = BaseCompressor.get_value_from_registry("pack-quantized")
        ones = {name.removeprefix(f"{Q}."): part for name, part in in_order.items()}
        scale = ones["weight_scale"].clone()
        # What the codes give with scale 1 and with the zero points of group 0, 1, 2 …
        by_group = []
        for group in range(3):
            same = {**ones, "weight_scale": scale[:, [group]].expand(-1, 3).contiguous()}
            same["weight_zero_point"] = ones["weight_zero_point"][:, [group]].expand(-1, 3)
            by_group.append(decoder.decompress(same, INT4_ASYMMETRIC)["weight"])
        expected = torch.stack(by_group)[index, :, torch.arange(96)].T
    stored = index if filled else torch.full((96,), -1)
    folder = write(
        tmp_path, {**tensors, f"{Q}.weight_g_idx": stored.int()}, config_of(INT4_ASYMMETRIC)
    )

    assert_decodes_to(folder, f"{Q}.weight", expected)


def test_it_is_measured_as_its_decoded_values(tmp_path: Path) -> None:
    config = {**config_of(INT4_ASYMMETRIC), "model_type": "llama", "hidden_size": 96}
    tensors, decoded = made_by("pack-quantized", INT4_ASYMMETRIC, 70, 96, torch.float32)
    folder = write(tmp_path / "packed", tensors, config)
    plain = write(tmp_path / "plain", {f"{Q}.weight": decoded}, {"model_type": "llama"})

    (row,) = assert_same_analysis(folder, plain, tmp_path / "out")

    assert (row["role"], row["dtype"]) == ("attn.q", "I32")
    assert len(str(row["stored_tensors"]).split()) == 4


Change = Callable[[Tensors, dict[str, Any]], object]
CHANGES: dict[str, tuple[Change, str]] = {
    "no configuration": (lambda t, c: c.clear(), "quantization_config"),
    "no bits": (lambda t, c: c["quantization_config"].update(config_groups=7), "how many bits"),
    "no scales": (lambda t, c: t.pop(f"{Q}.weight_scale"), "weight_scale"),
    "no zero points": (lambda t, c: t.pop(f"{Q}.weight_zero_point"), "expected shapes"),
    "scales of another shape": (
        lambda t, c: t.update({f"{Q}.weight_scale": torch.ones(70, 5)}),
        "(70, 5) scales",
    ),
    "scales of another dtype": (
        lambda t, c: t.update({f"{Q}.weight_scale": torch.ones(70, 3).int()}),
        "I32",
    ),
    "zero points of another shape": (
        lambda t, c: t.update({f"{Q}.weight_zero_point": torch.ones(70, 3).int()}),
        "expected shapes",
    ),
    "an index of another shape": (
        lambda t, c: t.update({f"{Q}.weight_g_idx": torch.ones(95).int()}),
        "expected shapes",
    ),
    "codes in bytes": (
        lambda t, c: t.update({f"{Q}.weight_packed": torch.ones(70, 48).to(torch.uint8)}),
        "U8 codes",
    ),
    "codes in a stack": (
        lambda t, c: t.update({f"{Q}.weight_packed": torch.ones(2, 70, 12).int()}),
        "(2, 70, 12)",
    ),
    "sparse": (lambda t, c: t.update({f"{Q}.scale_packed": torch.ones(3)}), "2:4"),
    "the weight beside its codes": (
        lambda t, c: t.update({f"{Q}.weight": torch.ones(70, 96)}),
        "one already",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_does_not_fit_is_refused_with_a_reason(tmp_path: Path, change: str) -> None:
    tensors, _ = made_by("pack-quantized", INT4_ASYMMETRIC, 70, 96, torch.bfloat16)
    config = config_of(INT4_ASYMMETRIC)
    make, words = CHANGES[change]
    make(tensors, config)

    assert words in refusal(write(tmp_path, tensors, config), f"{Q}.weight_packed")


def test_sparse_values_are_no_weights(tmp_path: Path) -> None:
    """From the layout of compressed-tensors 0.9, `sparse-24-bitmask`."""
    tensors = {"compressed": torch.randn(8, 8), "bitmask": torch.zeros(8, 2).to(torch.uint8)}
    folder = write(tmp_path, {f"{Q}.{name}": tensor for name, tensor in tensors.items()})

    assert "sparse" in refusal(folder, f"{Q}.compressed")


def test_a_window_needs_no_more_memory_than_itself(tmp_path: Path) -> None:
    rows, columns = 8192, 4096
    tensors = {
        "weight_packed": torch.zeros(rows, columns // 8, dtype=torch.int32),
        "weight_scale": torch.ones(rows, columns // 32),
        "weight_zero_point": torch.zeros(rows // 8, columns // 32, dtype=torch.int32),
    }
    named = {f"{Q}.{name}": tensor for name, tensor in tensors.items()}
    folder = write(tmp_path, named, config_of(INT4_ASYMMETRIC))

    with opened(folder) as (checkpoint, found):
        window = Window(1000, 1256, 0, columns)
        weight = found[f"{Q}.weight"]
        peak = peak_bytes(lambda: weight.decode(checkpoint.read_stored, window))

    assert peak < 20 * 256 * columns


def every_form(folder: Path) -> dict[str, bytes]:
    """One small checkpoint with a weight of every form that is read."""
    rng = np.random.default_rng(0)

    def codes(*shape: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
        made = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))
        return made if dtype == torch.uint8 else made.view(dtype)

    e4m3, e8m0, i8 = torch.float8_e4m3fn, torch.float8_e8m0fnu, torch.int8
    experts = "model.layers.1.mlp.experts"
    tensors, _ = made_by("pack-quantized", INT4_ASYMMETRIC, 10, 32, torch.bfloat16)
    tensors[f"{Q}.weight_g_idx"] = torch.zeros(32, dtype=torch.int32)
    tensors |= {
        "a.q_proj.weight": codes(20, 24, dtype=e4m3),
        "a.q_proj.weight_scale_inv": torch.ones(1, 1),
        "a.k_proj.weight": codes(6, 8, dtype=torch.float8_e5m2),
        "a.k_proj.weight_scale": torch.ones(6, 1),
        "a.v_proj.weight": codes(6, 32, dtype=i8),
        "a.v_proj.scale": codes(6, 2, dtype=e8m0),
        "a.o_proj.weight": codes(6, 8, dtype=i8),
        "a.o_proj.weight_scale": torch.ones(6, 1),
        "a.o_proj.weight_zero_point": codes(6, 1, dtype=i8),
        f"{experts}.gate_up_proj_blocks": codes(2, 6, 1, 16),
        f"{experts}.gate_up_proj_scales": codes(2, 6, 1),
        f"{experts}.down_proj": codes(2, 6, 8, dtype=e4m3),
        f"{experts}.down_proj_scale_inv": torch.ones(2, 1, 1),
        "b.q_proj.weight_packed": codes(4, 8),
        "b.q_proj.weight_scale": codes(4, 1, dtype=e4m3),
        "b.q_proj.weight_global_scale": torch.ones(1),
        "b.k_proj.weight": codes(4, 8),
        "b.k_proj.weight_scale": codes(4, 1, dtype=e4m3),
        "b.k_proj.weight_scale_2": torch.ones(()),
        "b.v_proj.weight_packed": codes(4, 24),
        "b.v_proj.weight_scale": codes(4, 1),
        "b.o_proj.compressed": torch.ones(4),
        "b.o_proj.bitmask": codes(4, 1),
    }
    config = config_of(INT4_ASYMMETRIC, INT4, INT8_CHANNEL)
    config["quantization_config"]["weight_block_size"] = [128, 128]
    write(folder, tensors, config)
    with opened(folder) as (_, found):
        unread = {t.name for t in found.values() if t.refusal and "scale" not in t.name}
    assert unread == {"b.o_proj.compressed"}
    return {name: (folder / name).read_bytes() for name in ("model.safetensors", "config.json")}


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    outcome = survive(tmp_path / "damaged", every_form(tmp_path / "good"), times=1000)

    assert min(outcome.values()) > 50


@pytest.mark.slow
def test_many_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    outcome = survive(tmp_path / "damaged", every_form(tmp_path / "good"), times=20_000, seed=2)

    assert min(outcome.values()) > 50
