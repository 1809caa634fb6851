"""Integer codes with a scale and a zero point per group of inputs: what GPTQ and AWQ share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from paramscope.checkpoint import Float32, ReadElements, StoredTensor, Window
from paramscope.checkpoint.packed.bits import Small
from paramscope.checkpoint.packed.leftover import Leftover

FLOATS = ("F16", "BF16", "F32")
AT_ONCE = 2**20  # elements: what is decoded in one step stays small beside the window


# What auto-round writes, by `packing_format`: the method and format of which it is the layout.
_AUTO_ROUND = {
    "auto_round:auto_gptq": {"quant_method": "gptq", "checkpoint_format": "gptq"},
    "auto_round:gptq": {"quant_method": "gptq", "checkpoint_format": "gptq"},
    "auto_round:gptqmodel": {"quant_method": "gptq", "checkpoint_format": "gptq_v2"},
    "auto_round:auto_awq": {"quant_method": "awq", "version": "gemm"},
    "auto_round:awq": {"quant_method": "awq", "version": "gemm"},
}


def method_of(config: Mapping[str, Any]) -> str:
    """The configuration's `quant_method`, in lower case; empty where it gives none."""
    method = config.get("quant_method")
    return method.lower() if isinstance(method, str) else ""


def settings_of(leftover: Leftover, *files: str) -> Mapping[str, Any]:
    """`quantization_config`, or else the first of these files, as older libraries wrote them.

    What auto-round writes in the layout of another library is told in that library's words.

    Source: `inference/convert_model.py` and `backend.py` of github.com/intel/auto-round.
    """
    settings = leftover.quantization
    if settings:
        packing = str(settings.get("packing_format")).lower()
        is_auto_round = method_of(settings) in ("auto-round", "intel/auto-round")
        layout = _AUTO_ROUND.get(packing) if is_auto_round else None
        # `extra_config` gives layers settings of their own, as GPTQ's `dynamic` does.
        own = {"dynamic": settings.get("extra_config")}
        return {**settings, **own, **layout} if layout else settings
    for file in files:
        settings = leftover.read_json(file)
        if isinstance(settings, dict):
            return settings
    return {}


def whole(settings: Mapping[str, Any], *keys: str) -> int | None:
    """The first of these settings that is a whole number."""
    for key in keys:
        value = settings.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def found(tensor: StoredTensor | None) -> str:
    """A tensor's dtype and shape, for messages."""
    return "none" if tensor is None else f"{tensor.dtype.name} {tensor.shape}"


def floats(read: ReadElements, tensor: StoredTensor) -> Float32:
    """All of a tensor of 16- or 32-bit floats, exactly, in its shape."""
    with np.errstate(all="ignore"):  # NaN may be of the signalling kind
        values = tensor.dtype.decode(read(tensor, 0, tensor.numel)).astype(np.float32)
    return values.reshape(tensor.shape)


def decode_by_inputs(
    window: Window,
    groups: npt.NDArray[np.intp],
    zeros: Float32,
    scales: Float32,
    codes: Callable[[int, int], Small],
    align: int,
) -> Float32:
    """A window of W, whose codes lie by inputs, a few inputs at a time.

        W[o, i] = (q[i, o] − zeros[g(i), o]) · scales[g(i), o]

    The difference is a small integer, and its product with a 16-bit scale exact in float32, so
    that rounding it to 16 bits gives what the libraries compute in 16 bits.

    Args:
        groups: g of the window's inputs, shape (columns,).
        zeros: of all groups, for the window's outputs, shape (groups, rows).
        scales: the same.
        codes: gives q of the inputs `start … stop`, shape (stop − start, rows).
        align: `start` is a multiple of this many inputs.

    Returns:
        Shape `window.shape`.
    """
    rows = window.shape[0]
    values = np.empty(window.shape, np.float32)
    step = max(1, AT_ONCE // max(1, rows) // align) * align
    first = window.column_start // align * align
    for block in range(first, window.column_stop, step):
        start, stop = max(block, window.column_start), min(block + step, window.column_stop)
        part = codes(block, stop)[start - block :].astype(np.float32)
        here = slice(start - window.column_start, stop - window.column_start)
        part -= zeros[groups[here]]
        with np.errstate(all="ignore"):  # scales may be Inf
            part *= scales[groups[here]]
        values[:, here] = part.T
    return values
