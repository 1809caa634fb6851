"""Stored tensors by name and shape, and tiny random models of transformers' families."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paramscope.anatomy import Matrix
from paramscope.checkpoint import Checkpoint, StoredTensor
from paramscope.checkpoint.dtypes import DTYPES
from paramscope.checkpoint.open import open_checkpoint
from paramscope.source.local import LocalSource

# Sizes that keep apart what a mistake could confuse: no two widths are equal, and none is the
# double of another.
SIZES: dict[str, int] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 70),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embed_dim", "dim", "emb_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth"), 2),
    **dict.fromkeys(("encoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys(("decoder_layers", "num_decoder_layers"), 3),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "moe_num_shared_experts"), 2),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_ff", "hidden_dim"), 44),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "ffn_hidden_size"), 44),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size"), 20),
    **dict.fromkeys(("num_experts", "num_local_experts"), 3),
    **dict.fromkeys(("n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_sequence_length"), 64),
    **dict.fromkeys(("max_target_positions", "max_source_positions"), 30),
    **dict.fromkeys(("image_size",), 28),
    **dict.fromkeys(("patch_size",), 14),
    **dict.fromkeys(("spatial_merge_size", "temporal_patch_size", "mamba_expand"), 2),
    **dict.fromkeys(("state_size", "conv_kernel", "time_step_rank", "mamba_d_state"), 4),
    **dict.fromkeys(("mamba_d_conv", "mamba_dt_rank", "mamba_n_heads", "ssm_state_size"), 4),
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "n_groups": 1,
    "chunk_size": 8,
    "mamba_chunk_size": 8,
    "head_dim": 12,
    "global_head_dim": 16,
    "d_kv": 12,
    "kv_channels": 12,
    "shared_expert_intermediate_size": 24,
    "q_lora_rank": 20,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 12,
    "index_head_dim": 8,
    "index_n_heads": 4,
    "index_topk": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "out_hidden_size": 32,
    "num_channels": 3,
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 4,
    "embedding_size": 24,
    "projection_dim": 24,
    "num_mel_bins": 8,
    "num_global_layers": 1,
    "vision_output_dim": 32,
    "type_vocab_size": 2,
    "num_nextn_predict_layers": 0,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sep_token_id": 2,
    "decoder_start_token_id": 0,
}
# Lists that follow from the sizes: the config makes them anew.
_DERIVED = frozenset({"layer_types", "mlp_layer_types", "layers_block_type", "rope_parameters"})


def stored_tensor(name: str, shape: tuple[int, ...], dtype: str = "F32") -> StoredTensor:
    numel = math.prod(shape)
    kind = DTYPES[dtype]
    return StoredTensor(name, kind, shape, "model.safetensors", 0, numel * kind.bits // 8, numel)


@pytest.fixture(scope="session")
def stored() -> Callable[..., StoredTensor]:
    """A stored tensor of a name, a shape and a dtype; it has no bytes."""
    return stored_tensor


@pytest.fixture(scope="session")
def values_of() -> Callable[[Matrix, np.ndarray], np.ndarray]:
    """The matrix as (out, in), cut from its tensor's values."""

    def cut(matrix: Matrix, tensor: np.ndarray) -> np.ndarray:
        found = matrix.view.cut(np.ascontiguousarray(tensor).reshape(-1), 0)
        return found.T if matrix.transposed else found

    return cut


def tiny_kwargs(defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    kwargs: dict[str, Any] = {}
    for key, value in defaults.items():
        if key in _DERIVED:
            continue
        if isinstance(value, Mapping) and "model_type" in value:
            below = overrides.get(key, {})
            kwargs[key] = {"model_type": value["model_type"], **tiny_kwargs(value, below)}
        elif key in SIZES and type(value) in (int, type(None)):
            kwargs[key] = SIZES[key]
    plain = {key: value for key, value in overrides.items() if key not in kwargs or key in SIZES}
    return kwargs | plain


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., Any]:
    """A tiny config of a model type; `overrides` win, in sub-configs too."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    def make(model_type: str, overrides: Mapping[str, Any]) -> Any:
        kind = CONFIG_MAPPING[model_type]
        return kind(**tiny_kwargs(kind().to_dict(), overrides))

    return make


@pytest.fixture
def saved(tmp_path: Path) -> Iterator[Callable[..., Checkpoint]]:
    """Save a model by its own means and open what it wrote."""
    with ExitStack() as stack:

        def save(model: Any, *, original: bool) -> Checkpoint:
            folder = tmp_path / ("original" if original else "modules")
            model.save_pretrained(folder, save_original_format=original)
            return open_checkpoint(stack.enter_context(closing(LocalSource(folder))))

        yield save
