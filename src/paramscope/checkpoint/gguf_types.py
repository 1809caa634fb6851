"""The element types of GGUF: how many bytes a row takes, and what its blocks decode to.

A row is cut into blocks of `block` elements, each stored in `nbytes` bytes: codes with their
scales. Plain types have blocks of one element.

Source: `ggml_type` and its traits in ggml (ggml.h, ggml.c of github.com/ggml-org/ggml).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from paramscope.checkpoint import Float32
from paramscope.checkpoint.dtypes import DTYPES, Codes, Dtype

_ELEMENTS_AT_ONCE = 2**20


@dataclass(frozen=True, slots=True)
class GgmlType:
    """One row of ggml's table of types.

    Attributes:
        block: elements of a block.
        nbytes: bytes of a block; 0 where they are not known.
        plain: the key of `DTYPES` whose elements these are; empty where they are blocks of codes.
        refusal: why the codes cannot be decoded; empty where they can.
    """

    name: str
    block: int
    nbytes: int
    plain: str = ""
    refusal: str = ""

    @property
    def dtype(self) -> Dtype:
        """What the file holds: numbers, or bytes of blocks under the type's own name."""
        return DTYPES[self.plain] if self.plain else Dtype(self.name, 8, "u1", "packed")


_REMOVED = "was removed from ggml: convert the model again"
_NO_DECODER = "codes for which the gguf library has no decoder"

TYPES: dict[int, GgmlType] = {
    0: GgmlType("F32", 1, 4, plain="F32"),
    1: GgmlType("F16", 1, 2, plain="F16"),
    2: GgmlType("Q4_0", 32, 18),
    3: GgmlType("Q4_1", 32, 20),
    4: GgmlType("Q4_2", 16, 10, refusal=f"Q4_2 {_REMOVED}"),
    5: GgmlType("Q4_3", 16, 12, refusal=f"Q4_3 {_REMOVED}"),
    6: GgmlType("Q5_0", 32, 22),
    7: GgmlType("Q5_1", 32, 24),
    8: GgmlType("Q8_0", 32, 34),
    9: GgmlType("Q8_1", 32, 40, refusal=f"Q8_1 {_NO_DECODER}"),
    10: GgmlType("Q2_K", 256, 84),
    11: GgmlType("Q3_K", 256, 110),
    12: GgmlType("Q4_K", 256, 144),
    13: GgmlType("Q5_K", 256, 176),
    14: GgmlType("Q6_K", 256, 210),
    15: GgmlType("Q8_K", 256, 292, refusal=f"Q8_K {_NO_DECODER}"),
    16: GgmlType("IQ2_XXS", 256, 66),
    17: GgmlType("IQ2_XS", 256, 74),
    18: GgmlType("IQ3_XXS", 256, 98),
    19: GgmlType("IQ1_S", 256, 50),
    20: GgmlType("IQ4_NL", 32, 18),
    21: GgmlType("IQ3_S", 256, 110),
    22: GgmlType("IQ2_S", 256, 82),
    23: GgmlType("IQ4_XS", 256, 136),
    24: GgmlType("I8", 1, 1, plain="I8"),
    25: GgmlType("I16", 1, 2, plain="I16"),
    26: GgmlType("I32", 1, 4, plain="I32"),
    27: GgmlType("I64", 1, 8, plain="I64"),
    28: GgmlType("F64", 1, 8, plain="F64"),
    29: GgmlType("IQ1_M", 256, 56),
    30: GgmlType("BF16", 1, 2, plain="BF16"),
    31: GgmlType("Q4_0_4_4", 32, 18, refusal=f"Q4_0_4_4 {_REMOVED}"),
    32: GgmlType("Q4_0_4_8", 32, 18, refusal=f"Q4_0_4_8 {_REMOVED}"),
    33: GgmlType("Q4_0_8_8", 32, 18, refusal=f"Q4_0_8_8 {_REMOVED}"),
    34: GgmlType("TQ1_0", 256, 54),
    35: GgmlType("TQ2_0", 256, 66),
    36: GgmlType("IQ4_NL_4_4", 32, 18, refusal=f"IQ4_NL_4_4 {_REMOVED}"),
    37: GgmlType("IQ4_NL_4_8", 32, 18, refusal=f"IQ4_NL_4_8 {_REMOVED}"),
    38: GgmlType("IQ4_NL_8_8", 32, 18, refusal=f"IQ4_NL_8_8 {_REMOVED}"),
    39: GgmlType("MXFP4", 32, 17),
    40: GgmlType("NVFP4", 64, 36),
    41: GgmlType("Q1_0", 128, 18, refusal=f"Q1_0 {_NO_DECODER}"),
    42: GgmlType("Q2_0", 64, 18, refusal=f"Q2_0 {_NO_DECODER}"),
}


def type_of(number: int) -> GgmlType:
    """The row of the table; a type that is not in it is refused, its size unknown."""
    known = TYPES.get(number)
    return known or GgmlType(f"ggml {number}", 1, 0, refusal=f"ggml type {number} is not known")


def decode_columns(codes: Codes, kind: GgmlType, start: int, stop: int) -> Float32:
    """Columns `start … stop` of rows of blocks, as the gguf library decodes them.

    Args:
        codes: shape (rows, bytes per row), uint8.

    Returns:
        Shape (rows, stop - start), float32.
    """
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    qtype = GGMLQuantizationType[kind.name]
    first, last = start // kind.block, -(-stop // kind.block)
    blocks = codes[:, first * kind.nbytes : last * kind.nbytes]
    within = slice(start - first * kind.block, stop - first * kind.block)
    values = np.empty((len(codes), stop - start), np.float32)
    if not values.size:
        return values
    step = max(1, _ELEMENTS_AT_ONCE // ((last - first) * kind.block))
    with np.errstate(all="ignore"):  # scales may be Inf or NaN: their values are counted as such
        for row in range(0, len(codes), step):
            some = np.ascontiguousarray(blocks[row : row + step])
            values[row : row + step] = dequantize(some, qtype)[:, within]
    return values
