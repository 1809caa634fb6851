"""Where Gram matrices are built and solved: one small interface, the CPU's side of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

from paramscope.checkpoint.dtypes import Codes, Dtype
from paramscope.measure.spectrum import Float64, add_gram, eigenvalues_of_gram


class Gram(Protocol):
    """The Gram matrix of a matrix that arrives by blocks of rows."""

    def add(self, codes: Codes, dtype: Dtype) -> None:
        """Take in a block of rows, shape (b, k), as codes.

        Raises:
            GpuFullError: the device has no room for it.
            GpuError: the device cannot do it.
        """


AnyGram = TypeVar("AnyGram", bound=Gram)


class Device(Protocol[AnyGram]):
    """Builds Gram matrices and finds their eigenvalues."""

    def empty(self, k: int) -> AnyGram:
        """A k×k matrix of zeros. Raises as `Gram.add` does."""

    def eigenvalues(self, grams: Sequence[AnyGram]) -> list[Float64]:
        """All k eigenvalues of each, descending, for matrices of one size that `empty` made.

        Raises as `Gram.add` does.
        """


class GpuError(Exception):
    """A GPU gave up on a matrix; the CPU takes it over."""


class GpuFullError(GpuError):
    """A GPU is out of memory."""


class CpuGram:
    """Float64 in the main memory, the products by BLAS through numpy."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._gram: Float64 | None = None

    def add(self, codes: Codes, dtype: Dtype) -> None:
        self._gram = add_gram(self._gram, dtype.decode(codes))

    def matrix(self) -> Float64:
        """The sum so far; its upper triangle at least."""
        return np.zeros((self._k, self._k)) if self._gram is None else self._gram


class Cpu:
    """The cores; LAPACK through numpy."""

    def empty(self, k: int) -> CpuGram:
        return CpuGram(k)

    def eigenvalues(self, grams: Sequence[CpuGram]) -> list[Float64]:
        return [eigenvalues_of_gram(gram.matrix()) for gram in grams]


CPU = Cpu()
