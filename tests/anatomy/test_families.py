"""Families by their names and layouts: those whose code is not in transformers, and oddities.

One row per family: its config, its tensors, and what each of them holds, in order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effort import lines_run
from paramscope.anatomy import Matrix, families, split
from paramscope.anatomy.dissect import dissect
from paramscope.anatomy.roles import BLOCK_TYPES, ROLES
from paramscope.checkpoint import StoredTensor
from paramscope.checkpoint.open import open_checkpoint
from paramscope.source.local import LocalSource

Stored = Callable[..., StoredTensor]
Values = Callable[[Matrix, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Row:
    """Tensors of a family: name → shape, and name → (role, part, …) as text."""

    family: str
    config: Mapping[str, Any]
    tensors: Mapping[str, tuple[int, ...]]
    expected: Mapping[str, str]
    dtypes: Mapping[str, str] = field(default_factory=dict)


INTERNLM2 = {"model_type": "internlm2", "num_attention_heads": 8, "num_key_value_heads": 2,
             "hidden_size": 32}  # fmt: skip
CHATGLM2 = {"model_type": "chatglm", "num_attention_heads": 8, "multi_query_group_num": 2,
            "kv_channels": 4, "hidden_size": 32}  # fmt: skip

FAMILIES = (
    Row(
        "InternLM2",
        INTERNLM2,
        {
            "model.tok_embeddings.weight": (70, 32),
            "model.layers.0.attention.wqkv.weight": (48, 32),
            "model.layers.0.attention.wo.weight": (32, 32),
            "model.layers.0.feed_forward.w1.weight": (44, 32),
            "model.layers.0.feed_forward.w2.weight": (32, 44),
            "model.layers.0.feed_forward.w3.weight": (44, 32),
            "model.layers.0.attention_norm.weight": (32,),
            "output.weight": (70, 32),
        },
        {
            "model.tok_embeddings.weight": "embed.token",
            "model.layers.0.attention.wqkv.weight": "attn.q=q attn.k=k attn.v=v",
            "model.layers.0.attention.wo.weight": "attn.o",
            "model.layers.0.feed_forward.w1.weight": "mlp.gate",
            "model.layers.0.feed_forward.w2.weight": "mlp.down",
            "model.layers.0.feed_forward.w3.weight": "mlp.up",
            "model.layers.0.attention_norm.weight": "norm",
            "output.weight": "output",
        },
    ),
    Row(
        "GPT",
        {"model_type": "openai-gpt"},
        {"tokens_embed.weight": (70, 32), "positions_embed.weight": (40, 32)},
        {"tokens_embed.weight": "embed.token", "positions_embed.weight": "embed.position"},
    ),
    Row(
        "DeBERTa's positions",
        {"model_type": "deberta-v2"},
        {
            f"deberta.encoder.layer.0.attention.self.{name}.weight": (32, 32)
            for name in ("pos_proj", "pos_q_proj", "pos_key_proj", "pos_query_proj", "query_proj")
        },
        {
            "deberta.encoder.layer.0.attention.self.pos_proj.weight": "attn.pos",
            "deberta.encoder.layer.0.attention.self.pos_q_proj.weight": "attn.pos",
            "deberta.encoder.layer.0.attention.self.pos_key_proj.weight": "attn.pos",
            "deberta.encoder.layer.0.attention.self.pos_query_proj.weight": "attn.pos",
            "deberta.encoder.layer.0.attention.self.query_proj.weight": "attn.q",
        },
    ),
    Row(
        "Baichuan",
        {"model_type": "baichuan", "num_attention_heads": 4, "hidden_size": 32},
        {"model.layers.0.self_attn.W_pack.weight": (96, 32)},
        {"model.layers.0.self_attn.W_pack.weight": "attn.q=q attn.k=k attn.v=v"},
    ),
    Row(
        "ChatGLM2",
        CHATGLM2,
        {
            "transformer.embedding.word_embeddings.weight": (70, 32),
            "transformer.encoder.layers.0.self_attention.query_key_value.weight": (48, 32),
            "transformer.encoder.layers.0.self_attention.query_key_value.bias": (48,),
            "transformer.encoder.layers.0.self_attention.dense.weight": (32, 32),
            "transformer.encoder.layers.0.mlp.dense_h_to_4h.weight": (88, 32),
            "transformer.encoder.layers.0.mlp.dense_4h_to_h.weight": (32, 44),
            "transformer.encoder.final_layernorm.weight": (32,),
            "transformer.output_layer.weight": (70, 32),
            "transformer.rotary_pos_emb.inv_freq": (4,),
        },
        {
            "transformer.embedding.word_embeddings.weight": "embed.token",
            "transformer.encoder.layers.0.self_attention.query_key_value.weight": (
                "attn.q=q attn.k=k attn.v=v"
            ),
            "transformer.encoder.layers.0.self_attention.query_key_value.bias": (
                "bias=q bias=k bias=v"
            ),
            "transformer.encoder.layers.0.self_attention.dense.weight": "attn.o",
            "transformer.encoder.layers.0.mlp.dense_h_to_4h.weight": "mlp.gate=gate mlp.up=up",
            "transformer.encoder.layers.0.mlp.dense_4h_to_h.weight": "mlp.down",
            "transformer.encoder.final_layernorm.weight": "norm",
            "transformer.output_layer.weight": "output",
            "transformer.rotary_pos_emb.inv_freq": "buffer",
        },
    ),
    Row(
        "ChatGLM",
        {"model_type": "chatglm", "num_attention_heads": 4, "hidden_size": 32},
        {
            "transformer.layers.0.attention.query_key_value.weight": (96, 32),
            "transformer.layers.0.mlp.dense_h_to_4h.weight": (128, 32),
        },
        {
            "transformer.layers.0.attention.query_key_value.weight": "attn.q=q attn.k=k attn.v=v",
            "transformer.layers.0.mlp.dense_h_to_4h.weight": "mlp.up",
        },
    ),
    Row(
        "Qwen-1",
        {"model_type": "qwen", "num_attention_heads": 4, "kv_channels": 8, "hidden_size": 32},
        {
            "transformer.h.0.attn.c_attn.weight": (96, 32),
            "transformer.h.0.attn.c_attn.bias": (96,),
            "transformer.h.0.attn.c_proj.weight": (32, 32),
            "transformer.h.0.mlp.w1.weight": (44, 32),
            "transformer.h.0.mlp.w2.weight": (44, 32),
            "transformer.h.0.mlp.c_proj.weight": (32, 44),
            "transformer.h.0.ln_1.weight": (32,),
        },
        {
            "transformer.h.0.attn.c_attn.weight": "attn.q=q attn.k=k attn.v=v",
            "transformer.h.0.attn.c_attn.bias": "bias=q bias=k bias=v",
            "transformer.h.0.attn.c_proj.weight": "attn.o",
            "transformer.h.0.mlp.w1.weight": "mlp.up",
            "transformer.h.0.mlp.w2.weight": "mlp.gate",
            "transformer.h.0.mlp.c_proj.weight": "mlp.down",
            "transformer.h.0.ln_1.weight": "norm",
        },
    ),
    Row(
        "Phi-2 as first published",
        {"model_type": "phi-msft", "n_head": 4, "n_head_kv": None, "n_embd": 32},
        {
            "transformer.h.0.mixer.Wqkv.weight": (96, 32),
            "transformer.h.0.mixer.Wqkv.bias": (96,),
            "transformer.h.0.mixer.out_proj.weight": (32, 32),
            "transformer.h.0.mlp.fc1.weight": (44, 32),
            "lm_head.ln.weight": (32,),
            "lm_head.linear.weight": (70, 32),
        },
        {
            "transformer.h.0.mixer.Wqkv.weight": "attn.q=q attn.k=k attn.v=v",
            "transformer.h.0.mixer.Wqkv.bias": "bias=q bias=k bias=v",
            "transformer.h.0.mixer.out_proj.weight": "attn.o",
            "transformer.h.0.mlp.fc1.weight": "mlp.up",
            "lm_head.ln.weight": "norm",
            "lm_head.linear.weight": "output",
        },
    ),
    Row(
        "GPT-2 without a config: the shapes tell Conv1D",
        {},
        {
            "h.0.attn.bias": (1, 1, 16, 16),
            "h.0.attn.c_attn.weight": (32, 96),
            "h.0.attn.c_attn.bias": (96,),
            "h.0.attn.c_proj.weight": (32, 32),
            "h.0.attn.c_proj.bias": (32,),
            "h.0.mlp.c_fc.weight": (32, 128),
            "h.0.mlp.c_proj.weight": (128, 32),
        },
        {
            "h.0.attn.bias": "buffer",
            "h.0.attn.c_attn.weight": "attn.q=q attn.k=k attn.v=v",
            "h.0.attn.c_attn.bias": "bias=q bias=k bias=v",
            "h.0.attn.c_proj.weight": "attn.o",
            "h.0.attn.c_proj.bias": "bias",
            "h.0.mlp.c_fc.weight": "mlp.up",
            "h.0.mlp.c_proj.weight": "mlp.down",
        },
    ),
    Row(
        "GPT-NeoX buffers",
        {"model_type": "gpt_neox", "num_attention_heads": 4, "hidden_size": 32},
        {
            "gpt_neox.layers.0.attention.bias": (1, 1, 16, 16),
            "gpt_neox.layers.0.attention.masked_bias": (),
            "gpt_neox.layers.0.attention.rotary_emb.inv_freq": (4,),
            "gpt_neox.layers.0.attention.dense.bias": (32,),
        },
        {
            "gpt_neox.layers.0.attention.bias": "buffer",
            "gpt_neox.layers.0.attention.masked_bias": "buffer",
            "gpt_neox.layers.0.attention.rotary_emb.inv_freq": "buffer",
            "gpt_neox.layers.0.attention.dense.bias": "bias",
        },
        {"gpt_neox.layers.0.attention.bias": "U8"},
    ),
    Row(
        "BERT with legacy norms",
        {"model_type": "bert"},
        {
            "bert.embeddings.LayerNorm.gamma": (32,),
            "bert.embeddings.LayerNorm.beta": (32,),
            "cls.predictions.bias": (70,),
            "cls.predictions.transform.dense.weight": (32, 32),
            "cls.seq_relationship.weight": (2, 32),
            "bert.pooler.dense.weight": (32, 32),
        },
        {
            "bert.embeddings.LayerNorm.gamma": "norm",
            "bert.embeddings.LayerNorm.beta": "norm",
            "cls.predictions.bias": "bias",
            "cls.predictions.transform.dense.weight": "pooler",
            "cls.seq_relationship.weight": "output",
            "bert.pooler.dense.weight": "pooler",
        },
    ),
    Row(
        "gpt-oss, packed",
        {"model_type": "gpt_oss", "hidden_size": 64},
        {
            "model.layers.0.mlp.experts.gate_up_proj_blocks": (3, 128, 2, 16),
            "model.layers.0.mlp.experts.gate_up_proj_scales": (3, 128, 2),
            "model.layers.0.mlp.experts.gate_up_proj_bias": (3, 128),
            "model.layers.0.self_attn.sinks": (4,),
            "model.layers.0.mlp.router.weight": (3, 64),
            "model.layers.0.mlp.router.bias": (3,),
        },
        {
            "model.layers.0.mlp.experts.gate_up_proj_blocks": "moe.expert.gate_up",
            "model.layers.0.mlp.experts.gate_up_proj_scales": "packing",
            "model.layers.0.mlp.experts.gate_up_proj_bias": (
                "bias=expert.0.gate bias=expert.0.up bias=expert.1.gate bias=expert.1.up"
                " bias=expert.2.gate bias=expert.2.up"
            ),
            "model.layers.0.self_attn.sinks": "attn.bias",
            "model.layers.0.mlp.router.weight": "moe.router",
            "model.layers.0.mlp.router.bias": "bias",
        },
        {
            "model.layers.0.mlp.experts.gate_up_proj_blocks": "U8",
            "model.layers.0.mlp.experts.gate_up_proj_scales": "U8",
        },
    ),
    Row(
        "DeepSeek-V3.2 with FP8 scales",
        {"model_type": "deepseek_v32", "num_attention_heads": 4, "kv_lora_rank": 16,
         "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6, "hidden_size": 32},
        {
            "model.layers.0.self_attn.kv_a_proj_with_mqa.weight": (20, 32),
            "model.layers.0.self_attn.kv_b_proj.weight": (56, 16),
            "model.layers.0.self_attn.kv_b_proj.weight_scale_inv": (1, 1),
            "model.layers.0.self_attn.indexer.wq_b.weight": (32, 20),
            "model.layers.0.self_attn.indexer.wk.weight": (8, 32),
            "model.layers.0.self_attn.indexer.k_norm.weight": (8,),
            "model.layers.0.self_attn.indexer.k_norm.bias": (8,),
            "model.layers.0.self_attn.indexer.weights_proj.weight": (4, 32),
            "model.layers.3.mlp.gate.e_score_correction_bias": (4,),
        },
        {
            "model.layers.0.self_attn.kv_a_proj_with_mqa.weight": (
                "attn.kv_a=latent attn.k_rope=rope"
            ),
            "model.layers.0.self_attn.kv_b_proj.weight": "attn.k_b=k attn.v_b=v",
            "model.layers.0.self_attn.kv_b_proj.weight_scale_inv": "packing",
            "model.layers.0.self_attn.indexer.wq_b.weight": "attn.index.q",
            "model.layers.0.self_attn.indexer.wk.weight": "attn.index.k",
            "model.layers.0.self_attn.indexer.k_norm.weight": "norm",
            "model.layers.0.self_attn.indexer.k_norm.bias": "norm",
            "model.layers.0.self_attn.indexer.weights_proj.weight": "attn.index",
            "model.layers.3.mlp.gate.e_score_correction_bias": "moe.router",
        },
        {"model.layers.0.self_attn.kv_b_proj.weight": "F8_E4M3"},
    ),
    Row(
        "GPTQ, AWQ and LoRA",
        {"model_type": "llama"},
        {
            "model.layers.0.mlp.up_proj.qweight": (4, 44),
            "model.layers.0.mlp.up_proj.qzeros": (1, 6),
            "model.layers.0.mlp.up_proj.scales": (1, 44),
            "model.layers.0.mlp.up_proj.g_idx": (32,),
            "model.layers.0.self_attn.q_proj.lora_A.default.weight": (8, 32),
            "model.layers.0.self_attn.q_proj.lora_B.weight": (32, 8),
        },
        {
            "model.layers.0.mlp.up_proj.qweight": "mlp.up",
            "model.layers.0.mlp.up_proj.qzeros": "packing",
            "model.layers.0.mlp.up_proj.scales": "packing",
            "model.layers.0.mlp.up_proj.g_idx": "packing",
            "model.layers.0.self_attn.q_proj.lora_A.default.weight": "attn.q",
            "model.layers.0.self_attn.q_proj.lora_B.weight": "attn.q",
        },
        {
            "model.layers.0.mlp.up_proj.qweight": "I32",
            "model.layers.0.mlp.up_proj.qzeros": "I32",
            "model.layers.0.mlp.up_proj.g_idx": "I32",
        },
    ),
    Row(
        "Llama as first published",
        {},
        {
            "tok_embeddings.weight": (70, 32),
            "layers.0.attention.wq.weight": (32, 32),
            "layers.0.attention.wo.weight": (32, 32),
            "layers.0.feed_forward.w2.weight": (32, 44),
            "layers.0.ffn_norm.weight": (32,),
            "output.weight": (70, 32),
            "rope.freqs": (4,),
        },
        {
            "tok_embeddings.weight": "embed.token",
            "layers.0.attention.wq.weight": "attn.q",
            "layers.0.attention.wo.weight": "attn.o",
            "layers.0.feed_forward.w2.weight": "mlp.down",
            "layers.0.ffn_norm.weight": "norm",
            "output.weight": "output",
            "rope.freqs": "buffer",
        },
    ),
    Row(
        "GGUF",
        {},
        {
            "token_embd.weight": (70, 32),
            "blk.0.attn_q.weight": (32, 32),
            "blk.0.attn_output.weight": (32, 32),
            "blk.0.attn_norm.weight": (32,),
            "blk.0.ffn_gate_inp.weight": (3, 32),
            "blk.0.ffn_down_exps.weight": (3, 32, 44),
            "blk.0.ffn_up_shexp.weight": (44, 32),
            "output_norm.weight": (32,),
            "output.weight": (70, 32),
        },
        {
            "token_embd.weight": "embed.token",
            "blk.0.attn_q.weight": "attn.q",
            "blk.0.attn_output.weight": "attn.o",
            "blk.0.attn_norm.weight": "norm",
            "blk.0.ffn_gate_inp.weight": "moe.router",
            "blk.0.ffn_down_exps.weight": (
                "moe.expert.down=expert.0.down moe.expert.down=expert.1.down"
                " moe.expert.down=expert.2.down"
            ),
            "blk.0.ffn_up_shexp.weight": "moe.shared.up",
            "output_norm.weight": "norm",
            "output.weight": "output",
        },
    ),
    Row(
        "timm and OpenAI CLIP",
        {},
        {
            "visual.conv1.weight": (32, 3, 4, 4),
            "visual.class_embedding": (32,),
            "visual.transformer.resblocks.0.attn.in_proj_weight": (96, 32),
            "visual.transformer.resblocks.0.attn.in_proj_bias": (96,),
            "visual.transformer.resblocks.0.attn.out_proj.weight": (32, 32),
            "visual.transformer.resblocks.0.mlp.c_fc.weight": (128, 32),
            "blocks.0.attn.qkv.weight": (96, 32),
            "blocks.0.ls1.gamma": (32,),
            "logit_scale": (),
        },
        {
            "visual.conv1.weight": "embed.patch",
            "visual.class_embedding": "embed.other",
            "visual.transformer.resblocks.0.attn.in_proj_weight": "attn.q=q attn.k=k attn.v=v",
            "visual.transformer.resblocks.0.attn.in_proj_bias": "bias=q bias=k bias=v",
            "visual.transformer.resblocks.0.attn.out_proj.weight": "attn.o",
            "visual.transformer.resblocks.0.mlp.c_fc.weight": "mlp.up",
            "blocks.0.attn.qkv.weight": "attn.q=q attn.k=k attn.v=v",
            "blocks.0.ls1.gamma": "scale",
            "logit_scale": "scale",
        },
    ),
    Row(
        "a family that nobody knows",
        {"model_type": "never_heard_of"},
        {
            "net.token_embedding.weight": (70, 32),
            "net.blocks.0.attention.q_proj.weight": (32, 32),
            "net.blocks.0.attention.wo.weight": (32, 32),
            "net.blocks.0.ffn.fc1.weight": (44, 32),
            "net.blocks.0.ffn.fc2.weight": (32, 44),
            "net.blocks.0.some_ln.weight": (32,),
            "net.blocks.0.some_ln.bias": (32,),
            "net.blocks.0.token_mix.weight": (32, 1, 3),
            "net.blocks.0.what.is_this": (3, 3),
            "net.steps": (1,),
            "net.lm_head.weight": (70, 32),
        },
        {
            "net.token_embedding.weight": "embed.token",
            "net.blocks.0.attention.q_proj.weight": "attn.q",
            "net.blocks.0.attention.wo.weight": "attn.o",
            "net.blocks.0.ffn.fc1.weight": "mlp.up",
            "net.blocks.0.ffn.fc2.weight": "mlp.down",
            "net.blocks.0.some_ln.weight": "norm",
            "net.blocks.0.some_ln.bias": "norm",
            "net.blocks.0.token_mix.weight": "conv",
            "net.blocks.0.what.is_this": "other",
            "net.steps": "buffer",
            "net.lm_head.weight": "output",
        },
        {"net.steps": "I64"},
    ),
)  # fmt: skip


@pytest.mark.parametrize("row", FAMILIES, ids=lambda row: row.family)
def test_a_family_is_known_by_its_names(stored: Stored, row: Row) -> None:
    tensors = [stored(n, shape, row.dtypes.get(n, "F32")) for n, shape in row.tensors.items()]
    found: dict[str, str] = {}
    for m in dissect(tensors, row.config):
        text = f"{m.role}={m.part}" if m.part else m.role
        found[m.tensor.name] = f"{found.get(m.tensor.name, '')} {text}".strip()
    assert found == row.expected


def rows_of(shape: tuple[int, ...]) -> np.ndarray:
    """A weight whose every element is the index of its row."""
    return np.repeat(np.arange(shape[0], dtype=np.float32)[:, None], shape[1], axis=1)


def pieces(
    tensors: list[StoredTensor], config: Mapping[str, Any], values_of: Values, array: np.ndarray
) -> dict[str, list[int]]:
    """Part → which rows of the stored weight it holds."""
    return {
        matrix.part: values_of(matrix, array)[:, 0].astype(int).tolist()
        for matrix in dissect(tensors, config)
    }


def test_internlm2_groups_queries_with_their_key_and_value(
    stored: Stored, values_of: Values
) -> None:
    # Two groups of (4 queries, 1 key, 1 value), heads of width 4.
    name, shape = "model.layers.0.attention.wqkv.weight", (48, 32)
    found = pieces([stored(name, shape)], INTERNLM2, values_of, rows_of(shape))
    assert found == {
        "q": [*range(16), *range(24, 40)],
        "k": [*range(16, 20), *range(40, 44)],
        "v": [*range(20, 24), *range(44, 48)],
    }


def test_chatglm_changed_its_layout_between_versions(stored: Stored, values_of: Values) -> None:
    shape = (48, 32)
    new = "transformer.encoder.layers.0.self_attention.query_key_value.weight"
    found = pieces([stored(new, shape)], CHATGLM2, values_of, rows_of(shape))
    assert found == {"q": [*range(32)], "k": [*range(32, 40)], "v": [*range(40, 48)]}
    old = "transformer.layers.0.attention.query_key_value.weight"
    config = {"model_type": "chatglm", "num_attention_heads": 4, "hidden_size": 16}
    found = pieces([stored(old, shape)], config, values_of, rows_of(shape))
    assert found["k"] == [4, 5, 6, 7, 16, 17, 18, 19, 28, 29, 30, 31, 40, 41, 42, 43]


@pytest.mark.parametrize(
    ("name", "config", "missing"),
    [
        ("model.layers.0.self_attn.qkv_proj.weight", {"model_type": "phi3"}, "no heads"),
        (
            "model.layers.0.self_attn.qkv_proj.weight",
            {"num_attention_heads": 5, "num_key_value_heads": 3, "head_dim": 8},
            "do not fit 5 heads, 3 key-value heads of 8",
        ),
        ("model.layers.0.attention.wqkv.weight", {"model_type": "internlm2"}, "no heads"),
        ("h.0.self_attention.query_key_value.weight", {"model_type": "unknown"}, "not known"),
        ("transformer.h.0.self_attention.query_key_value.weight", {}, "not known"),
    ],
)
def test_what_cannot_be_cut_stays_whole_and_says_what_is_missing(
    stored: Stored, name: str, config: Mapping[str, Any], missing: str
) -> None:
    (matrix,) = dissect([stored(name, (48, 32))], config)
    assert (matrix.part, matrix.role, matrix.shape) == ("", "attn.qkv", (48, 32))
    assert missing in matrix.note


def test_equal_thirds_need_no_config(stored: Stored) -> None:
    tensors = [stored("layers.0.attn.Wqkv.weight", (96, 32)), stored("x.in_proj_bias", (96,))]
    assert [m.part for m in dissect(tensors, {})] == ["q", "k", "v"] * 2


def test_a_bias_is_cut_as_its_weight(stored: Stored, values_of: Values) -> None:
    config = {"model_type": "bloom", "n_head": 4, "hidden_size": 32}
    name = "transformer.h.0.self_attention.query_key_value"
    tensors = [stored(f"{name}.weight", (96, 32)), stored(f"{name}.bias", (96,))]
    matrices = dissect(tensors, config)
    index = np.arange(96, dtype=np.float32)
    for weight, bias in zip(matrices[:3], matrices[3:], strict=True):
        assert (bias.part, bias.role, bias.shape) == (weight.part, "bias", (32,))
        rows = values_of(weight, np.repeat(index[:, None], 32, axis=1))[:, 0]
        assert np.array_equal(values_of(bias, index).ravel(), rows)


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (4, 0), (3,), (2, 3), (2, 3, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize(
    "name",
    ["x", "x.bias", "layers.0.mlp.experts.gate_up_proj", "layers.0.attn.qkv.weight",
     "layers.0.self_attn.kv_b_proj.weight", "layers.0.mlp.up_proj.weight", "a.layer_norm.weight"],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["F32", "BOOL", "I64", "U8", "F8_E4M3"])
def test_no_shape_loses_an_element(
    stored: Stored, name: str, shape: tuple[int, ...], dtype: str
) -> None:
    tensor = stored(name, shape, dtype)
    matrices = dissect([tensor], {"num_attention_heads": 1, "hidden_size": 4})
    indices = np.arange(tensor.numel)
    taken = np.concatenate([m.view.cut(indices, 0).ravel() for m in matrices])
    assert np.array_equal(np.sort(taken), indices)
    assert all(m.role in ROLES for m in matrices)
    whole = [m for m in matrices if not m.part and not m.transposed]
    assert all(m.shape == shape for m in whole)


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "role"),
    [
        ("layers.0.mlp.up_proj.weight", (4, 4), "I8", "mlp.up"),  # codes of bitsandbytes
        ("layers.0.mlp.up_proj.weight", (8, 1), "U8", "mlp.up"),
        ("layers.0.mlp.up_proj.SCB", (4,), "F32", "packing"),
        ("layers.0.mlp.up_proj.weight.absmax", (4,), "F32", "packing"),
        ("layers.0.mlp.gate.tid2eid", (70, 2), "I64", "buffer"),
        ("encoder.embed_positions.num_batches", (3,), "I64", "buffer"),
        ("layers.0.attn.mask", (4, 4), "BOOL", "buffer"),
        ("layers.0.attn.bias", (4,), "F32", "bias"),
        ("layers.0.attn.bias", (1, 1, 4, 4), "F32", "buffer"),
    ],
)
def test_buffers_are_told_by_name_dtype_and_shape(
    stored: Stored, name: str, shape: tuple[int, ...], dtype: str, role: str
) -> None:
    (matrix,) = dissect([stored(name, shape, dtype)], {})
    assert matrix.role == role


def test_sub_configs_give_each_tower_its_heads(stored: Stored) -> None:
    config = {
        "model_type": "some_vl",
        "text_config": {"num_attention_heads": 4, "num_key_value_heads": 1, "hidden_size": 32},
        "vision_config": {"num_heads": 2, "hidden_size": 24},
    }
    tensors = [
        stored("model.language_model.layers.0.self_attn.qkv_proj.weight", (48, 32)),
        stored("model.visual.blocks.0.attn.qkv.weight", (72, 24)),
        stored("model.visual.blocks.0.attn.qkv.bias", (72,)),
    ]
    text, vision, bias = (
        [m.rows for m in dissect(tensors, config) if m.tensor is tensor] for tensor in tensors
    )
    assert text == [32, 8, 8]
    assert vision == [24, 24, 24]
    assert len(bias) == 3


def test_the_real_model_is_known_entirely(real_model: Path) -> None:
    config = json.loads((real_model / "config.json").read_text())
    with closing(LocalSource(real_model)) as source:
        checkpoint = open_checkpoint(source)
    matrices = dissect(checkpoint.tensors, checkpoint.config)
    assert {m.role for m in matrices} == {
        "embed.token", "embed.position", "embed.type", "norm", "bias", "buffer", "pooler",
        "attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down",
    }  # fmt: skip
    layers = {m.layer for m in matrices} - {None}
    assert layers == set(range(config["num_hidden_layers"]))
    assert {m.tower for m in matrices} == {""}
    assert sum(m.numel for m in matrices) == sum(t.numel for t in checkpoint.tensors)


# What a context must have a role of its own for.
CUT = {
    "moe.expert.": ("gate", "up", "down", "gate_up"),
    "moe.shared.": ("gate", "up", "down", "gate_up"),
    "cross_attn.": ("q", "k", "v", "o", "kv", "qkv"),
}


def test_every_row_of_the_tables_can_be_used() -> None:
    for row in (*families.ROWS, *families.NOT_TRAINED):
        re.compile(row.pattern)
        re.compile(row.models)
        assert row.role in ROLES, row
        assert not row.layout or row.layout in split.LAYOUTS, row
        assert row.stack in ("", "axis", "rows"), row
    for layout in split.LAYOUTS.values():
        for _, role in layout.pieces:
            assert role in ROLES
    for context in families.CONTEXTS:
        assert all(f"{to}{kind}" in ROLES for _, to in context.renames for kind in CUT[to])
    assert {role.block_type for role in ROLES.values()} == set(BLOCK_TYPES)


def test_the_work_grows_with_the_tensors_and_no_faster(stored: Stored) -> None:
    tensors = [
        stored(f"model.layers.{layer}.mlp.experts.{expert}.{kind}_proj.{leaf}", shape)
        for layer in range(60)
        for expert in range(256)
        for kind in ("gate", "up", "down")
        for leaf, shape in (("weight", (8, 16)), ("weight_scale_inv", (1, 1)))
    ]
    config = {"model_type": "deepseek_v3"}
    assert lines_run(lambda: dissect(tensors, config)) < 350 * 92_160
    matrices = dissect(tensors, config)
    assert len(matrices) == len(tensors) == 92_160
    assert {m.expert for m in matrices} == set(range(256))
