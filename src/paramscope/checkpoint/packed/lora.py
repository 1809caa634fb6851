"""Low-rank adapters: two factors become the update of the weight that they adapt.

    ΔW = scale · B·A        B (out, r), A (r, in)
    ΔW = scale · B·diag(E)·A        in AdaLoRA; KaSA calls E `lora_diag`

A convolution's A is (r, in, k, …) and its B (out, r, 1, …): ΔW is (out, in, k, …). An embedding's
factors are those of its transpose, and so are all where the adapted weights have inputs first
(`fan_in_fan_out`). The scale comes from a tensor `alpha` beside the factors, as alpha / r, or from
`adapter_config.json`; where neither is there it is taken as 1, and the scheme says so.

An update is named after the weight it is added to, `<module>.weight`; where that name is taken, or
the file holds several adapters of the module, `<module>.lora.<adapter>.weight`.

Source: github.com/huggingface/peft: `get_delta_weight` in tuners/lora/layer.py and
tuners/adalora/layer.py; github.com/kohya-ss/sd-scripts: networks/lora.py for `lora_down`,
`lora_up` and `alpha`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from paramscope.checkpoint import (
    Factors,
    Float64,
    PackedTensor,
    ReadElements,
    StoredTensor,
    Window,
    packed_tensor,
)
from paramscope.checkpoint.packed.leftover import Leftover
from paramscope.checkpoint.packed.peft import AdapterConfig, config_of

# B's word in a name to A's, which stands in the same place.
_DOWN = {
    "lora_B": "lora_A",
    "lora_embedding_B": "lora_embedding_A",
    "lora_up": "lora_down",
    "lora.up": "lora.down",
}
_UP_NAME = re.compile(
    r"(?P<module>.+)\.(?P<word>lora_B|lora_embedding_B|lora_up|lora\.up)"
    r"(?P<tail>(?:\.(?P<adapter>(?!bias$|weight$)[^.]+))?(?:\.weight)?)",
    re.DOTALL,
)
_FACTOR_NAME = re.compile(r"(?:^|\.)(?:lora_(?:embedding_)?[AB]|lora[_.](?:up|down))(?:\.|$)")
_MIDDLES = ("lora_E", "lora_diag")
_MAGNITUDES = ("lora_magnitude_vector", "dora_scale")
# The product of two short factors may be larger than any weight is.
_MOST_ELEMENTS = 2**36


@dataclass(frozen=True, slots=True)
class _Pair:
    """The factors of one adapted module that fit together.

    Attributes:
        tail: what follows the word in the names of both.
        shape: of B·A.
        transposed: whether the weight is its transpose.
    """

    module: str
    adapter: str
    tail: str
    up: StoredTensor
    down: StoredTensor
    middle: StoredTensor | None
    shape: tuple[int, ...]
    transposed: bool

    @property
    def rank(self) -> int:
        return self.down.shape[0]


def find(leftover: Leftover) -> Iterator[PackedTensor]:
    """Updates whose two factors are there."""
    config_beside = _Remembered(leftover.read_json)
    pairs = list(_pairs(leftover, config_beside))
    adapters = Counter(pair.module for pair in pairs)
    taken, claimed = set(leftover.tensors), set[str]()
    for pair in pairs:
        name = f"{pair.module}.weight"
        if adapters[pair.module] > 1 or name in taken:
            name = ".".join(filter(None, (pair.module, "lora", pair.adapter, "weight")))
        alpha = leftover.get(f"{pair.module}.alpha")
        if adapters[pair.module] > 1 or alpha is None or alpha.numel != 1 or not _is_float(alpha):
            alpha = None
        parts = [part for part in (pair.up, pair.down, pair.middle, alpha) if part is not None]
        if name in taken or any(part.name in claimed for part in parts):
            continue
        taken.add(name)
        claimed.update(part.name for part in parts)
        scale = _scale(pair, alpha, config_beside(pair.up.file), leftover.read)
        yield _update(name, pair, tuple(parts), scale, rescaled=_is_rescaled(pair, leftover))


class _Remembered:
    """The configuration beside a weight file, read once."""

    def __init__(self, read_json: Callable[[str], Any]) -> None:
        self._read_json = read_json
        self._known: dict[str, AdapterConfig] = {}

    def __call__(self, file: str) -> AdapterConfig:
        if file not in self._known:
            self._known[file] = config_of(file, self._read_json)
        return self._known[file]


def _pairs(leftover: Leftover, config_beside: Callable[[str], AdapterConfig]) -> Iterator[_Pair]:
    for name, up in leftover.tensors.items():
        found = _UP_NAME.fullmatch(name)
        if found is None:
            continue
        module, word, tail = found["module"], found["word"], found["tail"]
        down = leftover.get(f"{module}.{_DOWN[word]}{tail}")
        config = config_beside(up.file)
        # CP decomposition puts a third factor between; it is not a product of two.
        if (
            down is None
            or not config.makes_products
            or f"{module}.lora_mid{tail}" in leftover.tensors
        ):
            continue
        shape = _shape_of_product(up, down)
        # The rows of A are those of all experts of a stack where they are not r.
        if shape is None or config.rank(module) not in (None, down.shape[0]):
            continue
        middle = _beside(module, tail, _MIDDLES, leftover)
        if middle is not None and (middle.numel != down.shape[0] or not _is_float(middle)):
            continue
        transposed = len(shape) == 2 and (config.inputs_first or word == "lora_embedding_B")
        yield _Pair(module, found["adapter"] or "", tail, up, down, middle, shape, transposed)


def _shape_of_product(up: StoredTensor, down: StoredTensor) -> tuple[int, ...] | None:
    """The shape of B·A; None where they do not fit."""
    shape = (*up.shape[:1], *down.shape[1:])
    fits = (
        2 <= len(up.shape) == len(down.shape)
        and up.shape[1] == down.shape[0] > 0
        and all(size == 1 for size in up.shape[2:])
        and 0 < math.prod(shape) <= _MOST_ELEMENTS
    )
    return shape if fits and _is_float(up) and _is_float(down) else None


def _is_float(tensor: StoredTensor) -> bool:
    return tensor.dtype.kind == "float"


def _beside(
    module: str, tail: str, words: Iterable[str], leftover: Leftover
) -> StoredTensor | None:
    """A parameter of the same adapter, which may or may not end in `.weight`."""
    bare = tail.removesuffix(".weight")
    names = (f"{module}.{word}{end}" for word in words for end in (bare, f"{bare}.weight"))
    return next((leftover.tensors[name] for name in names if name in leftover.tensors), None)


def _is_rescaled(pair: _Pair, leftover: Leftover) -> bool:
    return _beside(pair.module, pair.tail, _MAGNITUDES, leftover) is not None


def _scale(
    pair: _Pair, alpha: StoredTensor | None, config: AdapterConfig, read: ReadElements
) -> float | None:
    """What B·A is multiplied by; None where it is not known."""
    if alpha is None:
        return config.scale(pair.module, pair.rank)
    value = float(alpha.dtype.decode(read(alpha, 0, 1))[0])
    return value / pair.rank if math.isfinite(value) else None


def _update(
    name: str,
    pair: _Pair,
    parts: tuple[StoredTensor, ...],
    scale: float | None,
    *,
    rescaled: bool,
) -> PackedTensor:
    """The update of one module, and how its parts become it."""
    kind = "adalora" if pair.middle is not None and "lora_E" in pair.middle.name else "lora"
    notes = (
        f"{kind} r{pair.rank}",
        "scale not known" if scale is None else f"scale {scale:g}",
        "before DoRA" if rescaled else "",
    )
    shape = pair.shape[::-1] if pair.transposed else pair.shape
    factors = Factors(pair.rank, partial(_read_factors, pair, 1.0 if scale is None else scale))
    return packed_tensor(
        name,
        shape,
        parts,
        scheme=", ".join(filter(None, notes)),
        decode=partial(_decode, factors, shape),
        dtype="F64",
        factors=factors,
    )


@np.errstate(all="ignore")  # an overflow is Inf, and is counted
def _read_factors(pair: _Pair, scale: float, read: ReadElements) -> tuple[Float64, Float64]:
    """Both factors, the scale on the side of B, shapes (shape[0], r) and (r, numel / shape[0])."""
    up, down = (
        factor.dtype.decode(read(factor, 0, factor.numel)) for factor in (pair.up, pair.down)
    )
    left, right = up.reshape(-1, pair.rank) * scale, down.reshape(pair.rank, -1)
    if pair.middle is not None:
        left = left * pair.middle.dtype.decode(read(pair.middle, 0, pair.rank)).reshape(-1)
    return (right.T, left.T) if pair.transposed else (left, right)


@np.errstate(all="ignore")
def _decode(
    factors: Factors, shape: tuple[int, ...], read: ReadElements, window: Window
) -> Float64:
    """A window of the product; of a convolution, out of whole output channels."""
    left, right = factors.read(read)
    inner = math.prod(shape[1:-1])
    if inner == 1:
        return left[window.rows] @ right[:, window.columns]
    first, last = window.row_start // inner, -(-window.row_stop // inner)
    rows = (left[first:last] @ right).reshape(-1, shape[-1])
    start = window.row_start - first * inner
    return rows[start : start + window.shape[0], window.columns]


def adapter_notes(
    tensors: Iterable[StoredTensor], read_json: Callable[[str], Any]
) -> tuple[str, ...]:
    """What a user should know of a checkpoint that is an adapter, in sentences."""
    tensors = list(tensors)
    updates = [t for t in tensors if isinstance(t, PackedTensor) and t.factors is not None]
    factors = sum(1 for t in tensors if _FACTOR_NAME.search(t.name) and "bias" not in t.name)
    config = config_of(tensors[0].file, read_json) if tensors else AdapterConfig({})
    base = f" of {config.base_model!r:.120}" if config.base_model else ""
    notes = []
    if updates:
        notes.append(
            f"{len(updates)} rows are updates that a low-rank adapter{base} adds to the weights "
            "of the same names, and not these weights."
        )
    elif config.kind:
        notes.append(
            f"The tensors belong to an adapter{base} of the type {config.kind!r:.40}: they are "
            "measured as stored, and are not the weights that it changes."
        )
    if any("scale not known" in update.scheme for update in updates):
        notes.append(
            "The scale of some updates is not known, neither from an alpha beside their factors "
            "nor from adapter_config.json: it is taken as 1."
        )
    if any("before DoRA" in update.scheme for update in updates):
        notes.append(
            "The adapter uses DoRA: the updates are those before its magnitudes rescale the sum "
            "of weight and update."
        )
    if factors:
        notes.append(
            f"{factors} factors of low-rank adapters do not pair up to an update, and are "
            "measured as stored."
        )
    return tuple(notes)
