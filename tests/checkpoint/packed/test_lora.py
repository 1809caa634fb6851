"""Low-rank adapters: the update that each makes, against what peft would merge."""

from __future__ import annotations

import collections
import dataclasses
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

import mutation
from handmade import RATES
from paramscope.anatomy.dissect import dissect
from paramscope.checkpoint import Checkpoint, PackedTensor, Window
from paramscope.checkpoint.open import open_checkpoint
from paramscope.checkpoint.packed.peft import AdapterConfig
from paramscope.engine import Settings
from paramscope.engine.plan import largest_short_side, plan
from paramscope.errors import CheckpointError
from paramscope.measure import rank
from paramscope.pipeline import analyze
from paramscope.source.local import LocalSource

Q_PROJ = "model.layers.0.self_attn.q_proj"


@contextmanager
def quietly() -> Iterator[None]:
    """Without the warnings of the libraries that write the adapters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


with quietly():
    peft = pytest.importorskip("peft")
    import transformers


@contextmanager
def opened(path: Path) -> Iterator[Checkpoint]:
    with closing(LocalSource(path)) as source:
        yield open_checkpoint(source)


def llama() -> torch.nn.Module:
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=96,
        attention_bias=True,
    )
    return transformers.LlamaForCausalLM(config)


def gpt2() -> torch.nn.Module:
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 4, "vocab_size": 64, "n_positions": 16}
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    )


class Convolutions(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.flat = torch.nn.Conv2d(12, 20, 1)
        self.square = torch.nn.Conv2d(12, 20, 3)
        self.oblong = torch.nn.Conv2d(6, 40, (3, 5), padding=1)
        self.line = torch.nn.Conv1d(10, 8, 3)


def adapter_folder(
    place: Path, base: torch.nn.Module, config: Any, *, dtype: torch.dtype = torch.float32
) -> tuple[Path, torch.nn.Module]:
    """An adapter with random factors, as peft saves it, and the model that has it."""
    torch.manual_seed(0)
    with quietly():
        model = peft.get_peft_model(base, config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.copy_(torch.randn_like(parameter) * 0.1)
        model.to(dtype).save_pretrained(place)
    return place, model


def merged_updates(model: torch.nn.Module, adapter: str = "default") -> dict[str, np.ndarray]:
    """What peft adds to each weight, computed by peft in float64 from the factors as stored."""
    model.double()
    return {
        f"{name}.weight": update_of(module, adapter).detach().numpy()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight") and adapter in getattr(module, "scaling", {})
    }


def update_of(module: torch.nn.Module, adapter: str) -> torch.Tensor:
    variant = getattr(module, "lora_variant", {}).get(adapter)
    if hasattr(variant, "_get_delta_weight"):  # KaSA's, with its diagonal
        return variant._get_delta_weight(module, adapter)
    return module.get_delta_weight(adapter)


def dense(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    return {
        tensor.name: checkpoint.read(tensor, 0, tensor.numel).reshape(tensor.shape)
        for tensor in checkpoint.tensors
        if isinstance(tensor, PackedTensor)
    }


@dataclass(frozen=True)
class Case:
    title: str
    base: Callable[[], torch.nn.Module]
    config: Callable[[], Any]
    scheme: str
    dtype: torch.dtype = torch.float32


def lora(*modules: str, **options: Any) -> Callable[[], Any]:
    return lambda: peft.LoraConfig(target_modules=list(modules), **options)


CASES = (
    Case("plain", llama, lora("q_proj", "down_proj", r=4, lora_alpha=8), "lora r4, scale 2"),
    Case(
        "bfloat16", llama, lora("q_proj", r=4, lora_alpha=6), "lora r4, scale 1.5", torch.bfloat16
    ),
    Case("float16", llama, lora("up_proj", r=4, lora_alpha=4), "lora r4, scale 1", torch.float16),
    Case("rslora", llama, lora("v_proj", r=4, use_rslora=True), "lora r4, scale 4"),
    Case(
        "patterns",
        llama,
        lora(
            "q_proj",
            "v_proj",
            "up_proj",
            r=4,
            lora_alpha=8,
            rank_pattern={"layers.1.self_attn.q_proj": 6, "v_proj": 2, "layers.0": 5},
            alpha_pattern={r"^model\.layers\.[01]\..*q_proj": 3, "up_proj|v_proj": 10},
        ),
        "",
    ),
    Case("rank above the shape", llama, lora("k_proj", r=40, lora_alpha=40), "lora r40, scale 1"),
    Case(
        "embedding", llama, lora("embed_tokens", "lm_head", r=4, lora_alpha=8), "lora r4, scale 2"
    ),
    Case(
        "trained beside",
        llama,
        lora("q_proj", r=4, lora_alpha=8, bias="all", modules_to_save=["lm_head", "norm"]),
        "lora r4, scale 2",
    ),
    Case("bias of B", llama, lora("q_proj", r=4, lora_alpha=8, lora_bias=True), "lora r4, scale 2"),
    Case("DoRA", llama, lora("q_proj", r=4, use_dora=True), "lora r4, scale 2, before DoRA"),
    Case(
        "inputs first",
        gpt2,
        lora("c_attn", "c_proj", r=4, lora_alpha=8, fan_in_fan_out=True),
        "lora r4, scale 2",
    ),
    Case(
        "convolutions",
        Convolutions,
        lora("flat", "square", "oblong", "line", r=4, lora_alpha=8),
        "lora r4, scale 2",
    ),
    Case(
        "AdaLoRA",
        llama,
        lambda: peft.AdaLoraConfig(
            init_r=6, target_r=3, lora_alpha=12, target_modules=["q_proj"], total_step=100
        ),
        "adalora r6, scale 2",
    ),
    Case(
        "KaSA",
        llama,
        lambda: peft.LoraConfig(
            r=4, lora_alpha=8, target_modules=["q_proj"], kasa_config=peft.KasaConfig()
        ),
        "lora r4, scale 2",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])
def test_updates_are_those_that_peft_merges(tmp_path: Path, case: Case) -> None:
    folder, model = adapter_folder(tmp_path / "a", case.base(), case.config(), dtype=case.dtype)
    expected = merged_updates(model)

    with opened(folder) as checkpoint:
        found = dense(checkpoint)
        schemes = {tensor.scheme for tensor in checkpoint.tensors if tensor.scheme}

    assert sorted(found) == sorted(expected)
    for name, update in expected.items():
        np.testing.assert_allclose(found[name], update, rtol=0, atol=1e-14 * np.abs(update).max())
    assert not case.scheme or schemes == {case.scheme}


@pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])
def test_an_adapter_is_measured_as_its_updates(tmp_path: Path, case: Case) -> None:
    folder, model = adapter_folder(tmp_path / "a", case.base(), case.config(), dtype=case.dtype)
    expected = merged_updates(model)

    run = analyze(folder, out=tmp_path / "out")

    assert run.meta["coverage"]["complete"]
    assert run.meta["rows"]["ok"] == len(run.rows)
    rows = [row for row in run.rows if row["param_name"] in expected]
    assert {row["param_name"] for row in rows} == set(expected)
    for row in rows:
        update = expected[str(row["param_name"])]
        W = part_of(update, str(row["part"])).reshape(len(update), -1)
        s = np.linalg.svd(W, compute_uv=False)
        name, part = str(row["param_name"]), str(row["part"])
        np.testing.assert_allclose(
            run.spectrum(name, part), s, rtol=0, atol=2 * row["sigma_error_bound"]
        )
        assert row["method"] == "factors"
        assert row["design_rank"] == len(s)
        assert row["actual_rank"] == rank.actual_rank(s)
        assert row["svd_90_percent_rank"] == rank.energy_rank(s, 0.9)
        assert row["numel"] == W.size
        for column, value in (("mean", W.mean()), ("std", W.std()), ("min", W.min())):
            assert row[column] == pytest.approx(value, rel=1e-9, abs=1e-15)
        assert row["frobenius_norm"] == pytest.approx(np.linalg.norm(W), rel=1e-12)


def part_of(update: np.ndarray, part: str) -> np.ndarray:
    """q, k or v of GPT-2's fused weight, which has the inputs first."""
    return update if not part else np.split(update, 3, axis=1)["qkv".index(part)]


