"""Measure one matrix: its elements come in by blocks, and no block is kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from paramscope.anatomy import Matrix
from paramscope.checkpoint.dtypes import Codes, Dtype
from paramscope.engine import Result, Settings
from paramscope.engine.factors import factors_of
from paramscope.engine.gram import CpuGram, DeviceFullError, Gram, MakeGram
from paramscope.measure.arrangement import Arrangement, Arranging
from paramscope.measure.low_rank import spectrum_of_product
from paramscope.measure.rank import ENERGY_SHARES, energy_share
from paramscope.measure.spectrum import (
    Float64,
    Spectrum,
    settled,
    spectrum_of_eigenvalues,
    spectrum_of_rows,
)
from paramscope.measure.stats import CodeCounts, Moments, Stats
from paramscope.measure.truncated import leading_spectrum

_log = logging.getLogger(__name__)

_LARGEST_SQUARE = 1e150  # values beyond this overflow when squared and summed


@dataclass(frozen=True, slots=True)
class Loaded:
    """A matrix as its tensor holds it, in blocks of codes; each call reads again.

    Attributes:
        by_rows: all rows in order, in blocks of shape (b, columns).
        by_columns: all columns in order, as the rows of the transpose: shape (b, rows).
        turned: whether it is a row vector that comes as a column, to be cut into blocks.
        factors: left, shape (m, r), and right, shape (r, n), where it, or its transpose, is held
            as their product.
    """

    dtype: Dtype
    rows: int
    columns: int
    by_rows: Callable[[], Iterator[Codes]]
    by_columns: Callable[[], Iterator[Codes]]
    turned: bool = False
    factors: tuple[Float64, Float64] | None = None

    @property
    def is_wide(self) -> bool:
        return self.columns > self.rows

    @property
    def long_side(self) -> int:
        return max(self.rows, self.columns)

    @property
    def short_side(self) -> int:
        return min(self.rows, self.columns)

    def decoded(self) -> Iterator[Float64]:
        """The matrix, or its transpose, in float64, blocks of shape (b, short_side).

        No singular value tells a matrix from its transpose.
        """
        blocks = self.by_columns() if self.is_wide else self.by_rows()
        return (self.dtype.decode(codes) for codes in blocks)


def measure(
    matrix: Matrix, loaded: Loaded, settings: Settings, make_gram: MakeGram = CpuGram
) -> Result:
    """Everything about one matrix; a failure of the numbers is a result, not an exception.

    A device that has no room for the matrix leaves it to the CPU; nothing is cropped or sampled.
    """
    try:
        return _measure(matrix, loaded, settings, make_gram)
    except DeviceFullError:
        shape = (matrix.rows, matrix.columns)
        _log.warning("⚠️  GPU OOM, falling back to CPU for matrix %s", shape)
        return _measure(matrix, loaded, settings, CpuGram)


def _measure(matrix: Matrix, loaded: Loaded, settings: Settings, make_gram: MakeGram) -> Result:
    started = time.perf_counter()
    stats, spectrum = None, None
    arranging = Arranging(
        lambda codes: np.abs(loaded.dtype.decode(codes)) <= settings.zero_threshold
    )
    try:
        with np.errstate(all="ignore"):
            stats, spectrum, reason = _numbers(matrix, loaded, settings, make_gram, arranging)
        status = "failed" if reason else "ok"
        reason = reason or _limits(matrix, spectrum)
    except MemoryError:
        status, reason = "failed", "not enough memory for this matrix"
    except np.linalg.LinAlgError as error:
        status, reason = "failed", f"the solver did not converge ({error})"
    turned = loaded.turned != matrix.transposed
    arrangement = _arrangement(arranging, turned=turned) if stats else None
    time_s = time.perf_counter() - started
    return Result(matrix, stats, spectrum, status, reason, time_s, arrangement)


def _arrangement(arranging: Arranging, *, turned: bool) -> Arrangement:
    """In the matrix's own rows and columns, which may be the columns and rows as stored."""
    found = arranging.result()
    return Arrangement(found.content_hash, found.zero_columns, found.zero_rows) if turned else found


def wants_spectrum(matrix: Matrix, settings: Settings) -> bool:
    """Buffers are no weights, and an empty matrix has no singular values."""
    return settings.svd and not matrix.is_buffer and matrix.numel > 0


