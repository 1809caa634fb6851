"""How fast this machine is: measured once in a fraction of a second, then remembered."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import platform
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from paramscope.cache import cache_folder
from paramscope.engine.cores import worker_count
from paramscope.files import write_whole

_EIGEN_SIZES = (64, 256, 1024)
_LARGE_SIZE = 2560  # 52 MB: beyond the caches of most machines
_GRAM_SIZE = 768
_TELLING_S = 5.0  # a run that long says something about the rates
_TOLERANCE = 1.25

Times = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Rates:
    """Times on one core, or on one thread's stream of a GPU, while the others do the same.

    Attributes:
        gram_flops: rate of a float64 Gram product, m·k² operations each, per second.
        eigen_s: (k, seconds for all eigenvalues of a k×k matrix), ascending in k.
        element_s: seconds per element for statistics.
        decode_s: seconds per element for widening to float64.
        hash_s: seconds per byte of a file's SHA-256.
        overhead_s: seconds per matrix, whatever its size.
        cores: how many there are.
        together_s: as `eigen_s`, with all cores on one matrix; empty where it was not measured.
        batch_s: as `eigen_s`, each of several matrices that are solved together; likewise.
    """

    gram_flops: float
    eigen_s: Times
    element_s: float
    decode_s: float
    hash_s: float = 0.0
    overhead_s: float = 8e-4
    cores: int = 1
    together_s: Times = ()
    batch_s: Times = ()

    def eigen_time_s(self, k: int) -> float:
        """All eigenvalues of a k×k matrix, on one core."""
        return _on_power_law(self.eigen_s, k)

    def together_time_s(self, k: int) -> float | None:
        """The same with all cores on it; None where it is not known, or k is small."""
        if not self.together_s or k < self.together_s[0][0]:
            return None
        return _on_power_law(self.together_s, k)


def _on_power_law(times: Times, k: int) -> float:
    """Between measured sizes on a power law; beyond them on the last one, with k³ at least."""
    sizes = [size for size, _ in times]
    at = bisect_left(sizes, k)
    if at == 0:
        return times[0][1] * (k / sizes[0]) ** 2
    low, high = (at - 2, at - 1) if at == len(sizes) else (at - 1, at)
    if low < 0:
        return times[high][1] * (k / sizes[high]) ** 3
    exponent = math.log(times[high][1] / times[low][1]) / math.log(sizes[high] / sizes[low])
    if at == len(sizes):
        exponent = max(exponent, 3.0)
    return times[high][1] * math.pow(k / sizes[high], exponent)


def rates(largest_k: int = 0) -> Rates:
    """This machine's rates: the remembered ones, or measured now and remembered.

    Args:
        largest_k: the shorter side of the largest matrix. Large ones outgrow the caches; how much
            that costs takes seconds to measure, and is measured where it is needed.
    """
    known = remembered(_machine(), measure_rates)
    if largest_k <= 1.25 * _EIGEN_SIZES[-1] or known.cores == 1:
        return known
    return remembered(f"{_machine()}|large", lambda: with_large_sizes(known))


def remembered(key: str, measured_now: Callable[[], Rates], *, instead_of: str = "") -> Rates:
    """The rates kept under a name, which says what they were measured on.

    Args:
        measured_now: where there are none yet.
        instead_of: what those names begin with whose rates the new ones replace.
    """
    kept = _kept()
    with contextlib.suppress(ValueError, TypeError, KeyError):
        stored = kept[key]
        times = {
            name: tuple((int(k), float(t)) for k, t in stored[name])
            for name in ("eigen_s", "together_s", "batch_s")
        }
        return Rates(**{**stored, **times})
    measured = measured_now()
    if instead_of:
        kept = {name: rates for name, rates in kept.items() if not name.startswith(instead_of)}
    _keep({**kept, key: asdict(measured)})
    return measured


def compare(estimated_s: float, took_s: float) -> None:
    """Forget this machine's rates where a run shows that they were measured at a bad moment.

    They are measured again when they are next asked for; once only, as it may not be the rates.
    """
    if estimated_s < _TELLING_S:
        return
    kept, doubted = _kept(), f"doubted|{_machine()}"
    if 1 / _TOLERANCE < took_s / estimated_s < _TOLERANCE:
        if kept.pop(doubted, None) is not None:
            _keep(kept)
    elif doubted not in kept:
        others = {key: rates for key, rates in kept.items() if not key.startswith(_machine())}
        _keep({**others, doubted: {}})


def _kept() -> dict[str, dict[str, Any]]:
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(calibration_path().read_text("utf-8"))
        return kept if isinstance(kept, dict) else {}
    return {}


def _keep(rates_by_name: dict[str, dict[str, Any]]) -> None:
    with contextlib.suppress(OSError):
        write_whole(calibration_path(), json.dumps(rates_by_name).encode())


def _machine() -> str:
    cores = str(worker_count())
    return "|".join((platform.machine(), platform.processor(), cores, np.__version__, "2"))


def measure_rates() -> Rates:
    """Time the kernels on all cores at once, one thread each; the best of a few, as noise adds."""
    from paramscope.checkpoint.dtypes import DTYPES
    from paramscope.measure.stats import CodeCounts

    rng = np.random.default_rng(0)
    square = rng.standard_normal((_GRAM_SIZE, _GRAM_SIZE))
    weights = rng.standard_normal(2**19, dtype=np.float32) * np.float32(0.02)
    codes = (weights.view(np.uint32) >> 16).astype(np.uint16)  # BF16, as trained weights spread
    dtype = DTYPES["BF16"]
    data = codes.tobytes()
    with _all_cores() as best:
        return Rates(
            gram_flops=_GRAM_SIZE**3 / best(lambda: square.T @ square, 5),
            eigen_s=tuple((k, best(_solve(k), 5)) for k in _EIGEN_SIZES),
            element_s=best(lambda: CodeCounts(16).add(codes), 3) / codes.size,
            decode_s=best(lambda: dtype.decode(codes), 3) / codes.size,
            hash_s=best(lambda: hashlib.sha256(data).digest(), 3) / len(data),
            cores=worker_count(),
        )


def with_large_sizes(known: Rates) -> Rates:
    """The same rates with large eigenvalue problems: one per core, and all cores on one."""
    with _all_cores() as best:
        eigen_s = (*known.eigen_s, (_LARGE_SIZE, best(_solve(_LARGE_SIZE), 1)))
    with threadpool_limits(known.cores, user_api="blas"):
        together_s = tuple((k, _best(_solve(k), 2)) for k in (_EIGEN_SIZES[-1], _LARGE_SIZE))
    return replace(known, eigen_s=eigen_s, together_s=together_s)


def _solve(k: int) -> Callable[[], object]:
    block = np.random.default_rng(k).standard_normal((k, k))
    gram = block.T @ block
    return lambda: np.linalg.eigvalsh(gram)


@contextlib.contextmanager
def _all_cores() -> Iterator[Callable[[Callable[[], object], int], float]]:
    """Gives a `best(work, times)` that runs the work on every core at once."""
    cores = worker_count()
    with (
        threadpool_limits(1, user_api="blas"),
        np.errstate(all="ignore"),
        ThreadPoolExecutor(cores) as pool,
    ):

        def best(work: Callable[[], object], times: int) -> float:
            work_on_all = lambda: list(pool.map(lambda _: work(), range(cores)))  # noqa: E731
            return _best(work_on_all, times)

        yield best


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
