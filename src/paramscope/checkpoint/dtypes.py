"""What the bytes of a stored dtype mean: one row per dtype, by its safetensors name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[Any]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Dtype:
    """A stored dtype.

    `code` is the numpy dtype that holds one element as stored, little-endian. `kind` says what
    the elements are: "float" weights, "packed" codes that mean nothing without their scales,
    "integer" indices and masks, or "unknown".
    """

    name: str
    bits: int
    code: str
    kind: str
    decode_codes: Callable[[Codes], Values] | None = None

    @property
    def countable(self) -> bool:
        """Whether there are few enough codes (65,536 at most) to count each of them."""
        return self.decode_codes is not None

    def values(self) -> Values:
        """The value of every code, shape (2**bits,), float64; index it with codes."""
        return _values(self)

    def decode(self, codes: Codes) -> Values:
        """Codes to float64, exactly; shape and memory order are kept."""
        if self.decode_codes is None:
            return codes.astype(np.float64)
        if self.bits > 8:  # a table of 65,536 values does not stay in the cache
            with np.errstate(invalid="ignore"):  # signalling NaNs
                return self.decode_codes(codes)
        if codes.ndim == 2 and codes.strides[0] < codes.strides[1]:
            # `take` would read across memory
            return np.asarray(self.values().take(codes.T, mode="clip").T)
        return np.asarray(self.values().take(codes, mode="clip"))


@cache
def _values(dtype: Dtype) -> Values:
    if dtype.decode_codes is None:
        raise ValueError(f"{dtype.name} has too many codes to list")
    codes = np.arange(2**dtype.bits, dtype=f"<u{dtype.bits // 8}")
    with np.errstate(all="ignore"):
        values = dtype.decode_codes(codes)
    values.flags.writeable = False
    return values


def _bfloat16(codes: Codes) -> Values:
    wide = codes.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32).astype(np.float64)


def _viewed_as(code: str) -> Callable[[Codes], Values]:
    return lambda codes: codes.view(code).astype(np.float64)


def _minifloat(
    *, exponent_bits: int, bias: int, infinities: bool, finite_nan: frozenset[int]
) -> Callable[[Codes], Values]:
    """An 8-bit float: sign, exponent, mantissa.

    `infinities`: the top exponent means Inf and NaN, as in IEEE 754. `finite_nan`: the codes
    that mean NaN where it does not. Source: OCP 8-bit floating point (OFP8) rev. 1.0;
    arXiv:2209.05433; arXiv:2206.02915 for the FNUZ variants.
    """
    mantissa_bits = 7 - exponent_bits

    def decode(codes: Codes) -> Values:
        bits = codes.astype(np.int64)
        exponent = (bits >> mantissa_bits) & (2**exponent_bits - 1)
        fraction = (bits & (2**mantissa_bits - 1)) / 2.0**mantissa_bits
        normal = np.ldexp(1.0 + fraction, exponent - bias)
        values = np.where(exponent == 0, np.ldexp(fraction, 1 - bias), normal)
        if infinities:
            special = np.where(fraction == 0.0, np.inf, np.nan)
            values = np.where(exponent == 2**exponent_bits - 1, special, values)
        values = np.where(bits & 0x80, -values, values)
        nan_codes = np.fromiter(finite_nan, dtype=np.int64, count=len(finite_nan))
        return np.where(np.isin(bits, nan_codes), np.nan, values)

    return decode


def _power_of_two(codes: Codes) -> Values:
    """E8M0: 2**(code - 127), 255 is NaN. Source: OCP Microscaling formats v1.0."""
    values = np.ldexp(1.0, codes.astype(np.int64) - 127)
    return np.where(codes == 255, np.nan, values)


_OCP_NAN = frozenset({0x7F, 0xFF})
_FNUZ_NAN = frozenset({0x80})

DTYPES: dict[str, Dtype] = {
    row.name: row
    for row in (
        Dtype("F64", 64, "<f8", "float"),
        Dtype("F32", 32, "<f4", "float"),
        Dtype("F16", 16, "<u2", "float", _viewed_as("<f2")),
        Dtype("BF16", 16, "<u2", "float", _bfloat16),
        Dtype(
            "F8_E4M3",
            8,
            "u1",
            "packed",
            _minifloat(exponent_bits=4, bias=7, infinities=False, finite_nan=_OCP_NAN),
        ),
        Dtype(
            "F8_E5M2",
            8,
            "u1",
            "packed",
            _minifloat(exponent_bits=5, bias=15, infinities=True, finite_nan=frozenset()),
        ),
        Dtype(
            "F8_E4M3FNUZ",
            8,
            "u1",
            "packed",
            _minifloat(exponent_bits=4, bias=8, infinities=False, finite_nan=_FNUZ_NAN),
        ),
        Dtype(
            "F8_E5M2FNUZ",
            8,
            "u1",
            "packed",
            _minifloat(exponent_bits=5, bias=16, infinities=False, finite_nan=_FNUZ_NAN),
        ),
        Dtype("F8_E8M0", 8, "u1", "packed", _power_of_two),
        Dtype("I64", 64, "<i8", "integer"),
        Dtype("U64", 64, "<u8", "integer"),
        Dtype("I32", 32, "<i4", "integer"),
        Dtype("U32", 32, "<u4", "integer"),
        Dtype("I16", 16, "<u2", "integer", _viewed_as("<i2")),
        Dtype("U16", 16, "<u2", "integer", _viewed_as("<u2")),
        Dtype("I8", 8, "u1", "integer", _viewed_as("i1")),
        Dtype("U8", 8, "u1", "integer", _viewed_as("u1")),
        Dtype("BOOL", 8, "u1", "integer", _viewed_as("u1")),
        # Known so that their bytes are counted; what they hold is not read as weights.
        Dtype("C64", 64, "<c8", "unknown"),
        Dtype("F4", 4, "u1", "packed"),
        Dtype("F6_E2M3", 6, "u1", "packed"),
        Dtype("F6_E3M2", 6, "u1", "packed"),
    )
}
