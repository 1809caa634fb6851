"""The same exact route on a GPU, through torch: float64 on the device, blocks copied across.

Everything here takes a torch device by name, so that the logic runs, and is tested, on "cpu" too.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from paramscope.checkpoint.dtypes import Codes, Dtype
from paramscope.engine.calibration import Rates, remembered
from paramscope.engine.gram import DeviceFullError
from paramscope.measure.spectrum import Spectrum, spectrum_of_eigenvalues

_COPY_BYTES = 2**26  # a block in float64 on the device: large for its kernels, no burden to it
_GRAM_SIZE = 2048
_EIGEN_SIZES = (64, 512, 2048)


class GpuGram:
    """A k×k Gram matrix in float64 on a device; only codes travel there, only σ² come back."""

    def __init__(self, k: int, device: str) -> None:
        import torch

        self._torch = torch
        self._device = torch.device(device)
        with _memory_of(torch):
            self._gram = torch.zeros((k, k), dtype=torch.float64, device=self._device)

    def add(self, codes: Codes, dtype: Dtype) -> None:
        rows = max(1, _COPY_BYTES // (8 * codes.shape[1]))
        with _memory_of(self._torch):
            for start in range(0, len(codes), rows):
                block = self._decoded(codes[start : start + rows], dtype)
                self._gram.addmm_(block.T, block)

    def spectrum(self, *, long_side: int) -> Spectrum:
        with _memory_of(self._torch):
            eigenvalues = self._torch.linalg.eigvalsh(self._gram).cpu().numpy()
        return spectrum_of_eigenvalues(eigenvalues[::-1], long_side=long_side)

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


@contextlib.contextmanager
def _memory_of(torch: Any) -> Iterator[None]:
    """Turn the device's lack of memory into our own error, and give back what torch holds."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise DeviceFullError(str(error)) from error


def gpu_rates(device: str) -> Rates:
    """This device's rates, measured once and remembered: consumer cards have little float64."""
    import torch

    key = f"{gpu_name(device)}|torch {torch.__version__}"
    return remembered(key, lambda: measure_gpu_rates(device))


def gpu_name(device: str) -> str:
    """What the maker calls it."""
    import torch

    return "cpu" if device == "cpu" else str(torch.cuda.get_device_name(device))


def measure_gpu_rates(device: str) -> Rates:
    """Time the two kernels on a device; the copy to it is part of the Gram product's time."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0x3C00, 0x3D00, size=(_GRAM_SIZE, _GRAM_SIZE), dtype=np.uint16)
    dtype = _bfloat16()

    def gram() -> None:
        built = GpuGram(_GRAM_SIZE, device)
        built.add(codes, dtype)
        _wait(device)

    gram_s = _best(gram)
    eigen_s = []
    for k in _EIGEN_SIZES:
        built = GpuGram(k, device)
        built.add(codes[:, :k], dtype)
        eigen_s.append((k, _best(lambda built=built: built.spectrum(long_side=_GRAM_SIZE))))  # type: ignore[misc]
    return Rates(_GRAM_SIZE**3 / gram_s, tuple(eigen_s), element_s=0.0, decode_s=0.0)


def _bfloat16() -> Dtype:
    from paramscope.checkpoint.dtypes import DTYPES

    return DTYPES["BF16"]


def _wait(device: str) -> None:
    import torch

    if device != "cpu":
        torch.cuda.synchronize(device)


def _best(work: Callable[[], object]) -> float:
    """The shortest of three, after one that warms up."""
    durations = []
    for _ in range(4):
        started = time.perf_counter()
        work()
        durations.append(time.perf_counter() - started)
    return min(durations[1:])
