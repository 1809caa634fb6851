"""How fast this machine is: measured once in a fraction of a second, then remembered."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paramscope.cache import cache_folder
from paramscope.files import write_whole

_EIGEN_SIZES = (64, 256, 1024)
_GRAM_SIZE = 768


@dataclass(frozen=True, slots=True)
class Rates:
    """Times on one core.

    Attributes:
        gram_flops: rate of a float64 Gram product, m·k² operations each, per second.
        eigen_s: (k, seconds for all eigenvalues of a k×k matrix), ascending in k.
        element_s: seconds per element for reading and statistics.
        decode_s: seconds per element for widening to float64.
        overhead_s: seconds per matrix, whatever its size.
    """

    gram_flops: float
    eigen_s: tuple[tuple[int, float], ...]
    element_s: float
    decode_s: float
    overhead_s: float = 2e-4

    def eigen_time_s(self, k: int) -> float:
        """Between measured sizes on a power law, beyond them with k³."""
        sizes = [size for size, _ in self.eigen_s]
        at = bisect_left(sizes, k)
        if at == 0:
            return self.eigen_s[0][1] * (k / sizes[0]) ** 2
        low, low_s = self.eigen_s[at - 1]
        if at == len(sizes):
            return low_s * (k / low) ** 3
        high, high_s = self.eigen_s[at]
        exponent = np.log(high_s / low_s) / np.log(high / low)
        return float(low_s * (k / low) ** exponent)


def rates() -> Rates:
    """This machine's rates: the remembered ones, or measured now and remembered."""
    return remembered(_machine(), measure_rates)


def remembered(key: str, measured_now: Callable[[], Rates]) -> Rates:
    """The rates kept under a name, which says what they were measured on."""
    path = calibration_path()
    kept: dict[str, dict[str, Any]] = {}
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(path.read_text("utf-8"))
    with contextlib.suppress(ValueError, TypeError, KeyError):
        stored = kept[key]
        eigen_s = tuple((int(k), float(t)) for k, t in stored["eigen_s"])
        return Rates(**{**stored, "eigen_s": eigen_s})
    measured = measured_now()
    with contextlib.suppress(OSError):
        write_whole(path, json.dumps({**kept, key: asdict(measured)}).encode())
    return measured


def _machine() -> str:
    return "|".join(
        (platform.machine(), platform.processor(), str(os.cpu_count()), np.__version__, "1")
    )


def measure_rates() -> Rates:
    """Time the kernels, one thread each; the best of a few runs, since noise only adds."""
    from threadpoolctl import threadpool_limits

    from paramscope.checkpoint.dtypes import DTYPES
    from paramscope.measure.stats import count_codes

    rng = np.random.default_rng(0)
    square = rng.standard_normal((_GRAM_SIZE, _GRAM_SIZE))
    codes = rng.integers(0, 2**16, size=2**19, dtype=np.uint16)
    dtype = DTYPES["BF16"]
    dtype.values()
    with threadpool_limits(1), np.errstate(all="ignore"):
        gram_s = _best(lambda: square.T @ square, 5)
        eigen_s = []
        for k in _EIGEN_SIZES:
            block = rng.standard_normal((k, k))
            gram = block.T @ block
            eigen_s.append((k, _best(lambda gram=gram: np.linalg.eigvalsh(gram), 3)))  # type: ignore[misc]
        count_s = _best(lambda: count_codes(codes, bits=16), 3)
        decode_s = _best(lambda: dtype.decode(codes), 3)
    return Rates(
        gram_flops=_GRAM_SIZE**3 / gram_s,
        eigen_s=tuple(eigen_s),
        element_s=count_s / codes.size,
        decode_s=decode_s / codes.size,
    )


def _best(work: Callable[[], object], times: int) -> float:
    durations = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        durations.append(time.perf_counter() - started)
    return min(durations)


def calibration_path() -> Path:
    """Where the rates are remembered."""
    return cache_folder() / "calibration.json"
