"""Fused tensors, cut, against what the family's own code makes of them.

Attention: the model runs on one token at position 0, where rotary embeddings do nothing. What
enters its score product and its weighted sum must be our q, k and v of the same input. MLPs
and experts: their output must be that of down(act(gate·x) * up·x) with our matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from paramscope.anatomy import Matrix
from paramscope.anatomy.dissect import dissect
from paramscope.checkpoint import Checkpoint

# transformers and torch warn of their own deprecations; ours are errors in all other tests.
pytestmark = pytest.mark.filterwarnings("ignore")

Values = Callable[[Matrix, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Family:
    """A family, its class, what its tiny config changes, and a name for this variant."""

    model_type: str
    model_class: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    variant: str = ""


@pytest.fixture
def model(family: Family, tiny_config: Callable[..., Any]) -> Any:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    config = tiny_config(family.model_type, family.overrides)
    model = getattr(transformers, family.model_class)(config).eval()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1, 1)
    return model


@dataclass
class Dissected:
    """A saved model's matrices, by tensor and part, with their values."""

    tensors: dict[str, np.ndarray]
    matrices: dict[str, dict[str, Matrix]]
    values_of: Values

    def __call__(self, tensor: str, part: str = "") -> np.ndarray:
        return self.values_of(self.matrices[tensor][part], self.tensors[tensor])

    def apply(self, module: str, part: str, x: np.ndarray) -> np.ndarray:
        """One part of a projection: W x + b."""
        y = self(f"{module}.weight", part) @ x
        bias = f"{module}.bias"
        return y + self(bias, part).ravel() if bias in self.tensors else y


@pytest.fixture
def dissected(model: Any, saved: Callable[..., Checkpoint], values_of: Values) -> Dissected:
    checkpoint = saved(model, original=False)
    tensors = {t.name: _read(checkpoint, t) for t in checkpoint.tensors}
    matrices: dict[str, dict[str, Matrix]] = {}
    for matrix in dissect(checkpoint.tensors, checkpoint.config):
        matrices.setdefault(matrix.tensor.name, {})[matrix.part] = matrix
    return Dissected(tensors, matrices, values_of)


def _read(checkpoint: Checkpoint, tensor: Any) -> np.ndarray:
    return checkpoint.read(tensor, 0, tensor.numel).reshape(tensor.shape)


@contextmanager
def recorded(modules: Mapping[str, Any]) -> Iterator[dict[str, list[tuple[Any, Any]]]]:
    """The operands of every matrix product that runs within each of the modules."""
    import torch
    from torch.overrides import TorchFunctionMode

    products: dict[str, list[tuple[Any, Any]]] = {name: [] for name in modules}
    active: list[str] = []

    class Recorder(TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            name, both = getattr(function, "__name__", ""), kwargs or {}
            pair: Any = ()
            if name in ("matmul", "__matmul__", "bmm"):
                pair = (args[0], args[1]) if len(args) > 1 else (args[0], both["other"])
            elif name == "baddbmm":
                pair = (both["batch1"], both["batch2"]) if "batch1" in both else args[1:3]
            elif name == "scaled_dot_product_attention" and active:
                query, key, value = args[:3]
                products[active[-1]] += [(query, key.transpose(-1, -2)), (None, value)]
            if active and pair and pair[1].dim() > 2:  # two dimensions are a weight
                products[active[-1]].append(pair)
            return function(*args, **both)

    def leave(*_: Any) -> None:
        active.pop()

    hooks = []
    for name, module in modules.items():
        hooks.append(module.register_forward_pre_hook(lambda *_, n=name: active.append(n)))
        hooks.append(module.register_forward_hook(leave))
    with Recorder(), torch.no_grad():
        yield products
    for hook in hooks:
        hook.remove()


@contextmanager
def inputs_of(modules: Mapping[str, Any]) -> Iterator[dict[str, np.ndarray]]:
    """The first token that enters each of the modules."""
    seen: dict[str, np.ndarray] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_: Any, args: Any) -> None:
            x = args[0].detach()
            seen.setdefault(name, x.reshape(-1, x.shape[-1])[0].numpy())

        return hook

    hooks = [module.register_forward_pre_hook(keep(name)) for name, module in modules.items()]
    yield seen
    for hook in hooks:
        hook.remove()