def test_an_update_has_the_role_and_the_layer_of_its_module(tmp_path: Path) -> None:
    config = lora("q_proj", "down_proj", "embed_tokens", r=4, modules_to_save=["lm_head"])
    folder, _ = adapter_folder(tmp_path / "a", llama(), config())

    run = analyze(folder, out=tmp_path / "out")

    found = {(row["block_type"], row["role"], row["layer_index"], row["tower"]) for row in run.rows}
    assert found == {
        ("q_proj", "attn.q", 0, ""),
        ("q_proj", "attn.q", 1, ""),
        ("mlp", "mlp.down", 0, ""),
        ("mlp", "mlp.down", 1, ""),
        ("embedding", "embed.token", None, ""),
        ("output", "output", None, ""),
    }
    (row,) = (row for row in run.rows if row["param_name"] == f"base_model.model.{Q_PROJ}.weight")
    assert row["stored_tensors"] == " ".join(
        f"base_model.model.{Q_PROJ}.lora_{factor}.weight" for factor in "BA"
    )
    assert (row["dtype"], row["stored_shape"], row["nbytes"]) == ("F32", "(32, 4)", 4 * 4 * 64)
    assert "updates that a low-rank adapter" in " ".join(run.meta["notes"])


def test_windows_are_cut_out_of_the_update(tmp_path: Path) -> None:
    modules = lora("flat", "square", "oblong", "line", r=4)
    folder, model = adapter_folder(tmp_path / "a", Convolutions(), modules())
    expected = merged_updates(model)

    with opened(folder) as checkpoint:
        for tensor in checkpoint.tensors:
            assert isinstance(tensor, PackedTensor)
            flat = expected[tensor.name].reshape(-1, tensor.shape[-1])
            window = Window(len(flat) // 3, len(flat) // 2 + 1, 0, 1)
            found = tensor.decode(checkpoint.read_stored, window)
            np.testing.assert_allclose(found, flat[window.rows, window.columns], atol=1e-14)


def test_several_adapters_of_a_module_are_updates_of_their_own(tmp_path: Path) -> None:
    with quietly():
        model = peft.get_peft_model(llama(), lora("q_proj", r=4)(), adapter_name="first")
        model.add_adapter("second_half", lora("q_proj", r=2)())
    torch.manual_seed(0)
    state = {
        name: torch.randn(tensor.shape)
        for name, tensor in model.state_dict().items()
        if "layers.0" in name and "lora_" in name
    }
    save_file(state, tmp_path / "model.safetensors")

    with opened(tmp_path) as checkpoint:
        found = dense(checkpoint)

    stem = f"base_model.model.{Q_PROJ}"
    assert sorted(found) == [f"{stem}.lora.{name}.weight" for name in ("first", "second_half")]
    for name in ("first", "second_half"):
        B, A = (state[f"{stem}.lora_{factor}.{name}.weight"].double().numpy() for factor in "BA")
        np.testing.assert_allclose(found[f"{stem}.lora.{name}.weight"], B @ A, atol=1e-13)
    run = analyze(tmp_path, out=tmp_path / "out")
    assert {row["role"] for row in run.rows} == {"attn.q"}
    assert run.meta["coverage"]["complete"]


def test_an_unmerged_model_has_its_weight_and_the_update(tmp_path: Path) -> None:
    with quietly():
        model = peft.get_peft_model(llama(), lora("q_proj", r=4)())
    state = {name: tensor for name, tensor in model.state_dict().items() if f"{Q_PROJ}." in name}
    save_file(state, tmp_path / "model.safetensors")

    run = analyze(tmp_path, out=tmp_path / "out")

    names = [f"base_model.model.{Q_PROJ}{ending}" for ending in (".base_layer.weight", ".weight")]
    rows = {str(row["param_name"]): row for row in run.rows if row["block_type"] == "q_proj"}
    assert sorted(rows) == sorted(names)
    assert rows[names[0]]["actual_rank"] == 32
    assert rows[names[1]]["actual_rank"] == 0  # B begins as zeros
    assert run.meta["coverage"]["complete"]


@pytest.mark.parametrize("shape", [(), (1,)])
def test_alpha_beside_the_factors_gives_the_scale(tmp_path: Path, shape: tuple[int, ...]) -> None:
    stem = "lora_unet_down_blocks_0_attn1_to_q"
    up, down = torch.randn(12, 4), torch.randn(4, 10)
    tensors = {
        f"{stem}.lora_up.weight": up.half(),
        f"{stem}.lora_down.weight": down.half(),
        f"{stem}.alpha": torch.full(shape, 3.0).half(),
    }
    save_file(tensors, tmp_path / "style.safetensors")

    with opened(tmp_path) as checkpoint:
        (tensor,) = checkpoint.tensors
        found = dense(checkpoint)[f"{stem}.weight"]

    assert tensor.scheme == "lora r4, scale 0.75"
    assert [part.name.rpartition(stem)[2] for part in tensor.stored] == [
        ".lora_up.weight",
        ".lora_down.weight",
        ".alpha",
    ]
    np.testing.assert_allclose(
        found, 0.75 * up.half().double().numpy() @ down.half().double().numpy(), atol=1e-14
    )


def factors(module: str = Q_PROJ, *, b: tuple = (12, 4), a: tuple = (4, 10)) -> dict:
    torch.manual_seed(1)
    return {
        f"{module}.lora_A.weight": torch.randn(a),
        f"{module}.lora_B.weight": torch.randn(b),
    }


def write_adapter(folder: Path, tensors: Mapping[str, torch.Tensor], config: Any = None) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(dict(tensors), folder / "adapter_model.safetensors")
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    "config",
    [
        None,
        [],
        {},
        {"peft_type": "LORA", "r": 4, "lora_alpha": "16"},
        {"peft_type": "LORA", "r": 4, "lora_alpha": float("nan")},
        {"peft_type": "LORA", "r": 4, "lora_alpha": 10**400},
        {"peft_type": "LORA", "r": 4, "lora_alpha": True},
        {"peft_type": "LORA", "r": 4, "alpha_pattern": {"(a+)+q": 3}},
    ],
)
def test_an_unknown_scale_is_taken_as_one_and_said(tmp_path: Path, config: Any) -> None:
    tensors = factors()
    write_adapter(tmp_path / "a", tensors, config)

    with opened(tmp_path / "a") as checkpoint:
        (tensor,) = checkpoint.tensors
        found = dense(checkpoint)[f"{Q_PROJ}.weight"]
        notes = " ".join(checkpoint.notes)

    A, B = (tensor.double().numpy() for tensor in tensors.values())
    np.testing.assert_allclose(found, B @ A, atol=1e-14)
    assert tensor.scheme == "lora r4, scale not known"
    assert "scale of some updates is not known" in notes


