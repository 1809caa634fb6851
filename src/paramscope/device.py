"""Which devices compute the spectra."""

from __future__ import annotations

import ctypes
import sys

from paramscope.errors import DeviceError, UsageError

DEVICES = ("auto", "cpu", "cuda")


def choose_gpus(name: str) -> tuple[str, ...]:
    """The GPUs that a run uses for "auto", "cpu" or "cuda"; none means the CPU alone.

    Raises:
        DeviceError: CUDA was asked for and is not there.
        UsageError: no such name.
    """
    if name not in DEVICES:
        raise UsageError(f"--device: unknown {name!r}. Known: {', '.join(DEVICES)}.")
    if name == "cpu":
        return ()
    found, problem = _cuda_devices()
    if name == "cuda" and not found:
        raise DeviceError(
            f"❌ CUDA not available: {problem}. Use --device cpu, or leave --device out."
        )
    return found


def _cuda_devices() -> tuple[tuple[str, ...], str]:
    """The CUDA devices; where there are none, why."""
    if not _driver_is_installed():  # importing torch takes longer than many an analysis
        return (), "no NVIDIA driver was found"
    try:
        import torch
    except ImportError:
        return (), "PyTorch is not installed (pip install 'paramscope[gpu]')"
    if not torch.cuda.is_available():
        return (), "this PyTorch cannot use the GPU (is it a build for CPU only?)"
    return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count())), ""


def _driver_is_installed() -> bool:
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
