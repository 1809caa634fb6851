"""The same exact route on a GPU, through torch: float64 on the device, blocks copied across.

Everything here takes a torch device by name, so that the logic runs, and is tested, on "cpu" too.

Several threads share a GPU, each with a stream of its own: one's bytes travel while another's are
computed, and the solver, whose steps are too small to fill a large GPU, works on several matrices
at a time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from paramscope.checkpoint.dtypes import DTYPES, Codes, Dtype
from paramscope.engine.calibration import Rates, remembered
from paramscope.engine.gram import DeviceFailedError, DeviceFullError
from paramscope.measure.spectrum import Float64

THREADS = 4  # on each GPU

_COPY_BYTES = 2**26  # a block in float64 on the device: large for its kernels, no burden to it
_GRAM_SIZE = 2048
_EIGEN_SIZES = (64, 512, 2048)
_BATCH_SIZES = (64, 256, 1024)
_BATCH = 8


class GpuGram:
    """A k×k Gram matrix in float64 on a device; only codes travel there."""

    def __init__(self, k: int, device: str) -> None:
        import torch

        self._torch = torch
        self._device = torch.device(device)
        self.matrix = torch.zeros((k, k), dtype=torch.float64, device=self._device)

    def add(self, codes: Codes, dtype: Dtype) -> None:
        rows = max(1, _COPY_BYTES // (8 * codes.shape[1]))
        with _own_errors():
            for start in range(0, len(codes), rows):
                block = self._decoded(codes[start : start + rows], dtype)
                self.matrix.addmm_(block.T, block)

    def _decoded(self, codes: Codes, dtype: Dtype) -> Any:
        """A block in float64 on the device; 16-bit floats are widened there, exactly."""
        torch = self._torch
        if codes.strides[0] < codes.strides[1]:  # columns that lie together: turned on the device
            return self._decoded(codes.T, dtype).T
        codes = np.ascontiguousarray(codes)
        narrow = {"BF16": torch.bfloat16, "F16": torch.float16}.get(dtype.name)
        if narrow is None and dtype.countable:
            return torch.from_numpy(dtype.decode(codes)).to(self._device)
        signed = codes.view(np.int16) if narrow is not None else codes
        stored = torch.from_numpy(np.require(signed, requirements="W")).to(self._device)
        if narrow is not None:
            stored = stored.view(narrow)
        return stored.to(torch.float64)


class Gpu:
    """One GPU by torch's name of it; only eigenvalues come back from there."""

    def __init__(self, device: str) -> None:
        self._device = device

    def empty(self, k: int) -> GpuGram:
        with _own_errors():
            return GpuGram(k, self._device)

    def eigenvalues(self, grams: Sequence[GpuGram]) -> list[Float64]:
        import torch

        matrices = [gram.matrix for gram in grams]
        with _own_errors():
            stacked = matrices[0] if len(matrices) == 1 else torch.stack(matrices)
            found: Float64 = torch.linalg.eigvalsh(stacked).cpu().numpy()
        return list(found.reshape(len(matrices), -1)[:, ::-1])

    @contextlib.contextmanager
    def own_stream(self) -> Iterator[None]:
        """What this thread does on the device waits for nothing that other threads do there."""
        if self._device == "cpu":
            yield
            return
        import torch

        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            yield

    def prepare(self) -> None:
        """Load the solver; threads that do so at the same time fail (pytorch issue 90613)."""
        import torch

        with contextlib.suppress(RuntimeError):  # it will be met again, and told, with a matrix
            torch.linalg.eigvalsh(torch.eye(2, dtype=torch.float64, device=self._device))

    def free_bytes(self) -> int:
        """What is free of the device's memory now."""
        import torch

        if self._device == "cpu":
            return 2**63 - 1
        free_bytes, _ = torch.cuda.mem_get_info(self._device)
        return int(free_bytes)


@contextlib.contextmanager
def _own_errors() -> Iterator[None]:
    """Turn what torch raises into our own errors, and give back what it keeps of the memory.

    Libraries below torch say "out of memory" in words of their own, and a solver that does not
    converge raises as well; after some errors a device takes no more work at all.
    """
    import torch

    try:
        yield
    except RuntimeError as error:
        full = isinstance(error, torch.OutOfMemoryError) or _says_full(str(error))
        if torch.cuda.is_available():
            with contextlib.suppress(RuntimeError):
                torch.cuda.empty_cache()
        if full:
            raise DeviceFullError(str(error)) from error
        first_line = str(error).strip().partition("\n")[0]
        raise DeviceFailedError(first_line[:200]) from error


def _says_full(message: str) -> bool:
    return "out of memory" in message or "ALLOC_FAILED" in message


def gpu_rates(device: str) -> Rates:
    """This device's rates, measured once and remembered: consumer cards have little float64."""
    import torch

    key = f"{gpu_name(device)}|torch {torch.__version__}|2"
    return remembered(key, lambda: measure_gpu_rates(device))


def gpu_name(device: str) -> str:
    """What the maker calls it."""
    import torch

    return "cpu" if device == "cpu" else str(torch.cuda.get_device_name(device))


def measure_gpu_rates(device: str) -> Rates:
    """Time the kernels on all of a device's threads at once, copies to it included."""
    gpu = Gpu(device)
    gpu.prepare()
    rng = np.random.default_rng(0)
    codes = rng.integers(0x3C00, 0x3D00, size=(_GRAM_SIZE, _GRAM_SIZE), dtype=np.uint16)

    def built(k: int) -> GpuGram:
        gram = gpu.empty(k)
        gram.add(codes[:, :k], DTYPES["BF16"])
        return gram

    def build() -> None:
        built(_GRAM_SIZE)
        _wait(device)

    def solve(k: int, count: int) -> float:
        grams = [built(k) for _ in range(count)]
        _wait(device)
        return _best(gpu, lambda: gpu.eigenvalues(grams)) / count

    gram_s = _best(gpu, build)
    return Rates(
        gram_flops=_GRAM_SIZE**3 / gram_s,
        eigen_s=tuple((k, solve(k, 1)) for k in _EIGEN_SIZES),
        batch_s=tuple((k, solve(k, _BATCH)) for k in _BATCH_SIZES),
        element_s=0.0,
        decode_s=0.0,
    )


def _wait(device: str) -> None:
    import torch

    if device != "cpu":
        torch.cuda.current_stream(device).synchronize()


def _best(gpu: Gpu, work: Callable[[], object]) -> float:
    """The shortest of three on all threads at once, after one that warms up."""

    def timed() -> float:
        with gpu.own_stream():
            durations = []
            for _ in range(4):
                started = time.perf_counter()
                work()
                durations.append(time.perf_counter() - started)
        return min(durations[1:])

    with ThreadPoolExecutor(THREADS) as pool:
        return max(pool.map(lambda _: timed(), range(THREADS)))