ATTENTION = (
    Family("gpt2", "GPT2LMHeadModel"),
    Family("openai-gpt", "OpenAIGPTLMHeadModel"),
    Family("imagegpt", "ImageGPTModel"),
    Family("gpt_neox", "GPTNeoXForCausalLM"),
    Family("gpt_neox_japanese", "GPTNeoXJapaneseForCausalLM"),
    Family("bloom", "BloomForCausalLM"),
    Family("falcon", "FalconForCausalLM", {"new_decoder_architecture": True}, "grouped"),
    Family("falcon", "FalconForCausalLM", {"multi_query": True, "num_kv_heads": 4}, "one key"),
    Family("falcon", "FalconForCausalLM", {"multi_query": False, "num_kv_heads": 4}, "per head"),
    Family("gpt_bigcode", "GPTBigCodeForCausalLM", {"multi_query": True}, "one key"),
    Family("gpt_bigcode", "GPTBigCodeForCausalLM", {"multi_query": False}, "per head"),
    Family("phi3", "Phi3ForCausalLM"),
    Family("modernbert", "ModernBertForMaskedLM"),
    Family(
        "dbrx",
        "DbrxForCausalLM",
        {
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 1e9, "rope_theta": 10000.0},
            "ffn_config": {"ffn_hidden_size": 44, "moe_num_experts": 3, "moe_top_k": 2},
            "max_seq_len": 64,
        },
    ),
    Family("mpt", "MptForCausalLM"),
    Family("codegen", "CodeGenForCausalLM", {"rotary_dim": 4}),
    Family("persimmon", "PersimmonForCausalLM", {"qk_layernorm": False}),
    Family("jetmoe", "JetMoeForCausalLM"),
    Family("minimax", "MiniMaxForCausalLM", {"layer_types": ["linear_attention"] * 2}),
)

FUSED = ("q", "k", "v"), ("k", "v")


@pytest.mark.parametrize(
    "family", ATTENTION, ids=lambda f: f"{f.model_type} {f.variant}".strip().replace(" ", "-")
)
def test_queries_keys_and_values_are_those_that_the_model_multiplies(
    model: Any, dissected: Dissected
) -> None:
    fused = {
        name.removesuffix(".weight"): tuple(parts)
        for name, parts in dissected.matrices.items()
        if name.endswith(".weight") and set(parts) in ({"q", "k", "v"}, {"k", "v"})
    }
    assert fused
    modules = dict(model.named_modules())
    owners = {name.rpartition(".")[0]: modules[name.rpartition(".")[0]] for name in fused}
    with inputs_of({name: modules[name] for name in fused}) as x, recorded(owners) as products:
        _run(model)
    for name, parts in fused.items():
        scores, context = products[name.rpartition(".")[0]][:2]
        found = {
            "q": scores[0][..., 0, :],
            "k": scores[1][..., :, 0],
            "v": context[1][..., 0, :],
        }
        for part in parts:
            own = dissected.apply(name, part, x[name])
            _same_up_to_repetition(_activated(modules, name, own), found[part].detach().numpy())


def _run(model: Any) -> None:
    import torch

    config = model.config
    if "pixel_values" in model.forward.__code__.co_varnames[:3]:
        size = getattr(config, "vision_config", config).image_size
        model(pixel_values=torch.rand(1, 3, size, size))
    else:
        model(input_ids=torch.tensor([[5]]))


def _activated(modules: Mapping[str, Any], name: str, own: np.ndarray) -> np.ndarray:
    """MiniMax's lightning attention has an activation on queries, keys and values."""
    import torch

    activation = getattr(modules[name.rpartition(".")[0]], "act_fn", None)
    return activation(torch.from_numpy(own)).numpy() if activation else own


