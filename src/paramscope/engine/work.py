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
from paramscope.engine.gram import CpuGram, DeviceFullError, Gram, MakeGram
from paramscope.measure.arrangement import Arrangement, Arranging
from paramscope.measure.rank import ENERGY_SHARES, energy_share
from paramscope.measure.spectrum import (
    Float64,
    Spectrum,
    settled,
    spectrum_of_eigenvalues,
    spectrum_of_rows,
)
from paramscope.measure.stats import Moments, Stats, count_codes, stats_of_counts
from paramscope.measure.truncated import leading_spectrum

_log = logging.getLogger(__name__)

_STRIP = 32  # columns: a cache line of 16-bit codes
_LARGEST_SQUARE = 1e150  # values beyond this overflow when squared and summed


@dataclass(frozen=True, slots=True)
class Loaded:
    """A matrix, or its transpose, with the longer side as rows.

    No measure tells a matrix from its transpose, so a wide one comes by its columns.

    Attributes:
        long_side, short_side: rows and columns of what `blocks` gives.
        blocks: all rows in order, in blocks of shape (b, short_side), as codes; may be called
            again, and reads again then.
    """

    dtype: Dtype
    long_side: int
    short_side: int
    blocks: Callable[[], Iterator[Codes]]

    def decoded(self) -> Iterator[Float64]:
        """The blocks in float64."""
        return (self.dtype.decode(codes) for codes in self.blocks())


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
    arrangement = _of_matrix(arranging.result(), matrix) if stats else None
    time_s = time.perf_counter() - started
    return Result(matrix, stats, spectrum, status, reason, time_s, arrangement)


def _of_matrix(arrangement: Arrangement, matrix: Matrix) -> Arrangement:
    """In the matrix's own rows and columns: it was measured with the longer side as rows."""
    as_stored = matrix.view.columns <= matrix.view.rows
    if as_stored != matrix.transposed:
        return arrangement
    return Arrangement(arrangement.content_hash, arrangement.zero_columns, arrangement.zero_rows)


def wants_spectrum(matrix: Matrix, settings: Settings) -> bool:
    """Buffers are no weights, and an empty matrix has no singular values."""
    return settings.svd and not matrix.is_buffer and matrix.numel > 0


def refused(matrix: Matrix) -> Result:
    """The result of a matrix whose stored codes are not understood: never a cast."""
    return Result(matrix, None, None, "refused", matrix.refusal, 0.0)


def is_truncated(matrix: Matrix, settings: Settings) -> bool:
    """Whether only the leading singular values are computed: never where K are nearly all."""
    k = min(matrix.rows, matrix.columns)
    return settings.method == "truncated" and settings.rank_k < k // 2


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
    gram = make_gram(k) if spectral and k > 1 and not truncated else None
    stats = _one_pass(loaded, settings, gram, arranging)
    if not spectral:
        return stats, None, ""
    if problem := _no_spectrum(stats):
        return stats, None, problem
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
    """Statistics, and the Gram matrix of the shorter side, from one reading of the matrix."""
    dtype = loaded.dtype
    counts = np.zeros(2**dtype.bits if dtype.countable else 0, dtype=np.int64)
    moments = Moments(settings.zero_threshold)
    for block in loaded.blocks():
        codes = _row_major(block)
        arranging.add(codes)
        if dtype.countable:
            counts += count_codes(codes, bits=dtype.bits)
        else:
            moments.add(codes)
        if gram is not None:
            gram.add(codes, dtype)
    if dtype.countable:
        return stats_of_counts(counts, dtype.values(), zero_threshold=settings.zero_threshold)
    return moments.stats()


def _row_major(block: Codes) -> Codes:
    """The block, contiguous; a transposed one in strips, five times as fast as numpy's copy."""
    if block.strides[0] >= block.strides[1]:
        return np.ascontiguousarray(block)
    codes = np.empty(block.shape, block.dtype)
    for start in range(0, block.shape[1], _STRIP):
        strip = slice(start, start + _STRIP)
        codes[:, strip] = np.ascontiguousarray(block[:, strip].T).T
    return codes


def _leading(loaded: Loaded, settings: Settings, stats: Stats) -> Spectrum:
    return leading_spectrum(
        loaded.decoded,
        columns=loaded.short_side,
        leading=settings.rank_k,
        sum_of_squares=stats.sum_of_squares,
    )
