"""What GGUF's metadata says of a model, in the words of `config.json`; and what to know of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Word of config.json: keys of the metadata below the architecture's name, the first that is there.
# `key_length` is d of the keys as they are cached: with multi-head latent attention, the latent's.
WORDS: Mapping[str, tuple[str, ...]] = {
    "hidden_size": ("embedding_length",),
    "num_hidden_layers": ("block_count",),
    "num_attention_heads": ("attention.head_count",),
    "num_key_value_heads": ("attention.head_count_kv", "attention.head_count"),
    "head_dim": ("attention.key_length",),
    "v_head_dim": ("attention.value_length_mla", "attention.value_length"),
    "intermediate_size": ("feed_forward_length",),
    "moe_intermediate_size": ("expert_feed_forward_length",),
    "num_experts": ("expert_count",),
    "num_experts_per_tok": ("expert_used_count",),
    "n_shared_experts": ("expert_shared_count",),
    "q_lora_rank": ("attention.q_lora_rank",),
    "kv_lora_rank": ("attention.kv_lora_rank",),
    "max_position_embeddings": ("context_length",),
    "vocab_size": ("vocab_size",),
    # Linear attention, which llama.cpp describes as a state space.
    "linear_num_key_heads": ("ssm.group_count",),
    "linear_key_head_dim": ("ssm.state_size",),
    "linear_num_value_heads": ("ssm.time_step_rank",),
}
_LATENT = ("attention.key_length_mla", "attention.key_length")

# What transformers calls an architecture, where its rows in the table of names ask for that.
MODEL_TYPES: Mapping[str, str] = {
    "qwen3next": "qwen3_next",
    "qwen35": "qwen3_5",
    "qwen35moe": "qwen3_5_moe",
    "minimax-01": "minimax",
}

# Architectures whose rows of q and k the converter reorders: rotary pairs stand side by side.
PERMUTED = (
    r"llama|llama-embed|eagle3|deci|deepseek|olmo|arctic|chameleon|llada|minicpm|internlm2"
    r"|bailingmoe|baichuan|xverse|granite|granitemoe|granitehybrid|graniteswitch|granite_swa|arcee"
    r"|smollm3|nanbeige|mistral3"
)
_PERMUTED_NOTE = (
    "llama.cpp's converter puts the rows of attn_q and attn_k of this architecture in another "
    "order than the Hugging Face checkpoint has: rotary pairs side by side. Spectra, ranks and "
    "statistics are the same; row numbers are not."
)
# Architectures whose norms the converter stores with 1 added, as llama.cpp applies them.
SHIFTED = (
    r"gemma|gemma2|gemma3|gemma-embedding|nemotron|plamo2|plamo3|qwen3next|qwen35(?:moe)?"
    r"|minimax-m3|step35|qwen4exp"
)
_SHIFTED_NOTE = (
    "llama.cpp's converter adds a constant to most norm weights of this architecture, which the "
    "Hugging Face checkpoint stores without it (1, in most cases): their means differ by that."
)
# Architectures with a state space, of which the converter stores -exp(A_log).
_STATE_SPACE_NOTE = (
    "ssm_a holds -exp(A_log), where the Hugging Face checkpoint holds A_log: its statistics differ."
)


def config_of(metadata: Mapping[str, Any], names: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """A configuration with the words of Hugging Face, as far as the metadata goes.

    Args:
        metadata: of the file, or of the first of a series.
        names: the shape of every tensor, by its name.
    """
    architecture = _text(metadata, "general.architecture")
    if not architecture:
        return {}
    if architecture == "clip":
        return _towers(metadata)
    config: dict[str, Any] = {"model_type": MODEL_TYPES.get(architecture, architecture)}
    config |= _numbers(metadata, architecture)
    config |= _latent(metadata, architecture, config)
    embedding = names.get("token_embd.weight", ())
    if len(embedding) == 2:
        config.setdefault("vocab_size", embedding[0])
        # llama.cpp leaves an output matrix out where it is the embedding.
        if "output_norm.weight" in names:
            config["tie_word_embeddings"] = "output.weight" not in names
    return config


def _numbers(metadata: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found = {}
    for word, keys in WORDS.items():
        for key in keys:
            value = metadata.get(f"{prefix}.{key}")
            if value is None:
                continue
            number = _uniform(value)
            if number is not None:
                found[word] = number
            break
    heads = found.get("linear_num_value_heads")
    inner = _uniform(metadata.get(f"{prefix}.ssm.inner_size"))
    if inner and heads and inner % heads == 0:
        found["linear_value_head_dim"] = inner // heads
    return found


def _latent(metadata: Mapping[str, Any], prefix: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The widths of multi-head latent attention: rotary and other keys, per head."""
    rope = _uniform(metadata.get(f"{prefix}.rope.dimension_count"))
    keys = next(
        (width for key in _LATENT if (width := _uniform(metadata.get(f"{prefix}.{key}")))), None
    )
    if not config.get("kv_lora_rank") or not rope:
        return {}
    found = {"qk_rope_head_dim": rope}
    if keys and keys > rope:
        found |= {"qk_nope_head_dim": keys - rope, "head_dim": keys}
    return found


def _towers(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Of a projector file: one configuration for each of its encoders."""
    config: dict[str, Any] = {"model_type": "clip"}
    for tower in ("vision", "audio"):
        numbers = _numbers(metadata, f"clip.{tower}")
        if numbers:
            config[f"{tower}_config"] = {"model_type": f"clip_{tower}_model", **numbers}
    return config


def _uniform(value: Any) -> int | None:
    """A number; of one number per layer the one that all layers have that have any."""
    if isinstance(value, list):
        values = {item for item in value if item}
        value = values.pop() if len(values) == 1 else None
    return value if type(value) is int and 0 < value < 2**40 else None


def _text(metadata: Mapping[str, Any], key: str) -> str:
    value = metadata.get(key)
    return value if isinstance(value, str) else ""


def notes_on(metadata: Mapping[str, Any], names: Mapping[str, Any]) -> tuple[str, ...]:
    """How the converter changed what the Hugging Face checkpoint stores, in sentences."""
    architecture = _text(metadata, "general.architecture")
    notes = []
    if re.fullmatch(PERMUTED, architecture):
        notes.append(_PERMUTED_NOTE)
    if re.fullmatch(SHIFTED, architecture):
        notes.append(_SHIFTED_NOTE)
    if any(name.endswith(".ssm_a") for name in names):
        notes.append(_STATE_SPACE_NOTE)
    return tuple(notes)