def _same_up_to_repetition(own: np.ndarray, found: np.ndarray) -> None:
    """Heads of width d in both; the model may repeat the keys' heads for groups of queries."""
    heads, theirs = own.reshape(-1, found.shape[-1]), found.reshape(-1, found.shape[-1])
    times = len(theirs) // len(heads)
    close = [
        np.allclose(theirs, repeated, rtol=1e-4, atol=1e-4)
        for repeated in (np.repeat(heads, times, axis=0), np.tile(heads, (times, 1)))
    ]
    assert any(close), (own, found)


GATED_MLPS = (
    (Family("phi3", "Phi3ForCausalLM"), "model.layers.0.mlp"),
    (Family("glm4", "Glm4ForCausalLM"), "model.layers.0.mlp"),
    (Family("glm", "GlmForCausalLM"), "model.layers.1.mlp"),
    (Family("modernbert", "ModernBertForMaskedLM"), "model.layers.0.mlp"),
)


@pytest.mark.parametrize(("family", "path"), GATED_MLPS, ids=lambda x: getattr(x, "model_type", ""))
def test_gate_and_up_are_those_that_the_mlp_multiplies(
    path: str, model: Any, dissected: Dissected
) -> None:
    import torch

    mlp = model.get_submodule(path)
    x = torch.randn(model.config.hidden_size)
    with torch.no_grad():
        expected = mlp(x[None, None])[0, 0].numpy()
    fused, down = _fused_and_down(path, dissected)
    activation = next(m for name, m in mlp.named_modules() if "act" in name)
    gate = torch.from_numpy(dissected.apply(fused, "gate", x.numpy()))
    hidden = activation(gate).numpy() * dissected.apply(fused, "up", x.numpy())
    np.testing.assert_allclose(dissected.apply(down, "", hidden), expected, rtol=1e-4, atol=1e-4)


def _fused_and_down(path: str, dissected: Dissected) -> tuple[str, str]:
    own = {n: parts for n, parts in dissected.matrices.items() if n.startswith(f"{path}.")}
    fused = next(n for n, parts in own.items() if set(parts) == {"gate", "up"})
    down = next(n for n, parts in own.items() if parts.get("") and parts[""].role == "mlp.down")
    return fused.removesuffix(".weight"), down.removesuffix(".weight")


EXPERTS = (
    Family("mixtral", "MixtralForCausalLM"),
    Family("qwen2_moe", "Qwen2MoeForCausalLM"),
    Family("qwen3_moe", "Qwen3MoeForCausalLM"),
    Family("qwen3_next", "Qwen3NextForCausalLM"),
    Family("olmoe", "OlmoeForCausalLM"),
    Family("deepseek_v3", "DeepseekV3ForCausalLM"),
    Family("granitemoe", "GraniteMoeForCausalLM"),
    Family("qwen3_vl_moe", "Qwen3VLMoeForConditionalGeneration"),
    Family("ernie4_5_moe", "Ernie4_5_MoeForCausalLM"),
    Family("gpt_oss", "GptOssForCausalLM"),
    Family("gpt_oss", "GptOssForCausalLM", {"intermediate_size": 32}, "square"),
    Family("llama4_text", "Llama4ForCausalLM", {"interleave_moe_layer_step": 1}),
    Family(
        "llama4_text",
        "Llama4ForCausalLM",
        {"interleave_moe_layer_step": 1, "intermediate_size": 16},
        "square",
    ),
    Family("aria_text", "AriaTextForCausalLM"),
    Family("dbrx", "DbrxForCausalLM", ATTENTION[13].overrides),
)


