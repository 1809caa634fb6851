"""The same exact route on a GPU, through torch: float64 on the device, blocks copied across.

Everything here takes a torch device by name, so that the logic runs, and is tested, on "cpu" too.

Several threads share a GPU, each with a stream of its own: one's bytes travel while another's are
computed, and the solver, whose steps are too small to fill a large GPU, works on several matrices
at a time.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from paramscope.checkpoint.dtypes import DTYPES, Codes, Dtype
from paramscope.engine import GPU_THREADS
from paramscope.engine.calibration import Rates, remembered
from paramscope.engine.gram import GpuError, GpuFullError
from paramscope.measure.spectrum import Float64

_log = logging.getLogger(__name__)

_TAKES_NO_WORK = "⚠️  GPU %s takes no more work (%s), going on without"
_COPY_BYTES = 2**26  # a block in float64 on the device: large for its kernels, no burden to it
_GRAM_SIZE = 2048
_EIGEN_SIZES = (64, 512, 2048)
_BATCH_SIZES = (64, 256, 1024)
_BATCH = 8
_SHARE_OF_MEMORY = 0.8
_PRODUCTS = threading.Lock()  # before PyTorch 2.10 threads that multiply may crash (pull 167722)


class Gpu:
    """One GPU by torch's name of it; only eigenvalues come back from there.

    Attributes:
        broken: after some errors a device takes no more work at all.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.broken = False
        self._looking = threading.Lock()

    def empty(self, k: int) -> GpuGram:
        with self.own_errors():
            return GpuGram(k, self)

    def eigenvalues(self, grams: Sequence[GpuGram]) -> list[Float64]:
        import torch

        matrices = [gram.matrix for gram in grams]
        with self.own_errors():
            stacked = matrices[0] if len(matrices) == 1 else torch.stack(matrices)
            found: Float64 = torch.linalg.eigvalsh(stacked).cpu().numpy()
        return list(found.reshape(len(matrices), -1)[:, ::-1])

    @contextlib.contextmanager
    def own_stream(self) -> Iterator[None]:
        """What this thread does on the device waits for nothing that other threads do there.

        Raises:
            GpuError: the device has no stream to give.
        """
        if self.device == "cpu":
            yield
            return
        import torch

        with self.own_errors():
            stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            yield

    def prepare(self) -> int:
        """Load the solver: threads that do so at the same time fail (pytorch issue 90613).

        Returns:
            How many bytes of the device's memory may be used: most of those that are free.

        Raises:
            GpuError: the device takes no work.
        """
        import torch

        try:
            self._solve_something()
            if self.device == "cpu":
                return 2**62
            torch.cuda.empty_cache()  # what earlier work no longer needs is free
            free_bytes, _ = torch.cuda.mem_get_info(self.device)
        except RuntimeError as error:
            raise GpuError(_first_line(error)) from error
        return int(free_bytes * _SHARE_OF_MEMORY)

    @contextlib.contextmanager
    def own_errors(self) -> Iterator[None]:
        """Turn what torch raises into our own errors, and give back what it keeps of the memory.

        Libraries below torch say "out of memory" in words of their own, and a solver that does
        not converge raises as well.
        """
        import torch

        try:
            yield
        except RuntimeError as error:
            first_line = _first_line(error)
            if torch.cuda.is_available():
                with contextlib.suppress(RuntimeError):
                    torch.cuda.empty_cache()
            if isinstance(error, torch.OutOfMemoryError) or _says_full(str(error)):
                raise GpuFullError(first_line) from error
            self._look_whether_broken(first_line)
            raise GpuError(first_line) from error

    def _look_whether_broken(self, problem: str) -> None:
        with self._looking:
            if self.broken:
                return
            try:
                self._solve_something()
            except RuntimeError:
                self.broken = True
                _log.warning(_TAKES_NO_WORK, self.device, problem)

    def _solve_something(self) -> None:
        import torch

        torch.linalg.eigvalsh(torch.eye(2, dtype=torch.float64, device=self.device)).sum().item()


