"""Which devices compute the spectra."""

from __future__ import annotations

import ctypes
import logging
import sys

from paramscope.engine.gpu import Gpu
from paramscope.engine.gram import GpuError
from paramscope.errors import DeviceError, UsageError

_log = logging.getLogger(__name__)

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
        return (
            (),
            "this PyTorch sees no GPU (a build for CPU only? CUDA_VISIBLE_DEVICES empty?)",
        )
    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    problems = {name: _problem_of(name) for name in names}
    told = "; ".join(f"{name}: {problem}" for name, problem in problems.items() if problem)
    usable = [name for name in names if not problems[name]]
    if usable and told:
        _log.warning("⚠️  GPUs left out: %s", told)
    # One plan serves all: a card of another kind, for the display perhaps, would be waited for.
    kinds = {name: torch.cuda.get_device_name(name) for name in usable}
    return tuple(name for name in usable if kinds[name] == kinds[usable[0]]), told


def _problem_of(name: str) -> str:
    """Why a device takes no work: another process has it, or this PyTorch has no code for it."""
    try:
        Gpu(name).prepare()
    except GpuError as error:
        return str(error)
    return ""


def _driver_is_installed() -> bool:
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