@pytest.mark.parametrize(
    "family", EXPERTS, ids=lambda f: f"{f.model_type} {f.variant}".strip().replace(" ", "-")
)
def test_each_expert_has_the_matrices_that_the_model_uses(
    family: Family, model: Any, dissected: Dissected
) -> None:
    import torch

    path, experts = next(
        (name, module)
        for name, module in model.named_modules()
        if type(module).__name__.endswith("Experts")
    )
    own = _expert_matrices(path, dissected)
    assert own
    for expert, parts in own.items():
        x = torch.randn(model.config.get_text_config().hidden_size)
        gate, up = _project(parts, "gate", x.numpy()), _project(parts, "up", x.numpy())
        hidden = _gated(experts, torch.from_numpy(gate), torch.from_numpy(up))
        np.testing.assert_allclose(
            _project(parts, "down", hidden.numpy()),
            _expert_output(experts, expert, len(own), x).numpy(),
            rtol=1e-3,
            atol=1e-3,
        )


Parts = dict[str, tuple[np.ndarray, np.ndarray]]


def _expert_matrices(path: str, dissected: Dissected) -> dict[int, Parts]:
    """Expert → gate, up, down → weight and bias."""
    found: dict[int, Parts] = {}
    for name, parts in dissected.matrices.items():
        for part, matrix in parts.items():
            if name.startswith(f"{path}.") and matrix.role.startswith("moe.expert."):
                assert matrix.expert is not None
                kind = matrix.role.rpartition(".")[2]
                bias = f"{name}_bias"
                added = dissected(bias, part).ravel() if bias in dissected.tensors else 0.0
                found.setdefault(matrix.expert, {})[kind] = (dissected(name, part), added)
    return found


def _project(parts: Parts, kind: str, x: np.ndarray) -> np.ndarray:
    weight, bias = parts[kind]
    return weight @ x + bias


def _gated(experts: Any, gate: Any, up: Any) -> Any:
    import torch

    if hasattr(experts, "limit"):  # gpt-oss: clamped, and the up projection has one added
        gate, up = gate.clamp(max=experts.limit), up.clamp(-experts.limit, experts.limit)
        return (up + 1) * gate * torch.sigmoid(gate * experts.alpha)
    activation = getattr(experts, "act_fn", None) or experts.mlp.activation_fn
    return activation(gate) * up


def _expert_output(experts: Any, expert: int, count: int, x: Any) -> Any:
    """What the family's code makes of one token that only this expert sees."""
    import torch

    with torch.no_grad():
        if type(experts).__name__.startswith("Llama4"):  # gets one row per expert
            return experts(x.repeat(count, 1))[expert]
        index, weight = torch.tensor([[expert]]), torch.ones(1, 1)
        return experts(x[None], index, weight).reshape(-1)


LATENT = {"num_key_value_heads": 4, "head_dim": 4}  # here the rotary part's


