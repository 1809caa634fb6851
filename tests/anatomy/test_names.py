"""Layers, experts and towers, by names alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from paramscope.anatomy.dissect import dissect
from paramscope.anatomy.names import normalise, take_apart
from paramscope.checkpoint import StoredTensor

Stored = Callable[..., StoredTensor]


@pytest.mark.parametrize(
    ("name", "layer", "expert"),
    [
        ("model.layers.17.self_attn.q_proj.weight", 17, None),
        ("layers.0.attention.wq.weight", 0, None),
        ("transformer.h.3.mlp.c_fc.weight", 3, None),
        ("encoder.layer.11.attention.self.query.weight", 11, None),
        ("encoder.block.4.layer.1.DenseReluDense.wi.weight", 4, None),
        ("decoder.block.4.layer.2.layer_norm.weight", 4, None),
        ("visual.transformer.resblocks.5.mlp.c_fc.weight", 5, None),
        ("blk.6.ffn_down.weight", 6, None),
        ("model.layers.3.mlp.experts.41.down_proj.weight", 3, 41),
        ("model.layers.3.block_sparse_moe.experts.0.w1.weight", 3, 0),
        ("encoder.block.1.layer.1.mlp.experts.expert_7.wi.weight", 1, 7),
        ("model.layers.3.mlp.shared_experts.down_proj.weight", 3, None),
        ("transformer.attentions.2.q_lin.weight", 2, None),
        ("transformer.layer_norm1.2.weight", 2, None),
        ("model.layers.61.eh_proj.weight", 61, None),
        ("model.embed_tokens.weight", None, None),
        ("mlp.0.weight", None, None),
        ("iou_prediction_head.layers.0.weight", None, None),
        ("feature_extractor.conv_layers.2.conv.weight", None, None),
        ("multi_modal_projector.linear_1.weight", None, None),
    ],
)
def test_layer_and_expert_are_read_from_the_name(
    stored: Stored, name: str, layer: int | None, expert: int | None
) -> None:
    (matrix,) = dissect([stored(name, (4, 3))], {})
    assert (matrix.layer, matrix.expert) == (layer, expert)


def test_blocks_of_stages_are_counted_through_and_their_joints_have_no_layer(
    stored: Stored,
) -> None:
    names = [
        f"encoder.layers.{stage}.blocks.{block}.attention.self.query.weight"
        for stage, block in ((0, 0), (0, 1), (1, 0), (2, 10), (2, 9))
    ]
    names.append("encoder.layers.0.downsample.reduction.weight")
    matrices = dissect([stored(name, (4, 3)) for name in names], {})
    assert [matrix.layer for matrix in matrices] == [0, 1, 2, 4, 3, None]


def towers_of(stored: Stored, *names: str) -> list[str]:
    return [matrix.tower for matrix in dissect([stored(name, (4, 3)) for name in names], {})]


def test_one_stack_has_no_tower(stored: Stored) -> None:
    names = ("bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.output.dense.weight")
    assert towers_of(stored, *names) == ["", ""]


def test_encoder_and_decoder_are_towers_where_both_are_there(stored: Stored) -> None:
    assert towers_of(
        stored,
        "shared.weight",
        "encoder.block.0.layer.0.SelfAttention.q.weight",
        "encoder.final_layer_norm.weight",
        "decoder.block.0.layer.0.SelfAttention.q.weight",
        "lm_head.weight",
    ) == ["", "encoder", "encoder", "decoder", ""]
    assert towers_of(stored, "model.decoder.layers.0.self_attn.q_proj.weight") == [""]


def test_synonyms_of_a_tower_are_one_word(stored: Stored) -> None:
    text, old = "language_model.model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.fc1.weight"
    for vision in (
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
        "model.vision_tower.encoder.layers.0.self_attn.q_proj.weight",
        "visual.blocks.0.attn.proj.weight",
        "model.visual.blocks.0.attn.proj.weight",
        "vision_model.encoder.layers.0.self_attn.q_proj.weight",
    ):
        assert towers_of(stored, vision, text) == ["vision", "text"]
        assert towers_of(stored, vision, old) == ["vision", "text"]


def test_towers_within_a_tower_are_told_apart(stored: Stored) -> None:
    assert towers_of(
        stored,
        "vision_model.transformer.layers.0.mlp.fc1.weight",
        "vision_model.global_transformer.layers.0.mlp.fc1.weight",
        "language_model.model.layers.0.mlp.up_proj.weight",
        "vision_model.class_embedding",
    ) == ["vision", "vision.global_transformer", "text", "vision"]
    assert towers_of(
        stored,
        "language_model.encoder.layers.0.fc1.weight",
        "language_model.decoder.layers.0.fc1.weight",
        "vision_tower.blocks.0.mlp.fc1.weight",
    ) == ["text.encoder", "text.decoder", "vision"]


def test_stacks_that_no_word_tells_apart_keep_their_paths(stored: Stored) -> None:
    names = ("a.layers.0.mlp.fc1.weight", "b.layers.0.mlp.fc1.weight")
    assert towers_of(stored, *names) == ["a", "b"]


def test_a_list_without_attention_or_mlp_does_not_force_a_name_on_the_main_one(
    stored: Stored,
) -> None:
    names = ("encoder.layers.0.self_attn.q_proj.weight", "encoder.stem.layers.0.conv.bias")
    assert towers_of(stored, *names)[0] == ""


def test_the_extra_layer_of_multi_token_prediction_keeps_its_index(stored: Stored) -> None:
    names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in (0, 1, 2)]
    names += ["model.layers.2.eh_proj.weight", "model.layers.2.shared_head.head.weight"]
    matrices = dissect([stored(name, (4, 3)) for name in names], {"num_hidden_layers": 2})
    assert [(m.role, m.layer) for m in matrices[2:]] == [("mlp.up", 2), ("mtp", 2), ("output", 2)]


def test_wrappers_say_nothing(stored: Stored) -> None:
    plain, wrapped = (
        dissect([stored(name, (4, 3))], {})[0]
        for name in (
            "model.layers.3.self_attn.q_proj.weight",
            "_orig_mod.model.layers.3._fsdp_wrapped_module.self_attn.q_proj.base_layer.weight",
        )
    )
    assert (wrapped.role, wrapped.layer, wrapped.tower) == (plain.role, plain.layer, plain.tower)


def test_a_pattern_holds_for_all_layers_and_experts() -> None:
    pattern, numbers = normalise("model.layers.12.mlp.experts.3.up_proj.weight_scale_inv")
    assert pattern == "model.layers.#.mlp.experts.#.up_proj.weight_scale_inv"
    assert numbers == ["12", "3"]
    name = take_apart(pattern)
    assert (name.layer_numbers, name.expert_number) == ((0,), 1)
    assert (name.path, name.leaf) == ("model.layers.#.mlp.experts.#.up_proj", "weight_scale_inv")
