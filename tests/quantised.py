"""Layers as GPTQ, AWQ, bitsandbytes and MLX store them, and what their libraries decode them to.

MLX and bitsandbytes write and decode themselves, on the CPU. For GPTQ and AWQ the layout that
GPTQModel 7.7.0 and AutoAWQ 0.2.9 write is spelled out here, a code at a time.
"""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

Stored = dict[str, torch.Tensor]

NAME = "model.layers.0.self_attn.q_proj"
WEIGHT = f"{NAME}.weight"
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def library(name: str) -> ModuleType:
    """A library that writes such checkpoints; where it is not, the test is skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError:
            pytest.skip(f"needs {name}")


def packed_down(codes: np.ndarray, bits: int) -> torch.Tensor:
    """Codes (n, m) as a stream of bits down each column, in 32-bit words (⌈n·bits/32⌉, m)."""
    planes = (codes[:, None, :] >> np.arange(bits)[None, :, None]) & 1
    stream = planes.reshape(-1, codes.shape[1]).astype(np.uint8)
    stream = np.pad(stream, ((0, -len(stream) % 32), (0, 0)))
    data = np.ascontiguousarray(np.packbits(stream, axis=0, bitorder="little").T)
    return torch.from_numpy(data.view("<i4").T.copy())


def gptq(
    *,
    name: str = NAME,
    bits: int = 4,
    shape: tuple[int, int] = (64, 96),
    group: int = 32,
    offset: int = 1,
    shuffled: bool = False,
    dtype: torch.dtype = torch.float16,
    index: bool = True,
    seed: int = 0,
) -> tuple[Stored, torch.Tensor, torch.Tensor]:
    """A layer's tensors, what the library's kernel makes of them, scale · (q − z), and exactly."""
    rng = np.random.default_rng(seed)
    outputs, inputs = shape
    size = inputs if group == -1 else group
    groups = np.arange(inputs) // size
    if shuffled:
        groups = rng.permutation(groups)
    codes = rng.integers(0, 2**bits, (inputs, outputs))
    zeros = rng.integers(offset, 2**bits, (-(-inputs // size), outputs))
    scales = torch.from_numpy(rng.random(zeros.shape) + 0.5).to(dtype)
    tensors = {
        f"{name}.qweight": packed_down(codes, bits),
        f"{name}.qzeros": packed_down((zeros - offset).T, bits).T,
        f"{name}.scales": scales,
    }
    if index:
        tensors[f"{name}.g_idx"] = torch.from_numpy(groups.astype(np.int32))
    difference = torch.from_numpy((codes - zeros[groups]).astype(np.int16))
    factors = scales[torch.from_numpy(groups)]
    return tensors, (factors * difference).T, (factors.float() * difference).T


def words(codes: np.ndarray, order: tuple[int, ...]) -> torch.Tensor:
    """Codes (n, 8·m) as words (n, m): place i of a word holds the code number order[i] of it."""
    eights = codes.reshape(len(codes), -1, 8).astype(np.int64)
    packed = sum(eights[:, :, number] << (4 * place) for place, number in enumerate(order))
    return torch.from_numpy(packed.astype(np.uint32).view(np.int32))


def awq(
    *,
    name: str = NAME,
    shape: tuple[int, int] = (72, 128),
    group: int = 32,
    gemv: bool = False,
) -> tuple[Stored, torch.Tensor, torch.Tensor]:
    """A layer's tensors, what the library's kernel makes of them, (q − z) · scale, and exactly."""
    rng = np.random.default_rng(0)
    outputs, inputs = shape
    size = inputs if group == -1 else group
    codes = rng.integers(0, 16, (inputs, outputs))
    zeros = rng.integers(0, 16, (inputs // size, outputs))
    scales = torch.from_numpy(rng.random(zeros.shape) + 0.5).half()
    groups = np.arange(inputs) // size
    difference = torch.from_numpy(codes - zeros[groups])
    expected, exact = (difference * scales[groups]).T, (difference * scales[groups].float()).T
    if gemv:
        multiple = {64: 2, 32: 4}.get(size, 1)
        width = -(-len(zeros) // (8 * multiple)) * 8 * multiple
        wide = np.pad(zeros.T, ((0, 0), (0, width - len(zeros))))
        scales = torch.nn.functional.pad(scales.T, (0, width - len(zeros)))
        parts = (words(codes.T, tuple(range(8))), words(wide, tuple(range(8))), scales)
    else:
        parts = (words(codes, _AWQ_ORDER), words(zeros, _AWQ_ORDER), scales)
    endings = ("qweight", "qzeros", "scales")
    tensors = {f"{name}.{end}": part for end, part in zip(endings, parts, strict=True)}
    return tensors, expected, exact


def bnb_4bit(
    *,
    kind: str = "nf4",
    block: int = 64,
    nested: bool = False,
    shape: tuple[int, ...] = (60, 128),
    storage: torch.dtype = torch.uint8,
    dtype: torch.dtype = torch.float32,
    name: str = WEIGHT,
) -> tuple[Stored, torch.Tensor]:
    """What the library stores of a random weight, and what it decodes that to."""
    bnb = library("bitsandbytes")
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    codes, state = bnb.functional.quantize_4bit(
        weight, blocksize=block, quant_type=kind, compress_statistics=nested, quant_storage=storage
    )
    parts = {f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}
    if shape[-1] < block:  # the CPU kernel of 0.50.2 is wrong then, but not in one row
        state.shape = torch.Size([1, weight.numel()])
    return {name: codes, **parts}, bnb.functional.dequantize_4bit(codes, state).reshape(shape)


def bnb_8bit(name: str = WEIGHT) -> tuple[Stored, torch.Tensor]:
    """The same in 8 bits."""
    bnb = library("bitsandbytes")
    weight = torch.randn(48, 80, generator=torch.Generator().manual_seed(0))
    codes, scales, _ = bnb.functional.int8_vectorwise_quant(weight.half())
    stem = name.removesuffix("weight")
    parts = {f"{stem}SCB": scales, f"{stem}weight_format": torch.tensor(0, dtype=torch.uint8)}
    return {name: codes, **parts}, bnb.functional.int8_vectorwise_dequant(codes, scales)


def _to_torch(array: Any, mx: ModuleType) -> torch.Tensor:
    """The same bits in torch."""
    name = str(array.dtype).removeprefix("mlx.core.")
    if name == "bfloat16":
        return torch.from_numpy(np.array(array.view(mx.uint16))).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def mlx(
    *,
    bits: int = 4,
    group: int = 64,
    mode: str = "affine",
    dtype: str = "bfloat16",
    shape: tuple[int, ...] = (40, 256),
    name: str = NAME,
) -> tuple[Stored, torch.Tensor]:
    """What MLX stores of a random weight, and what it decodes that to."""
    mx = library("mlx.core")
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    array = mx.array(weight).astype(getattr(mx, dtype))
    how: dict[str, Any] = {"group_size": group, "bits": bits, "mode": mode}
    parts = mx.quantize(array, **how)
    decoded = mx.dequantize(*parts, **how)
    endings = ("weight", "scales", "biases")
    stored = {
        f"{name}.{end}": _to_torch(part, mx) for end, part in zip(endings, parts, strict=False)
    }
    return stored, _to_torch(decoded, mx)