@pytest.mark.parametrize(
    "family",
    [
        Family("deepseek_v2", "DeepseekV2ForCausalLM", LATENT),
        Family("deepseek_v3", "DeepseekV3ForCausalLM", LATENT),
        Family("minicpm3", "MiniCPM3ForCausalLM", LATENT),
    ],
    ids=lambda f: f.model_type,
)
def test_latent_attention_is_cut_where_the_model_cuts_it(model: Any, dissected: Dissected) -> None:
    path = "model.layers.1.self_attn"
    attention = model.get_submodule(path)
    names = ("kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj")
    modules = {name: attention.get_submodule(name) for name in names}
    with inputs_of(modules) as x, recorded({path: attention}) as products:
        _run(model)
    scores, context = products[path][:2]
    config, heads = model.config, model.config.num_attention_heads
    key = scores[1][..., :, 0].detach().numpy().reshape(heads, -1)
    value = context[1][..., 0, :].detach().numpy().reshape(heads, -1)

    latent = dissected.apply(f"{path}.kv_a_proj_with_mqa", "latent", x["kv_a_proj_with_mqa"])
    rope = dissected.apply(f"{path}.kv_a_proj_with_mqa", "rope", x["kv_a_proj_with_mqa"])
    k = dissected.apply(f"{path}.kv_b_proj", "k", x["kv_b_proj"]).reshape(heads, -1)
    v = dissected.apply(f"{path}.kv_b_proj", "v", x["kv_b_proj"]).reshape(heads, -1)

    np.testing.assert_allclose(latent, x["kv_a_layernorm"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(k, key[:, : config.qk_nope_head_dim], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(v, value, rtol=1e-4, atol=1e-4)
    # Interleaved rotary embeddings reorder the rows even at position 0.
    for head in key[:, config.qk_nope_head_dim :]:
        np.testing.assert_allclose(np.sort(rope), np.sort(head), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "family", [Family("qwen3_next", "Qwen3NextForCausalLM")], ids=["qwen3_next"]
)
def test_linear_attention_is_cut_where_the_model_cuts_it(model: Any, dissected: Dissected) -> None:
    import torch

    path = next(name for name, _ in model.named_modules() if name.endswith("linear_attn"))
    attention = model.get_submodule(path)
    x = torch.randn(1, 1, model.config.hidden_size)
    with torch.no_grad():
        mixed = attention.in_proj_qkvz(x), attention.in_proj_ba(x)
        found = attention.fix_query_key_value_ordering(*mixed)
    for part, theirs in zip(("q", "k", "v", "z"), found, strict=False):
        own = dissected.apply(f"{path}.in_proj_qkvz", part, x[0, 0].numpy())
        np.testing.assert_allclose(own, theirs.reshape(-1).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "family",
    [
        Family("qwen3_next", "Qwen3NextForCausalLM", {"layer_types": ["full_attention"] * 2}),
        Family("qwen3_5_text", "Qwen3_5ForCausalLM", {"layer_types": ["full_attention"] * 2}),
    ],
    ids=lambda f: f.model_type,
)
def test_gated_queries_are_cut_where_the_model_cuts_them(model: Any, dissected: Dissected) -> None:
    path = "model.layers.0.self_attn"
    attention = model.get_submodule(path)
    heads = model.config.num_attention_heads
    with inputs_of({"q_proj": attention.q_proj}) as x:
        queries: list[np.ndarray] = []
        attention.q_norm.register_forward_pre_hook(
            lambda _, args: queries.append(args[0].detach().numpy())
        )
        _run(model)
    own = dissected.apply(f"{path}.q_proj", "q", x["q_proj"]).reshape(heads, -1)
    np.testing.assert_allclose(own, queries[0].reshape(heads, -1), rtol=1e-4, atol=1e-4)
    assert dissected.matrices[f"{path}.q_proj.weight"]["gate"].role == "attn.gate"


@pytest.mark.parametrize("family", [Family("qwen3_5_text", "Qwen3_5ForCausalLM")], ids=["qwen3_5"])
def test_linear_attention_with_one_projection_of_three(model: Any, dissected: Dissected) -> None:
    path = next(name for name, _ in model.named_modules() if name.endswith("linear_attn"))
    attention = model.get_submodule(path)
    weight = attention.in_proj_qkv.weight.detach()
    sizes = [attention.key_dim, attention.key_dim, attention.value_dim]
    for part, theirs in zip(("q", "k", "v"), weight.split(sizes), strict=True):
        assert np.array_equal(dissected(f"{path}.in_proj_qkv.weight", part), theirs.numpy())


@pytest.mark.parametrize(
    "family",
    [
        Family("qwen2_vl", "Qwen2VLForConditionalGeneration"),
        Family("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"),
        Family("qwen3_vl", "Qwen3VLForConditionalGeneration"),
    ],
    ids=lambda f: f.model_type,
)
def test_vision_queries_keys_and_values(model: Any, dissected: Dissected) -> None:
    import torch

    visual = model.model.visual
    path = "model.visual.blocks.0.attn"
    attention = model.get_submodule(path)
    patch = visual.config.patch_size
    pixels = visual.config.in_channels * visual.config.temporal_patch_size * patch * patch
    with inputs_of({"qkv": attention.qkv}) as x, recorded({path: attention}) as products:
        visual(torch.randn(4, pixels), grid_thw=torch.tensor([[1, 2, 2]]))
    scores, context = products[path][:2]
    found = scores[0][..., 0, :], scores[1][..., :, 0], context[1][..., 0, :]
    for part, theirs in zip(("q", "k", "v"), found, strict=True):
        own = dissected.apply(f"{path}.qkv", part, x["qkv"])
        np.testing.assert_allclose(own, theirs.detach().numpy().ravel(), rtol=1e-4, atol=1e-4)


PER_EXPERT = (
    ("mixtral", "MixtralForCausalLM", {"gate": "w1", "down": "w2", "up": "w3"}),
    ("qwen3_moe", "Qwen3MoeForCausalLM", {k: f"{k}_proj" for k in ("gate", "up", "down")}),
    ("deepseek_v3", "DeepseekV3ForCausalLM", {k: f"{k}_proj" for k in ("gate", "up", "down")}),
    ("olmoe", "OlmoeForCausalLM", {k: f"{k}_proj" for k in ("gate", "up", "down")}),
    ("minimax_m2", "MiniMaxM2ForCausalLM", {"gate": "w1", "down": "w2", "up": "w3"}),
)


@pytest.mark.parametrize(
    ("family", "leaves"),
    [(Family(kind, name), leaves) for kind, name, leaves in PER_EXPERT],
    ids=[kind for kind, _, _ in PER_EXPERT],
)
def test_stacked_and_single_experts_are_the_same_matrices(
    leaves: Mapping[str, str],
    model: Any,
    dissected: Dissected,
    saved: Callable[..., Checkpoint],
) -> None:
    checkpoint = saved(model, original=True)
    singles = 0
    stacks = {
        (matrix.layer, matrix.expert, matrix.role): (name, part)
        for name, parts in dissected.matrices.items()
        for part, matrix in parts.items()
        if matrix.expert is not None
    }
    for matrix in dissect(checkpoint.tensors, checkpoint.config):
        if matrix.expert is not None:
            kind = matrix.role.rpartition(".")[2]
            assert matrix.tensor.name.endswith(f"{leaves[kind]}.weight")
            name, part = stacks[matrix.layer, matrix.expert, matrix.role]
            assert np.array_equal(_read(checkpoint, matrix.tensor), dissected(name, part))
            singles += 1
    assert singles == len(stacks) > 0


FUSED_ON_DISK = (
    Family("hrm_text", "HrmTextForCausalLM"),
    Family("gte", "GteForMaskedLM"),
    Family("nomic_bert", "NomicBertForMaskedLM"),
    Family("jina_embeddings_v3", "JinaEmbeddingsV3ForMaskedLM"),
    Family("molmo2_text", "Molmo2TextModel"),
    Family("dinov2", "Dinov2Model", {"use_swiglu_ffn": True}),
)


@pytest.mark.parametrize("family", FUSED_ON_DISK, ids=lambda f: f.model_type)
def test_what_is_fused_on_disk_is_cut_into_the_modules(
    model: Any, dissected: Dissected, saved: Callable[..., Checkpoint], values_of: Values
) -> None:
    checkpoint = saved(model, original=True)
    apart: dict[tuple[str, int | None, str], np.ndarray] = {
        (matrix.tower, matrix.layer, matrix.role): dissected(name)
        for name, parts in dissected.matrices.items()
        for part, matrix in parts.items()
        if not part and name.endswith(".weight")
    }
    fused = 0
    for matrix in dissect(checkpoint.tensors, checkpoint.config):
        if matrix.part and matrix.role != "bias":
            own = values_of(matrix, _read(checkpoint, matrix.tensor))
            assert np.array_equal(own, apart[matrix.tower, matrix.layer, matrix.role])
            fused += 1
    assert fused
