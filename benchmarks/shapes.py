"""Checkpoints of the shapes of known models, with random weights, written shard by shard."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

LAYERED = {
    # model: layers, hidden, q rows, kv rows, intermediate, vocabulary
    "qwen3-0.6b": (28, 1024, 2048, 1024, 3072, 151936),
    "qwen3-4b": (36, 2560, 4096, 1024, 9728, 151936),
}


EXPERTS = (58, 256, 128, 64)  # layers, experts, hidden, inner: as many as DeepSeek-V3 has, small
SHAPES = (*LAYERED, "experts")


def tensors_of(model: str, *, layers: int | None = None, vocabulary: bool = True) -> dict:
    """Name → shape."""
    if model == "experts":
        return _experts(layers)
    all_layers, hidden, q, kv, inner, vocab = LAYERED[model]
    shapes = {"model.embed_tokens.weight": (vocab, hidden)} if vocabulary else {}
    for layer in range(all_layers if layers is None else layers):
        at = f"model.layers.{layer}."
        shapes |= {
            at + "self_attn.q_proj.weight": (q, hidden),
            at + "self_attn.k_proj.weight": (kv, hidden),
            at + "self_attn.v_proj.weight": (kv, hidden),
            at + "self_attn.o_proj.weight": (hidden, q),
            at + "mlp.gate_proj.weight": (inner, hidden),
            at + "mlp.up_proj.weight": (inner, hidden),
            at + "mlp.down_proj.weight": (hidden, inner),
            at + "input_layernorm.weight": (hidden,),
            at + "post_attention_layernorm.weight": (hidden,),
        }
    return shapes | {"model.norm.weight": (hidden,)}


def _experts(layers: int | None) -> dict:
    all_layers, experts, hidden, inner = EXPERTS
    shapes = {}
    for layer in range(all_layers if layers is None else layers):
        for expert in range(experts):
            at = f"model.layers.{layer}.mlp.experts.{expert}."
            shapes[at + "gate_proj.weight"] = (inner, hidden)
            shapes[at + "up_proj.weight"] = (inner, hidden)
            shapes[at + "down_proj.weight"] = (hidden, inner)
    return shapes


def write_checkpoint(path: Path, shapes: dict) -> int:
    """One safetensors file of bf16 N(0, 0.02²) weights, tensor by tensor; its size in bytes."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        nbytes = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            remaining = int(np.prod(shape))
            while remaining:
                n = min(remaining, 2**22)
                x = rng.standard_normal(n, dtype=np.float32) * np.float32(0.02)
                file.write((x.view(np.uint32) >> 16).astype("<u2").tobytes())
                remaining -= n
    if hasattr(os, "sync"):
        os.sync()  # or the disk would be busy while something is timed
    return path.stat().st_size