def test_a_file_alone_has_the_configuration_beside_it(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", factors(), {"peft_type": "LORA", "r": 4})
    with opened(folder / "adapter_model.safetensors") as checkpoint:
        assert checkpoint.tensors[0].scheme == "lora r4, scale 2"


PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
LEFT_AS_STORED = {
    "a missing half": (dict(list(factors().items())[:1]), PLAIN),
    "shapes that do not fit": (factors(b=(12, 3)), PLAIN),
    "another rank than configured": (factors(), {**PLAIN, "r": 2}),
    "averaged inputs": (factors(), {**PLAIN, "use_qalora": True}),
    "blocks of a diagonal": (factors(), {**PLAIN, "use_bdlora": {"nblocks": 2}}),
    "grouped convolution": (factors(b=(12, 2, 1, 1), a=(4, 10, 3, 3)), PLAIN),
    "a wide B": (factors(b=(12, 4, 3, 3), a=(4, 10, 3, 3)), PLAIN),
    "integers": ({name: tensor.int() for name, tensor in factors().items()}, PLAIN),
    "no elements": (factors(b=(12, 0), a=(0, 10)), PLAIN),
    "vectors": (factors(b=(12,), a=(12,)), PLAIN),
    "a third factor between": (
        {**factors(), f"{Q_PROJ}.lora_mid.weight": torch.randn(4, 4, 3, 3)},
        PLAIN,
    ),
    "E of another length": (
        {**factors(), f"{Q_PROJ}.lora_E": torch.randn(3, 1)},
        {**PLAIN, "peft_type": "ADALORA"},
    ),
}


@pytest.mark.parametrize("title", LEFT_AS_STORED)
def test_what_does_not_pair_up_stays_as_stored(tmp_path: Path, title: str) -> None:
    tensors, config = LEFT_AS_STORED[title]
    folder = write_adapter(tmp_path / "a", tensors, config)

    run = analyze(folder, out=tmp_path / "out")

    assert {row["param_name"] for row in run.rows} == set(tensors)
    assert all(row["scheme"] == "" for row in run.rows)
    if title != "integers":
        reasons = [row["reason"] for row in run.rows if "lora_A" in str(row["param_name"])]
        assert reasons and all("a factor of a low-rank adapter" in str(why) for why in reasons)
    assert run.meta["coverage"]["complete"]


def test_factors_of_a_stack_of_experts_stay_as_stored(tmp_path: Path) -> None:
    class Experts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_up_proj = torch.nn.Parameter(torch.randn(3, 8, 12))

    class Mlp(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = Experts()

    config = peft.LoraConfig(r=4, target_modules=[], target_parameters=["experts.gate_up_proj"])
    folder, _ = adapter_folder(tmp_path / "a", Mlp(), config)
    with opened(folder) as checkpoint:
        assert sorted(tensor.shape for tensor in checkpoint.tensors) in (
            [(8, 12), (12, 12)],
            [(12, 8), (12, 12)],
        )
        assert "do not pair up" in " ".join(checkpoint.notes)


OTHER_TYPES = {
    "IA3": lambda: peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[]),
    "LOHA": lambda: peft.LoHaConfig(r=4, target_modules=["q_proj"]),
    "LOKR": lambda: peft.LoKrConfig(r=4, target_modules=["q_proj"]),
    "OFT": lambda: peft.OFTConfig(oft_block_size=4, target_modules=["q_proj"]),
    "VERA": lambda: peft.VeraConfig(r=4, target_modules=["q_proj"]),
    "PROMPT_TUNING": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
}


@pytest.mark.parametrize("kind", OTHER_TYPES)
def test_adapters_of_other_types_are_measured_as_stored_and_named(
    tmp_path: Path, kind: str
) -> None:
    folder, _ = adapter_folder(tmp_path / "a", llama(), OTHER_TYPES[kind]())

    run = analyze(folder, out=tmp_path / "out")

    assert run.rows
    assert all(row["scheme"] == "" for row in run.rows)
    assert f"adapter of the type '{kind}'" in " ".join(run.meta["notes"])
    assert run.meta["coverage"]["complete"]


def test_names_that_clash_are_each_claimed_once(tmp_path: Path) -> None:
    bare = {name.removesuffix(".weight"): tensor for name, tensor in factors().items()}
    words = {
        name.replace("_A", "_down").replace("_B", "_up"): tensor
        for name, tensor in factors().items()
    }
    beside = {
        f"{Q_PROJ}.lora_E": torch.ones(4, 1),
        f"{Q_PROJ}.alpha": torch.ones(()),
        f"{Q_PROJ}.weight": torch.ones(12, 10),
    }
    write_adapter(tmp_path / "a", {**factors(), **bare, **words, **beside})

    run = analyze(tmp_path / "a", out=tmp_path / "out")

    assert run.meta["coverage"]["complete"]


def test_peft_agrees_on_which_pattern_a_module_fits() -> None:
    from peft.utils.other import get_pattern_key

    modules = (Q_PROJ, "transformer.h.11.attn.c_attn", "h.1.c_attn", "q_proj", "x_q_proj", "a.b")
    patterns = {
        "q_proj": 1,
        "h.1.c_attn": 2,
        r"h\.1[0-9]\.attn\.c_attn": 3,
        "^q_proj": 4,
        ".*attn.*": 5,
        "(c_attn|b)": 6,
        r"layers\.\d+\.self_attn": 7,
        "a": 8,
    }
    for first in patterns:
        own = {first: patterns[first], **patterns}
        config = AdapterConfig({"peft_type": "LORA", "r": 99, "rank_pattern": own})
        for module in modules:
            expected = own.get(get_pattern_key(own.keys(), module), 99)
            assert config.rank(f"base_model.model.{module}") == expected


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+", "(a|a)*b", "a?" * 40 + "a" * 40, ".*.*.*.*b", "(?=a)", r"(a)\1", "a{9}{9}{9}", "["],
)
def test_expressions_that_may_take_long_are_not_matched(pattern: str) -> None:
    config = AdapterConfig({"peft_type": "LORA", "r": 4, "rank_pattern": {pattern: 2}})
    assert config.rank("a" * 20_000 + "c") is None  # matched, most would take for ever


def test_many_slow_expressions_are_refused() -> None:
    patterns = {f".*{'.' * n}.*x": n for n in range(100)}
    config = AdapterConfig({"peft_type": "LORA", "r": 4, "rank_pattern": patterns})
    modules = ("a." * 120 + str(number) for number in range(100_000))
    with pytest.raises(CheckpointError, match="plain names"):
        collections.deque(map(config.rank, modules), maxlen=0)


def test_an_update_is_never_whole_in_memory(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", factors(b=(4096, 4), a=(4, 8192)), PLAIN)
    dense_bytes = 8 * 4096 * 8192
    analyze(write_adapter(tmp_path / "b", factors(), PLAIN), out=tmp_path / "first")  # calibrates

    peak = mutation.peak_bytes(lambda: analyze(folder, out=tmp_path / "out", workers=1))

    assert peak < dense_bytes / 3


def test_work_on_an_update_is_planned_by_its_factors(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", factors(b=(8192, 4), a=(4, 8192)), PLAIN)
    faster = dataclasses.replace(RATES, gram_flops=1e13, eigen_s=((64, 1e-6), (256, 1e-6)))
    with opened(folder) as checkpoint:
        matrices = dissect(checkpoint.tensors, {})
        (task,) = plan(matrices, Settings(), RATES, gpu=faster)
    assert task.gpu_time_s is None
    assert not task.alone
    assert task.memory_bytes < 8 * 8192**2 / 6
    assert largest_short_side(matrices) == 0


def test_all_values_of_an_update_are_known_to_the_truncated_solver_too(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", factors(b=(90, 4), a=(4, 100)), PLAIN)

    run = analyze(folder, out=tmp_path / "out", method="truncated", rank_k=2)

    (row,) = run.rows
    assert (row["method"], row["actual_rank"], row["reason"]) == ("factors", 4, "")
    assert len(run.spectrum(f"{Q_PROJ}.weight")) == 90


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_factor_that_is_not_finite_fails_with_a_reason(tmp_path: Path, value: float) -> None:
    tensors = factors()
    tensors[f"{Q_PROJ}.lora_A.weight"][2, 3] = value

    run = analyze(write_adapter(tmp_path / "a", tensors, PLAIN), out=tmp_path / "out")

    (row,) = run.rows
    assert row["status"] == "failed"
    assert "no spectrum" in str(row["reason"])
    assert int(row["nan_count"]) + int(row["inf_count"]) == 12
    assert run.meta["coverage"]["complete"]


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_interleaved_parts_of_an_update_are_cut_from_its_factors(tmp_path: Path, part: str) -> None:
    name = "gpt_neox.layers.0.attention.query_key_value"
    tensors = factors(name, b=(96, 4), a=(4, 32))
    folder = write_adapter(tmp_path / "a", tensors, PLAIN)
    sizes = {"model_type": "gpt_neox", "num_attention_heads": 4, "hidden_size": 32}
    (folder / "config.json").write_text(json.dumps(sizes))

    run = analyze(folder, out=tmp_path / "out")

    A, B = (tensor.double().numpy() for tensor in tensors.values())
    W = 2 * (B @ A).reshape(4, 3, 8, 32)[:, "qkv".index(part)].reshape(32, 32)
    (row,) = (row for row in run.rows if row["part"] == part)
    assert row["method"] == "factors"
    assert row["std"] == pytest.approx(W.std())
    s = np.linalg.svd(W, compute_uv=False)
    found = run.spectrum(f"{name}.weight", part)
    np.testing.assert_allclose(found, s, atol=2 * row["sigma_error_bound"])


def damaged_adapters() -> dict[str, bytes]:
    tensors = {
        **factors(),
        **factors("h.1.c_attn"),
        **factors("x.conv", b=(6, 4, 1, 1), a=(4, 3, 3, 3)),
        "x.up.lora_up.weight": torch.randn(6, 2).half(),
        "x.up.lora_down.weight": torch.randn(2, 5).half(),
        "x.up.alpha": torch.ones(()),
        "x.svd.lora_B": torch.randn(6, 2),
        "x.svd.lora_A": torch.randn(2, 5),
        "x.svd.lora_E": torch.randn(2, 1),
        "emb.lora_embedding_A": torch.randn(2, 9),
        "emb.lora_embedding_B": torch.randn(5, 2),
    }
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "use_rslora": False,
        "fan_in_fan_out": True,
        "rank_pattern": {"svd": 2, r".*\.up": 2, "emb": 2},
        "alpha_pattern": {"(c_attn|svd)": 3, "q_proj": 1e3},
    }
    return {
        "adapter_model.safetensors": save(tensors),
        "adapter_config.json": json.dumps(config).encode(),
    }


@pytest.mark.parametrize(
    "times", [1_000, pytest.param(20_000, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_a_damaged_adapter_is_read_or_refused(tmp_path: Path, times: int) -> None:
    outcome = mutation.survive(tmp_path / "a", damaged_adapters(), times=times)
    assert outcome["read"] > times / 10
    assert outcome["refused"] > times / 10
