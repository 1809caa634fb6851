"""The roles: what a matrix does in the model, and the coarser block type that users see.

One row per role, in the order in which people read them. A name that is not here is not a role;
`names.py` and `split.py` give out these and no others.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Role:
    """A role's name, its block type, and what it means in one line."""

    name: str
    block_type: str
    meaning: str


BLOCK_TYPES = (
    "embedding",
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "mlp",
    "moe",
    "norm",
    "output",
    "bias",
    "buffer",
    "other",
)

ROLES: dict[str, Role] = {
    role.name: role
    for role in (
        Role("embed.token", "embedding", "token embedding: one row per token of the vocabulary"),
        Role("embed.position", "embedding", "learned position embedding"),
        Role("embed.type", "embedding", "token-type (segment) embedding"),
        Role("embed.relative", "embedding", "learned embedding, or bias, per relative position"),
        Role("embed.patch", "embedding", "patch or frame embedding of an image or audio tower"),
        Role("embed.other", "embedding", "another learned embedding: class token, per-layer, …"),
        Role("attn.q", "q_proj", "query projection"),
        Role("attn.k", "k_proj", "key projection"),
        Role("attn.v", "v_proj", "value projection"),
        Role("attn.o", "o_proj", "output projection of attention"),
        Role("attn.q_a", "q_proj", "multi-head latent attention: input to query latent"),
        Role("attn.q_b", "q_proj", "multi-head latent attention: query latent to queries"),
        Role("attn.kv_a", "k_proj", "multi-head latent attention: input to key-value latent"),
        Role("attn.k_rope", "k_proj", "multi-head latent attention: input to the rotary key"),
        Role("attn.k_b", "k_proj", "multi-head latent attention: latent to keys"),
        Role("attn.v_b", "v_proj", "multi-head latent attention: latent to values"),
        Role("attn.kv", "k_proj", "keys and values in one matrix: shared, or not split"),
        Role(
            "attn.kv_b",
            "k_proj",
            "multi-head latent attention: latent to keys and values, not split",
        ),
        Role("attn.pos", "k_proj", "relative positions to keys"),
        Role(
            "attn.index", "other", "indexer of sparse attention: weights of its heads, compression"
        ),
        Role("attn.index.q", "q_proj", "indexer of sparse attention: queries"),
        Role("attn.index.k", "k_proj", "indexer of sparse attention: keys"),
        Role("attn.sampling", "other", "deformable attention: where to look, and how much"),
        Role("attn.qkv", "other", "fused query, key and value that could not be split"),
        Role("attn.gate", "other", "gate on the output of attention"),
        Role("attn.bias", "bias", "added to attention scores: sinks, content and position biases"),
        Role("cross_attn.q", "q_proj", "query projection of cross-attention"),
        Role("cross_attn.k", "k_proj", "key projection of cross-attention"),
        Role("cross_attn.v", "v_proj", "value projection of cross-attention"),
        Role("cross_attn.kv", "k_proj", "keys and values of cross-attention, not split"),
        Role("cross_attn.qkv", "other", "fused cross-attention that could not be split"),
        Role("cross_attn.o", "o_proj", "output projection of cross-attention"),
        Role("mlp.gate", "mlp", "gate projection of a gated MLP"),
        Role("mlp.up", "mlp", "up projection of an MLP, or its only input projection"),
        Role("mlp.gate_up", "mlp", "fused gate and up projection that could not be split"),
        Role("mlp.down", "mlp", "down projection of an MLP"),
        Role("adapter", "mlp", "low-rank adapter of an MLP that several layers share"),
        Role("moe.router", "moe", "router: scores of the experts"),
        Role("moe.expert.gate", "moe", "gate projection of one expert"),
        Role("moe.expert.up", "moe", "up projection of one expert"),
        Role("moe.expert.gate_up", "moe", "fused gate and up of one expert, not split"),
        Role("moe.expert.down", "moe", "down projection of one expert"),
        Role("moe.shared.gate", "moe", "gate projection of a shared expert"),
        Role("moe.shared.up", "moe", "up projection of a shared expert"),
        Role("moe.shared.gate_up", "moe", "fused gate and up of a shared expert, not split"),
        Role("moe.shared.down", "moe", "down projection of a shared expert"),
        Role("moe.shared.router", "moe", "gate on the output of a shared expert"),
        Role("ssm", "other", "state-space or linear-attention mixer: a matrix of its recurrence"),
        Role("rnn", "other", "LSTM or GRU"),
        Role("residual", "other", "mixing of residual streams: hyper-connections, AltUp, LAuReL"),
        Role("per_layer", "other", "gate or projection of per-layer embeddings (Gemma 3n, 4)"),
        Role("mtp", "other", "multi-token prediction: joins hidden state and next embedding"),
        Role("conv", "other", "convolution inside a block"),
        Role("norm", "norm", "normalisation: scale or shift"),
        Role("output", "output", "output head: hidden state to vocabulary, or another task's head"),
        Role("pooler", "other", "pooler or projection after the last layer"),
        Role("projector", "other", "from one width to another: between towers, after an embedding"),
        Role("scale", "other", "learned scale: layer scale, residual multiplier, temperature"),
        Role("bias", "bias", "additive bias of a projection"),
        Role("packing", "buffer", "scales, zero points and index tables of packed weights"),
        Role("buffer", "buffer", "not trained: masks, position ids, rotary tables, statistics"),
        Role("other", "other", "none of these"),
    )
}

_PLACES = {name: place for place, name in enumerate(ROLES)}


def role_order(name: str) -> int:
    """A key to sort by: the order above, in which q comes before k; unknown names last."""
    return _PLACES.get(name, len(_PLACES))
