"""Measure matrices: their elements come in by blocks, and no block is kept."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paramscope.anatomy import Matrix
from paramscope.checkpoint.dtypes import Codes, Dtype
from paramscope.engine import Result, Settings
from paramscope.engine.factors import factors_of
from paramscope.engine.gram import CPU, Device, GpuError, GpuFullError, Gram
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
from paramscope.measure.stats import (
    LEAST_TO_SQUARE,
    MOST_TO_SQUARE,
    CodeCounts,
    Moments,
    Stats,
)
from paramscope.measure.truncated import leading_spectrum

_log = logging.getLogger(__name__)


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
    items: Sequence[tuple[Matrix, Loaded]], settings: Settings, device: Device[Any] = CPU
) -> list[Result]:
    """Everything about matrices of one shape; a failure of the numbers is a result, no exception.

    Their eigenvalues are found together, which is quicker on a GPU. What has no room there together
    goes there one by one; what has none even so, and what the device gives up on, goes to the CPU.
    Nothing is cropped or sampled.
    """
    try:
        return _measure(items, settings, device)
    except GpuFullError:
        problem = "OOM"
    except GpuError as error:
        problem = f"failed ({error})"
    # The exception is gone, and with it what the attempt held on the device.
    if len(items) > 1:
        return [result for item in items for result in measure([item], settings, device)]
    matrix, _ = items[0]
    shape = (matrix.rows, matrix.columns)
    _log.warning("⚠️  GPU %s, falling back to CPU for matrix %s", problem, shape)
    return _measure(items, settings, CPU)


def _measure(
    items: Sequence[tuple[Matrix, Loaded]], settings: Settings, device: Device[Any]
) -> list[Result]:
    group = [_Measurement(matrix, loaded, settings) for matrix, loaded in items]
    for one in group:
        with _guarded([one]):
            one.take_in(device)
    asking = [one for one in group if one.gram is not None]
    if asking:
        with _guarded(asking):
            found = device.eigenvalues([one.gram for one in asking])
            for one, eigenvalues in zip(asking, found, strict=True):
                one.gram, one.eigenvalues = None, eigenvalues
    for one in group:
        with _guarded([one]):
            one.finish()
    return [one.result() for one in group]


@contextlib.contextmanager
def _guarded(group: Sequence[_Measurement]) -> Iterator[None]:
    """Time a step, and turn what makes it impossible into the reason of a failure."""
    started = time.perf_counter()
    problem = ""
    try:
        with np.errstate(all="ignore"):
            yield
    except MemoryError:
        problem = "not enough memory for this matrix"
    except np.linalg.LinAlgError as error:
        problem = f"the solver did not converge ({error})"
    time_s = (time.perf_counter() - started) / len(group)
    for one in group:
        one.time_s += time_s
        if problem:
            one.problem, one.gram = problem, None


class _Measurement:
    """One matrix on its way: elements first, then the eigenvalues, then what follows from them.

    Attributes:
        gram: built, and not solved yet; None where there is none to solve.
        eigenvalues: of `gram`, descending, shape (k,).
        problem: why there is no spectrum, though one was wanted.
    """

    def __init__(self, matrix: Matrix, loaded: Loaded, settings: Settings) -> None:
        self._matrix = matrix
        self._loaded = loaded
        self._settings = settings
        self._arranging = Arranging(
            lambda codes: np.abs(loaded.dtype.decode(codes)) <= settings.zero_threshold
        )
        self._stats: Stats | None = None
        self._spectrum: Spectrum | None = None
        self.gram: Any = None
        self.eigenvalues: Float64 | None = None
        self.problem = ""
        self.time_s = 0.0

    def take_in(self, device: Device[Any]) -> None:
        """Statistics of all elements, and the Gram matrix, where one is needed."""
        matrix, loaded, settings = self._matrix, self._loaded, self._settings
        by_gram = (
            wants_spectrum(matrix, settings)
            and loaded.short_side > 1
            and not is_truncated(matrix, settings)
            and loaded.factors is None
        )
        gram = device.empty(loaded.short_side) if by_gram else None
        stats = _one_pass(loaded, settings, None if loaded.is_wide else gram, self._arranging)
        self._stats = stats
        if not wants_spectrum(matrix, settings):
            return
        self.problem = _no_spectrum(stats)
        if gram is None or self.problem:
            return
        if loaded.is_wide:
            for block in loaded.by_columns():
                gram.add(block, loaded.dtype)
        self.gram = gram

    def finish(self) -> None:
        """The spectrum, where one is wanted and can be had."""
        stats, settings = self._stats, self._settings
        if stats is None or self.problem or not wants_spectrum(self._matrix, settings):
            return
        if is_truncated(self._matrix, settings):
            self._spectrum = _leading(self._loaded, settings, stats)
        else:
            self._spectrum = _complete(self._loaded, settings, stats, self.eigenvalues)

    def result(self) -> Result:
        """What was found."""
        matrix, stats = self._matrix, self._stats
        turned = self._loaded.turned != matrix.transposed
        return Result(
            matrix,
            stats,
            self._spectrum,
            status="failed" if self.problem else "ok",
            reason=self.problem or _limits(matrix, self._spectrum),
            time_s=self.time_s,
            arrangement=_arrangement(self._arranging, turned=turned) if stats else None,
        )


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


def _complete(
    loaded: Loaded, settings: Settings, stats: Stats, eigenvalues: Float64 | None
) -> Spectrum:
    """All singular values: from the factors, or the eigenvalues where they settle the ranks."""
    if loaded.factors is not None:
        return spectrum_of_product(*loaded.factors)
    if eigenvalues is None:  # a vector: its one singular value is its norm
        eigenvalues = np.full(1, stats.sum_of_squares)
    spectrum = spectrum_of_eigenvalues(eigenvalues, long_side=loaded.long_side)
    if settled(
        spectrum,
        long_side=loaded.long_side,
        tolerance=settings.tolerance,
        sum_of_squares=stats.sum_of_squares,
    ):
        return spectrum
    return spectrum_of_rows(loaded.decoded(), columns=loaded.short_side)


def _no_spectrum(stats: Stats) -> str:
    """Why the elements have no singular values; empty where they have."""
    if not stats.finite:
        return (
            f"no spectrum: {stats.nan_count:,} NaN and {stats.inf_count:,} Inf among "
            f"{stats.numel:,} elements"
        )
    largest = max(abs(stats.min or 0.0), abs(stats.max or 0.0))
    if largest > MOST_TO_SQUARE:
        return f"no spectrum: values beyond {MOST_TO_SQUARE:g} overflow when squared"
    if 0 < largest < LEAST_TO_SQUARE:
        return f"no spectrum: no value reaches {LEAST_TO_SQUARE:g}, so that squares underflow"
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
