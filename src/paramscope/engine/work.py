"""Measure one matrix: its bytes come in by blocks of rows, no block is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from paramscope.anatomy import Matrix
from paramscope.anatomy.view import View
from paramscope.checkpoint.dtypes import Codes, Dtype
from paramscope.engine import Result, Settings
from paramscope.measure.spectrum import (
    Float64,
    Spectrum,
    add_gram,
    settled,
    spectrum_of_gram,
    spectrum_of_rows,
)
from paramscope.measure.stats import Moments, Stats, count_codes, stats_of_counts

BLOCK_ELEMENTS = 2**21  # 16 MiB in float64: large for the kernels, small beside a Gram matrix
_LARGEST_SQUARE = 1e150  # values beyond this overflow when squared and summed

CodeBlocks = Callable[[], Iterator[Codes]]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A matrix whose elements can be read, several times if need be.

    `blocks` gives all rows in order, each block of shape (b, columns), as codes.
    """

    dtype: Dtype
    view: View
    blocks: CodeBlocks


def measure(matrix: Matrix, loaded: Loaded, settings: Settings) -> Result:
    """Everything about one matrix; a failure of the numbers is a result, not an exception."""
    started = time.perf_counter()
    stats, spectrum, status, reason = None, None, "ok", ""
    if matrix.tensor.dtype.kind in ("packed", "unknown"):
        status, reason = "refused", _refusal(matrix.tensor.dtype)
    else:
        try:
            with np.errstate(all="ignore"):
                stats, spectrum, reason = _numbers(matrix, loaded, settings)
            status = "failed" if reason else "ok"
        except MemoryError:
            status, reason = "failed", "not enough memory for this matrix"
        except np.linalg.LinAlgError as error:
            status, reason = "failed", f"the solver did not converge ({error})"
    return Result(matrix, stats, spectrum, status, reason, time.perf_counter() - started)


def wants_spectrum(matrix: Matrix, settings: Settings) -> bool:
    """Buffers are no weights, and an empty matrix has no singular values."""
    return settings.svd and matrix.role != "buffer" and matrix.numel > 0


def _refusal(dtype: Dtype) -> str:
    if dtype.kind == "packed":
        return f"{dtype.name} codes mean nothing without their scales, which were not found"
    return f"the dtype {dtype.name} is not read"


def _numbers(
    matrix: Matrix, loaded: Loaded, settings: Settings
) -> tuple[Stats, Spectrum | None, str]:
    k = min(loaded.view.rows, loaded.view.columns)
    spectral = wants_spectrum(matrix, settings)
    gram = np.zeros((k, k)) if spectral and k > 1 else None
    stats = _one_pass(loaded, settings, gram)
    if not spectral:
        return stats, None, ""
    if not stats.finite:
        return (
            stats,
            None,
            (
                f"no spectrum: {stats.nan_count:,} NaN and {stats.inf_count:,} Inf among "
                f"{stats.numel:,} elements"
            ),
        )
    if max(abs(stats.min or 0.0), abs(stats.max or 0.0)) > _LARGEST_SQUARE:
        return stats, None, f"no spectrum: values beyond {_LARGEST_SQUARE:g} overflow when squared"
    long_side = max(loaded.view.rows, loaded.view.columns)
    if gram is None:
        gram = np.full((1, 1), stats.sum_of_squares)
    spectrum = spectrum_of_gram(gram, long_side=long_side)
    if not settled(
        spectrum,
        long_side=long_side,
        tolerance=settings.tolerance,
        sum_of_squares=stats.sum_of_squares,
    ):
        del gram
        spectrum = _slow_spectrum(loaded)
    return stats, spectrum, ""


def _one_pass(loaded: Loaded, settings: Settings, gram: Float64 | None) -> Stats:
    """Statistics, and the Gram matrix of the shorter side, from one reading of the matrix."""
    dtype = loaded.dtype
    counts = np.zeros(2**dtype.bits if dtype.countable else 0, dtype=np.int64)
    moments = Moments(settings.zero_threshold)
    for codes in loaded.blocks():
        if dtype.countable:
            counts += count_codes(codes, bits=dtype.bits)
        else:
            moments.add(codes)
        if gram is not None:
            _accumulate(gram, codes, dtype)
    if dtype.countable:
        return stats_of_counts(counts, dtype.values(), zero_threshold=settings.zero_threshold)
    return moments.stats()


def _accumulate(gram: Float64, codes: Codes, dtype: Dtype) -> None:
    """Add a block's share: WᵀW by rows; WWᵀ by columns, where the block is the whole matrix."""
    rows, columns = codes.shape
    if gram.shape[0] == columns:
        add_gram(gram, dtype.decode(codes))
        return
    width = max(1, BLOCK_ELEMENTS // rows)
    for start in range(0, columns, width):
        add_gram(gram, dtype.decode(codes[:, start : start + width]).T)


def _slow_spectrum(loaded: Loaded) -> Spectrum:
    """QR wants the longer side as rows: a wide matrix goes in by columns."""
    rows, columns = loaded.view.rows, loaded.view.columns
    if columns <= rows:
        blocks = (loaded.dtype.decode(codes) for codes in loaded.blocks())
    else:
        codes = next(loaded.blocks())
        width = max(1, BLOCK_ELEMENTS // rows)
        blocks = (
            loaded.dtype.decode(codes[:, start : start + width]).T
            for start in range(0, columns, width)
        )
    return spectrum_of_rows(blocks, columns=min(rows, columns))
