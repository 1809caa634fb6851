"""Layouts of fused tensors: how the output axis of one weight is shared by several matrices.

Every layout here is an instance of one: the axis reads as `groups` equal groups, each of which
holds `sizes` elements of piece 0, piece 1, …, in this order. One group is plain concatenation,
one group per head is what GPT-NeoX and BLOOM store, groups of sizes (1, 1) interleave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from paramscope.anatomy.config import Facts
from paramscope.anatomy.view import View

Axis = tuple[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Fused:
    """What a layout sees: the config, the fused axis' length, and the length of the other."""

    facts: Facts
    length: int
    inputs: int | None


@dataclass(frozen=True, slots=True)
class Layout:
    """A layout's pieces, in the order of storage, and how to size them.

    `measure` gives (groups, sizes); or None where, against its name, the tensor is not fused;
    or the reason, in words, why it cannot tell.
    """

    measure: Callable[[Fused], Axis | str | None]
    pieces: tuple[tuple[str, str], ...]


def cut(view: View, axis: int, groups: int, sizes: tuple[int, ...]) -> list[View]:
    """The pieces of one axis that reads as (groups, Σ sizes)."""
    if groups == 1:
        grouped, inner = view, axis
    else:
        grouped, inner = view.split(axis, groups, sum(sizes)), axis + 1
    pieces = []
    start = 0
    for size in sizes:
        pieces.append(grouped.take(inner, start, start + size))
        start += size
    return pieces