def refused(matrix: Matrix) -> Result:
    """The result of a matrix whose stored codes are not understood: never a cast."""
    return Result(matrix, None, None, "refused", matrix.refusal, 0.0)


def is_truncated(matrix: Matrix, settings: Settings) -> bool:
    """Whether only the leading singular values are computed: never where K are nearly all.

    Nor of a product, all of whose values come from its factors at little cost.
    """
    k = min(matrix.rows, matrix.columns)
    few = settings.method == "truncated" and settings.rank_k < k // 2
    return few and factors_of(matrix) is None


def _limits(matrix: Matrix, spectrum: Spectrum | None) -> str:
    """What a truncated spectrum does not tell."""
    if spectrum is None or spectrum.complete:
        return ""
    share = energy_share(spectrum.s, spectrum.sum_of_squares)
    reached = "reach" if share >= ENERGY_SHARES[0] else "do not reach"
    return (
        f"the leading {len(spectrum.s)} of {min(matrix.rows, matrix.columns)} singular values: "
        f"ranks are lower bounds; they carry {share:.1%} of the variance and {reached} 90 %"
    )


def _numbers(
    matrix: Matrix,
    loaded: Loaded,
    settings: Settings,
    make_gram: MakeGram,
    arranging: Arranging,
) -> tuple[Stats, Spectrum | None, str]:
    k = loaded.short_side
    spectral = wants_spectrum(matrix, settings)
    truncated = is_truncated(matrix, settings)
    by_gram = spectral and k > 1 and not truncated and loaded.factors is None
    gram = make_gram(k) if by_gram else None
    stats = _one_pass(loaded, settings, None if loaded.is_wide else gram, arranging)
    if not spectral:
        return stats, None, ""
    if problem := _no_spectrum(stats):
        return stats, None, problem
    if loaded.factors is not None:
        return stats, spectrum_of_product(*loaded.factors), ""
    if gram is not None and loaded.is_wide:
        for block in loaded.by_columns():
            gram.add(block, loaded.dtype)
    if truncated:
        return stats, _leading(loaded, settings, stats), ""
    if gram is None:  # a vector: its one singular value is its norm
        norm_squared = np.full(1, stats.sum_of_squares)
        spectrum = spectrum_of_eigenvalues(norm_squared, long_side=loaded.long_side)
    else:
        spectrum = gram.spectrum(long_side=loaded.long_side)
    if not settled(
        spectrum,
        long_side=loaded.long_side,
        tolerance=settings.tolerance,
        sum_of_squares=stats.sum_of_squares,
    ):
        del gram
        spectrum = spectrum_of_rows(loaded.decoded(), columns=k)
    return stats, spectrum, ""


def _no_spectrum(stats: Stats) -> str:
    """Why the elements have no singular values; empty where they have."""
    if not stats.finite:
        return (
            f"no spectrum: {stats.nan_count:,} NaN and {stats.inf_count:,} Inf among "
            f"{stats.numel:,} elements"
        )
    if max(abs(stats.min or 0.0), abs(stats.max or 0.0)) > _LARGEST_SQUARE:
        return f"no spectrum: values beyond {_LARGEST_SQUARE:g} overflow when squared"
    return ""


def _one_pass(loaded: Loaded, settings: Settings, gram: Gram | None, arranging: Arranging) -> Stats:
    """Statistics, and the Gram matrix of the columns, from one reading of the rows."""
    dtype = loaded.dtype
    counts = CodeCounts(dtype.bits)
    moments = Moments(settings.zero_threshold)
    for codes in loaded.by_rows():
        arranging.add(codes)
        if dtype.countable:
            counts.add(codes)
        else:
            moments.add(codes)
        if gram is not None:
            gram.add(codes, dtype)
    if dtype.countable:
        return counts.stats(dtype.values(), zero_threshold=settings.zero_threshold)
    return moments.stats()


def _leading(loaded: Loaded, settings: Settings, stats: Stats) -> Spectrum:
    return leading_spectrum(
        loaded.decoded,
        columns=loaded.short_side,
        leading=settings.rank_k,
        sum_of_squares=stats.sum_of_squares,
    )
