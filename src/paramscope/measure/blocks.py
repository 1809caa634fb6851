"""Rows by blocks: the same cuts, in the same order, whatever the number of threads.

A measure takes `each`, which is `map` or a thread pool's `map`. As blocks and the order of sums
are fixed, and every block's products run on one thread, so is every result.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Each = Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]]

_PARTS = 16
_LEAST_ROWS = 2048
_BLOCK_ELEMENTS = 2**20


@contextlib.contextmanager
def threads(workers: int) -> Iterator[Each]:
    """A `map` over this many threads, in order; each has the BLAS library for itself."""
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        yield pool.map


def parts(n: int) -> list[slice]:
    """0 … n cut into at most 16 pieces of 2,048 or more: the units of parallel work."""
    step = max(_LEAST_ROWS, -(-n // _PARTS))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def blocks(part: slice, columns: int) -> Iterator[slice]:
    """A part cut into blocks of rows that stay in the cache."""
    step = max(1, min(_LEAST_ROWS, _BLOCK_ELEMENTS // max(1, columns)))
    for start in range(part.start, part.stop, step):
        yield slice(start, min(start + step, part.stop))


def blocks_of(X: Float32, part: slice) -> Iterator[tuple[slice, Float64]]:
    """A part's blocks of rows, each widened to float64."""
    for rows in blocks(part, X.shape[1]):
        yield rows, X[rows].astype(np.float64)