class GpuGram:
    """A k×k Gram matrix in float64 on a device; only codes travel there."""

    def __init__(self, k: int, gpu: Gpu) -> None:
        import torch

        self._torch = torch
        self._gpu = gpu
        self._device = torch.device(gpu.device)
        self.matrix = torch.zeros((k, k), dtype=torch.float64, device=self._device)

    def add(self, codes: Codes, dtype: Dtype) -> None:
        rows = max(1, _COPY_BYTES // (8 * codes.shape[1]))
        for start in range(0, len(codes), rows):
            self.multiply(self.decoded(codes[start : start + rows], dtype))

    def multiply(self, block: Any) -> None:
        """Take in a block that `decoded` gave."""
        with self._gpu.own_errors(), _PRODUCTS:
            self.matrix.addmm_(block.T, block)

    def decoded(self, codes: Codes, dtype: Dtype) -> Any:
        """A block in float64 on the device; 16-bit floats are widened there, exactly."""
        if codes.strides[0] < codes.strides[1]:  # columns that lie together: turned on the device
            return self.decoded(codes.T, dtype).T
        with self._gpu.own_errors():
            return self._copied(codes, dtype)

    def _copied(self, codes: Codes, dtype: Dtype) -> Any:
        torch = self._torch
        codes = np.ascontiguousarray(codes)
        narrow = {"BF16": torch.bfloat16, "F16": torch.float16}.get(dtype.name)
        if narrow is None and dtype.countable:
            return torch.from_numpy(dtype.decode(codes)).to(self._device)
        signed = codes.view(np.int16) if narrow is not None else codes
        stored = torch.from_numpy(np.require(signed, requirements="W")).to(self._device)
        if narrow is not None:
            stored = stored.view(narrow)
        return stored.to(torch.float64)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def _says_full(message: str) -> bool:
    return "out of memory" in message or "ALLOC_FAILED" in message


def gpu_rates(device: str) -> Rates:
    """This device's rates, measured once a day: consumer cards have little float64.

    Others may have been at work on it, so that what was measured once need not hold for ever.
    """
    import torch

    kind = f"{gpu_name(device)}|torch {torch.__version__}|{GPU_THREADS} threads|"
    today = datetime.date.today().isoformat()
    return remembered(kind + today, lambda: measure_gpu_rates(device), instead_of=kind)


def gpu_name(device: str) -> str:
    """What the maker calls it."""
    import torch

    return "cpu" if device == "cpu" else str(torch.cuda.get_device_name(device))


def measure_gpu_rates(device: str) -> Rates:
    """Time the kernels on all of a device's threads at once, copies to it included.

    Raises:
        GpuError: the device cannot do them now, as where others have its memory.
    """
    gpu = Gpu(device)
    gpu.prepare()
    rng = np.random.default_rng(0)
    codes = rng.integers(0x3C00, 0x3D00, size=(_GRAM_SIZE, _GRAM_SIZE), dtype=np.uint16)

    def built(k: int) -> GpuGram:
        gram = gpu.empty(k)
        gram.add(codes[:, :k], DTYPES["BF16"])
        return gram

    def timed(work: Callable[[], object]) -> float:
        def done() -> None:
            work()
            with gpu.own_errors():
                _wait(device)

        return _together(gpu, done)

    def solve(k: int, count: int) -> float:
        grams = [built(k) for _ in range(count)]
        with gpu.own_errors():
            _wait(device)
        return timed(lambda: gpu.eigenvalues(grams)) / count

    gram = gpu.empty(_GRAM_SIZE)
    block = gram.decoded(codes, DTYPES["BF16"])
    with gpu.own_errors():
        _wait(device)
    return Rates(
        gram_flops=_GRAM_SIZE**3 / timed(lambda: gpu.empty(_GRAM_SIZE).multiply(block)),
        eigen_s=tuple((k, solve(k, 1)) for k in _EIGEN_SIZES),
        batch_s=tuple((k, solve(k, _BATCH)) for k in _BATCH_SIZES),
        element_s=0.0,
        decode_s=timed(lambda: gram.decoded(codes, DTYPES["BF16"])) / codes.size,
    )


def _wait(device: str) -> None:
    import torch

    if device != "cpu":
        torch.cuda.current_stream(device).synchronize()


def _together(gpu: Gpu, work: Callable[[], object]) -> float:
    """Seconds for each of three on a thread, while all threads do the same; warmed up before."""
    begin = threading.Barrier(GPU_THREADS)

    def timed() -> float:
        try:
            with gpu.own_stream():
                work()
                begin.wait()
                started = time.perf_counter()
                for _ in range(3):
                    work()
                return (time.perf_counter() - started) / 3
        except BaseException:
            begin.abort()  # or the others would wait for ever
            raise

    with ThreadPoolExecutor(GPU_THREADS) as pool:
        futures = [pool.submit(timed) for _ in range(GPU_THREADS)]
    for problem in (future.exception() for future in futures):
        if problem and not isinstance(problem, threading.BrokenBarrierError):
            raise problem
    return max(future.result() for future in futures)