def equal_blocks(count: int) -> Callable[[Fused], Axis | str]:
    """`count` blocks of the same size, one after the other."""

    def measure(fused: Fused) -> Axis | str:
        if fused.length % count:
            return f"{fused.length} rows do not divide into {count} equal blocks"
        return 1, (fused.length // count,) * count

    return measure


def interleaved(fused: Fused) -> Axis | str:
    """Even rows are one piece, odd rows the other."""
    if fused.length % 2:
        return f"{fused.length} rows do not pair up"
    return fused.length // 2, (1, 1)


def gate_and_up_if_double(fused: Fused) -> Axis | None:
    """Gate, then up, where the axis is twice as long as the config says that one of them is."""
    half = fused.facts.number("intermediate_size")
    return (1, (half, half)) if half and fused.length == 2 * half else None


def qkv_blocks(fused: Fused) -> Axis | str:
    """All queries, then all keys, then all values: (H·d, G·d, G·d)."""
    facts, length = fused.facts, fused.length
    heads, groups, width = facts.heads, facts.groups, facts.own_head_dim
    if heads and groups and length % (heads + 2 * groups) == 0:
        fitting = length // (heads + 2 * groups)
        if width == fitting or (not width and facts.has_groups):
            return 1, (heads * fitting, groups * fitting, groups * fitting)
    if not width and not facts.has_groups and length == 3 * (fused.inputs or 0):
        return 1, (length // 3,) * 3
    return _does_not_fit(length, heads=heads, groups=groups, width=facts.head_dim)


def qkv_one_group(fused: Fused) -> Axis | str:
    """All queries, then one key and one value head: (H·d, d, d)."""
    heads = fused.facts.heads
    if not heads or fused.length % (heads + 2):
        return _does_not_fit(fused.length, heads=heads, groups=1, width=fused.facts.head_dim)
    width = fused.length // (heads + 2)
    return 1, (heads * width, width, width)


def qkv_per_head(fused: Fused) -> Axis | str:
    """Per head its query, key and value: H × (d, d, d)."""
    heads = fused.facts.heads
    if not heads or fused.length % (3 * heads):
        return _does_not_fit(fused.length, heads=heads, groups=heads, width=fused.facts.head_dim)
    return heads, (fused.length // (3 * heads),) * 3


def qkv_per_group(fused: Fused) -> Axis | str:
    """Per key-value head its queries, then its key and value: G × (H/G·d, d, d)."""
    heads, groups = fused.facts.heads, fused.facts.groups
    if not heads or not groups or heads % groups or fused.length % (heads + 2 * groups):
        return _does_not_fit(fused.length, heads=heads, groups=groups, width=fused.facts.head_dim)
    width = fused.length // (heads + 2 * groups)
    return groups, (heads // groups * width, width, width)


def qvk_per_shard(fused: Fused) -> Axis | str:
    """CodeGen: four tensor-parallel shards, each with its queries, values and keys."""
    if fused.length % 12:
        return f"{fused.length} rows do not divide into 4 shards of 3"
    return 4, (fused.length // 12,) * 3


def latent_and_rope(fused: Fused) -> Axis | str | None:
    """Key-value latent, then the rotary key that all heads share, where there is one."""
    rope = fused.facts.number("qk_rope_head_dim")
    latent = fused.facts.number("kv_lora_rank")
    if latent is None and rope is not None:
        latent = fused.length - rope
    if latent is None or not 0 <= latent <= fused.length:
        return f"{fused.length} rows; config gives kv_lora_rank={latent}, qk_rope_head_dim={rope}"
    return (1, (latent, fused.length - latent)) if latent < fused.length else None


def keys_and_values_per_head(fused: Fused) -> Axis | str:
    """Per head its keys without position, then its values: H × (d_nope, d_v).

    In a layer without rotary keys, their width is the keys' (Mistral Large 4); where layers
    differ in their number of heads, the width of a head gives it.
    """
    facts, length = fused.facts, fused.length
    heads, rope = facts.heads, facts.number("qk_rope_head_dim") or 0
    nope, values = facts.number("qk_nope_head_dim"), facts.number("v_head_dim")
    if heads and nope and values:
        for keys in (nope, nope + rope):
            if heads * (keys + values) == length:
                return heads, (keys, values)
    if nope and values and length % (nope + values) == 0:
        return length // (nope + values), (nope, values)
    return (
        f"{length} rows; config gives heads={heads}, qk_nope_head_dim={nope}, v_head_dim={values}"
    )


def query_and_gate_per_head(fused: Fused) -> Axis | str | None:
    """Per head its query and the gate of its output: H × (d, d)."""
    heads, width = fused.facts.heads, fused.facts.own_head_dim
    if heads and width and heads * width == fused.length:
        return None
    if not heads or fused.length % (2 * heads):
        return _does_not_fit(fused.length, heads=heads, groups=None, width=fused.facts.head_dim)
    return heads, (fused.length // (2 * heads),) * 2


def linear_qkvz_per_group(fused: Fused) -> Axis | str:
    """Qwen3-Next linear attention: per key head (d_k, d_k, r·d_v, r·d_v), r = H_v/H_k."""
    sizes = _linear_attention(fused.facts)
    if sizes is None:
        return "config gives no linear_num_key_heads, linear_key_head_dim, …"
    heads, keys, values = sizes
    if heads * (2 * keys + 2 * values) != fused.length:
        return f"{fused.length} rows are not {heads} x (2 x {keys} + 2 x {values})"
    return heads, (keys, keys, values, values)


def linear_qkv_blocks(fused: Fused) -> Axis | str:
    """Linear attention: all queries, then all keys, then all values."""
    sizes = _linear_attention(fused.facts)
    if sizes is None:
        return "config gives no linear_num_key_heads, linear_key_head_dim, …"
    heads, keys, values = sizes
    if heads * (2 * keys + values) != fused.length:
        return f"{fused.length} rows are not {heads} x (2 x {keys} + {values})"
    return 1, (heads * keys, heads * keys, heads * values)


def _linear_attention(facts: Facts) -> tuple[int, int, int] | None:
    heads, keys = facts.number("linear_num_key_heads"), facts.number("linear_key_head_dim")
    value_heads = facts.number("linear_num_value_heads")
    values = facts.number("linear_value_head_dim")
    if not (heads and keys and value_heads and values) or value_heads % heads:
        return None
    return heads, keys, value_heads // heads * values


def _does_not_fit(length: int, *, heads: int | None, groups: int | None, width: int | None) -> str:
    known = {"heads": heads, "key-value heads": groups, "head size": width}
    missing = [name for name, value in known.items() if not value]
    if missing:
        return f"{length} rows; config gives no {', '.join(missing)}"
    return f"{length} rows do not fit {heads} heads, {groups} key-value heads of {width}"


_QKV = (("q", "attn.q"), ("k", "attn.k"), ("v", "attn.v"))
_GATE_UP = (("gate", "mlp.gate"), ("up", "mlp.up"))

LAYOUTS: Mapping[str, Layout] = {
    "qkv_blocks": Layout(qkv_blocks, _QKV),
    "qkv_thirds": Layout(equal_blocks(3), _QKV),
    "qkv_one_group": Layout(qkv_one_group, _QKV),
    "qkv_per_head": Layout(qkv_per_head, _QKV),
    "qkv_per_group": Layout(qkv_per_group, _QKV),
    "qvk_per_shard": Layout(qvk_per_shard, (_QKV[0], _QKV[2], _QKV[1])),
    "kv_halves": Layout(equal_blocks(2), _QKV[1:]),
    "qk_halves": Layout(equal_blocks(2), _QKV[:2]),
    "q_gate_per_head": Layout(query_and_gate_per_head, (_QKV[0], ("gate", "attn.gate"))),
    "gate_qkv_blocks": Layout(equal_blocks(4), (("gate", "attn.gate"), *_QKV)),
    "latent_rope": Layout(latent_and_rope, (("latent", "attn.kv_a"), ("rope", "attn.k_rope"))),
    "kv_per_head": Layout(keys_and_values_per_head, (("k", "attn.k_b"), ("v", "attn.v_b"))),
    "linear_qkvz_per_group": Layout(linear_qkvz_per_group, (*_QKV, ("z", "attn.gate"))),
    "linear_qkv_blocks": Layout(linear_qkv_blocks, _QKV),
    "gate_up_halves": Layout(equal_blocks(2), _GATE_UP),
    "gate_up_if_double": Layout(gate_and_up_if_double, _GATE_UP),
    "up_gate_halves": Layout(equal_blocks(2), _GATE_UP[::-1]),
    "gate_up_interleaved": Layout(interleaved, _GATE_UP),
}
