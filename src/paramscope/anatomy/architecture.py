"""What `config.json` says of a model as a whole: widths, heads, experts, whether it is tied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paramscope.anatomy.config import facts_for

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers")
_EXPERTS_PER_TOKEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_topk",
    "moe_top_k",
    "top_k_experts",
    "ffn_config.moe_top_k",
)
_CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


def architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that the config gives for the model's main stack; absent where it gives none.

    Returns:
        Any of `layers`, `hidden`, `heads`, `kv_heads`, `head_dim`, `experts`,
        `experts_per_token`, `vocabulary`, `context` (integers) and `tied` (a bool: input and
        output embedding are one matrix).
    """
    facts = facts_for(config, ())
    found: dict[str, Any] = {
        "layers": facts.number(*_LAYERS),
        "hidden": facts.hidden,
        "heads": facts.heads,
        "kv_heads": facts.groups,
        "head_dim": facts.head_dim,
        "experts": facts.experts,
        "experts_per_token": facts.number(*_EXPERTS_PER_TOKEN),
        "vocabulary": facts.number("vocab_size", "padded_vocab_size"),
        "context": facts.number(*_CONTEXT),
        "tied": _tied(config, facts.value("tie_word_embeddings")),
    }
    return {name: value for name, value in found.items() if value is not None}


def _tied(config: Mapping[str, Any], of_stack: Any) -> bool | None:
    for value in (config.get("tie_word_embeddings"), of_stack):
        if isinstance(value, bool):
            return value
    return None
