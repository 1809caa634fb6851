"""Statistics of all elements: from the count of each code, or blockwise in float64.

Sums are numpy's pairwise ones: of n terms within about log₂(n)·2⁻⁵³ of Σ|terms|.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

_NARROW = 2**15  # a range of codes that Arrow counts in a table instead of sorting
_FEW = 2**18
_COUNT_BLOCK = 2**21  # what is made of it stays in the cache that cores share
_SUM_BLOCK = 2**16
LEAST_TO_SQUARE, MOST_TO_SQUARE = 1e-140, 1e150  # beyond, float64 loses or cannot hold the squares

Codes = npt.NDArray[Any]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Stats:
    """Statistics of one matrix. Non-finite elements are counted and left out of the rest.

    Attributes:
        numel: elements, non-finite ones included.
        mean, std, var: of the finite elements; population values (divided by n); in the
            matrix's own unit, its square for `var`.
        skewness, kurtosis: standardised third and fourth central moment (kurtosis is 3 for a
            normal distribution); None where `std` is 0.
        min, max: of the finite elements. All the above are None where there are none, or where
            float64 cannot hold the number.
        sparsity: share of all elements with |x| <= the threshold, in [0, 1].
        sum_of_squares: Σx², the squared Frobenius norm.
        entropy_bits: Shannon entropy of the stored codes in bits per element; None where the
            dtype has too many codes to count.
    """

    numel: int
    mean: float | None
    std: float | None
    var: float | None
    skewness: float | None
    kurtosis: float | None
    min: float | None
    max: float | None
    sparsity: float | None
    nan_count: int
    inf_count: int
    sum_of_squares: float
    entropy_bits: float | None

    @property
    def finite(self) -> bool:
        return self.nan_count == 0 and self.inf_count == 0


@dataclass(slots=True)
class CodeCounts:
    """How often each code of a narrow dtype occurs, taken in by blocks.

    Attributes:
        bits: of a code, 8 or 16.
    """

    bits: int
    _used: Codes = field(default_factory=lambda: np.zeros(0, np.uint16))
    _counts: Counts = field(default_factory=lambda: np.zeros(0, np.int64))
    _table: Counts | None = None  # of all codes; made for the second block

    def add(self, codes: Codes) -> None:
        """Take in a block of unsigned integers, of any shape."""
        if codes.size == 0:
            return
        flat = codes.view(f"u{self.bits // 8}").ravel(order="K")
        for start in range(0, flat.size, _COUNT_BLOCK):
            self._add(*_count(flat[start : start + _COUNT_BLOCK], self.bits))

    def _add(self, used: Codes, counts: Counts) -> None:
        if self._table is None and not self._used.size:
            self._used, self._counts = used, counts
            return
        if self._table is None:
            self._table = np.zeros(2**self.bits, dtype=np.int64)
            self._table[self._used] = self._counts
        self._table[used] += counts

    def used(self) -> tuple[Codes, Counts]:
        """The codes that occur, ascending, and how often each does."""
        if self._table is None:
            return self._used, self._counts
        used = np.flatnonzero(self._table > 0)
        return used, self._table[used]

    def stats(self, values: npt.NDArray[np.float64], *, zero_threshold: float) -> Stats:
        """Statistics, where `values`, shape (2**bits,), has the value of each code."""
        used, counts = self.used()
        return stats_of_counts(counts, values[used], zero_threshold=zero_threshold)


def _count(flat: Codes, bits: int) -> tuple[Codes, Counts]:
    """The codes that occur, ascending, and how often each does.

    16-bit codes are turned by one bit: with the sign at the low end, the codes of weights lie
    close together, and a small table, which stays in the cache, counts them.
    """
    if bits == 8:
        used, counts = _counted(flat, 0)
        order = np.argsort(used)
        return used[order], counts[order]
    turned = flat << np.uint16(1)
    turned |= flat >> np.uint16(15)
    used, counts = _counted(turned, _least_of_narrow(turned))
    used = (used >> np.uint16(1)) | (used << np.uint16(15))
    order = np.argsort(used, kind="stable")
    return used[order], counts[order]


def _least_of_narrow(codes: Codes) -> int | None:
    """The smallest code, or 0 where that will do; None where they spread over a wide range."""
    largest = int(codes.max())
    if largest < _NARROW and codes.size >= _FEW:  # as where all |x| < 2: one look less
        return 0
    least = int(codes.min())
    return least if largest - least < _NARROW else None


def _counted(codes: Codes, least: int | None) -> tuple[Codes, Counts]:
    """The codes that occur, and how often.

    Arrow counts without Python's lock, so that cores count side by side, where numpy's `bincount`
    keeps it; but for few codes it is slow, and a wide range it sorts.

    Args:
        least: no code is smaller; None where they spread over a wide range.
    """
    if least is None or codes.size < _FEW:
        counts = np.bincount(codes - codes.dtype.type(least or 0))
        used = np.flatnonzero(counts > 0)
        return (used + (least or 0)).astype(codes.dtype), counts[used]
    from pyarrow import array, compute

    found = compute.mode(array(codes), n=_NARROW)
    return found.field(0).to_numpy(), found.field(1).to_numpy()


def stats_of_counts(
    counts: Counts, values: npt.NDArray[np.float64], *, zero_threshold: float
) -> Stats:
    """Statistics from how often each value occurs.

    Args:
        counts: shape (c,), int64, each at least 1.
        values: what was counted, shape (c,), float64; may hold NaN and Inf.
        zero_threshold: elements with |x| up to this are counted as zero.
    """
    n_each, x = counts.astype(np.float64), values
    finite = np.isfinite(x)
    nan_count = int(counts[np.isnan(x)].sum())
    inf_count = int(counts[np.isinf(x)].sum())
    numel = int(counts.sum())
    p = n_each / numel if numel else n_each
    entropy = float(-(p * np.log2(p)).sum()) + 0.0 if numel else None
    n_each, x = n_each[finite], x[finite]
    n = float(n_each.sum())
    if n == 0:
        return _no_finite_elements(numel, nan_count, inf_count, entropy)
    mean = float((n_each * x).sum()) / n
    d = x - mean
    square = d * d
    weighted = n_each * square
    m2, m3, m4 = (float(sum_) / n for sum_ in (weighted.sum(), weighted @ d, weighted @ square))
    small = n_each[np.abs(x) <= zero_threshold]
    return Stats(
        numel=numel,
        mean=mean,
        std=math.sqrt(m2),
        var=m2,
        skewness=m3 / m2**1.5 if m2 > 0 else None,
        kurtosis=m4 / m2**2 if m2 > 0 else None,
        min=float(x.min()),
        max=float(x.max()),
        sparsity=float(small.sum()) / numel,
        nan_count=nan_count,
        inf_count=inf_count,
        sum_of_squares=float((n_each * x * x).sum()),
        entropy_bits=entropy,
    )


@dataclass(slots=True)
class Moments:
    """Statistics of values that arrive in blocks, in float64.

    Means and central moments of blocks are merged pairwise, which loses no digits where the
    mean is large beside the spread. Source: Chan, Golub & LeVeque 1983; Pébay 2008
    (SAND2008-6212) for the third and fourth moment.
    """

    zero_threshold: float
    numel: int = 0
    finite_count: int = 0
    nan_count: int = 0
    inf_count: int = 0
    zero_count: int = 0
    min: float = math.inf
    max: float = -math.inf
    _sum_of_squares: list[float] = field(default_factory=list)
    _mean: float = 0.0
    _m2: float = 0.0
    _m3: float = 0.0
    _m4: float = 0.0

    def add(self, block: npt.NDArray[Any]) -> None:
        """Take in a block of any shape and real dtype."""
        flat = block.ravel(order="K")
        for start in range(0, flat.size, _SUM_BLOCK):
            self._add(flat[start : start + _SUM_BLOCK].astype(np.float64))

    def _add(self, x: npt.NDArray[np.float64]) -> None:
        self.numel += x.size
        finite = np.isfinite(x)
        if not finite.all():
            self.nan_count += int(np.isnan(x).sum())
            self.inf_count += int(np.isinf(x).sum())
            x = x[finite]
        if x.size == 0:
            return
        self.zero_count += int(np.count_nonzero(np.abs(x) <= self.zero_threshold))
        self.min = min(self.min, float(x.min()))
        self.max = max(self.max, float(x.max()))
        self._sum_of_squares.append(float(x @ x))
        mean = float(x.mean())
        x -= mean
        square = x * x
        self._merge(x.size, mean, float(square.sum()), float(square @ x), float(square @ square))

    def _merge(self, n_b: int, mean_b: float, m2_b: float, m3_b: float, m4_b: float) -> None:
        n_a, n = self.finite_count, self.finite_count + n_b
        delta = mean_b - self._mean
        square = delta * delta  # products, not powers: an overflow is inf, not an exception
        m2, m3 = self._m2, self._m3
        a, b = n_a / n, n_b / n
        self._m4 += (
            m4_b
            + square * square * n_a * b * (a * a - a * b + b * b)
            + 6 * square * (a * a * m2_b + b * b * m2)
            + 4 * delta * (a * m3_b - b * m3)
        )
        self._m3 += m3_b + square * delta * n_a * b * (a - b) + 3 * delta * (a * m2_b - b * m2)
        self._m2 += m2_b + square * n_a * b
        self._mean += delta * b
        self.finite_count = n

    def stats(self) -> Stats:
        """The statistics of everything taken in."""
        n = self.finite_count
        if n == 0:
            return _no_finite_elements(self.numel, self.nan_count, self.inf_count, None)
        var = self._m2 / n
        spread = not 0 < max(abs(self.min), abs(self.max)) < LEAST_TO_SQUARE
        shaped = var * var > LEAST_TO_SQUARE**2  # or the fourth powers underflow
        return Stats(
            numel=self.numel,
            mean=_finite(self._mean),
            std=_finite(math.sqrt(var)) if spread else None,
            var=_finite(var) if spread else None,
            skewness=_finite(self._m3 / n / (var * math.sqrt(var))) if shaped else None,
            kurtosis=_finite(self._m4 / n / (var * var)) if shaped else None,
            min=self.min,
            max=self.max,
            sparsity=self.zero_count / self.numel,
            nan_count=self.nan_count,
            inf_count=self.inf_count,
            sum_of_squares=math.fsum(self._sum_of_squares),
            entropy_bits=None,
        )


def _finite(x: float) -> float | None:
    """None for a number beyond float64, of values so large that their squares overflow."""
    return x if math.isfinite(x) else None


def _no_finite_elements(numel: int, nan_count: int, inf_count: int, entropy: float | None) -> Stats:
    nothing: Mapping[str, None] = dict.fromkeys(
        ("mean", "std", "var", "skewness", "kurtosis", "min", "max")
    )
    return Stats(
        **nothing,
        numel=numel,
        sparsity=0.0 if numel else None,
        nan_count=nan_count,
        inf_count=inf_count,
        sum_of_squares=0.0,
        entropy_bits=entropy,
    )
