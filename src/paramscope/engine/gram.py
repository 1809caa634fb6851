"""Where a Gram matrix is built and solved: one small interface, the CPU's side of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from paramscope.checkpoint.dtypes import Codes, Dtype
from paramscope.measure.spectrum import Float64, Spectrum, add_gram, spectrum_of_gram


class Gram(Protocol):
    """The Gram matrix of a matrix that arrives by blocks of rows."""

    def add(self, codes: Codes, dtype: Dtype) -> None:
        """Take in a block of rows, shape (b, k), as codes.

        Raises:
            DeviceFullError: the device has no room for it.
        """

    def spectrum(self, *, long_side: int) -> Spectrum:
        """All k singular values, after `long_side` rows.

        Raises:
            DeviceFullError: the device has no room to solve it.
        """


MakeGram = Callable[[int], Gram]


class DeviceFullError(Exception):
    """A device other than the CPU is out of memory; the CPU takes the matrix over."""


class CpuGram:
    """Float64 in the main memory, BLAS and LAPACK through numpy."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._gram: Float64 | None = None

    def add(self, codes: Codes, dtype: Dtype) -> None:
        self._gram = add_gram(self._gram, dtype.decode(codes))

    def spectrum(self, *, long_side: int) -> Spectrum:
        gram = np.zeros((self._k, self._k)) if self._gram is None else self._gram
        return spectrum_of_gram(gram, long_side=long_side)
