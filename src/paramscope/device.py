"""Which device computes the spectra."""

from __future__ import annotations

from paramscope.errors import DeviceError, UsageError

DEVICES = ("auto", "cpu", "cuda")


def choose_device(name: str) -> str:
    """The device that a run uses for `name`: "auto", "cpu" or "cuda".

    Raises:
        DeviceError: CUDA was asked for and is not there.
        UsageError: no such name.
    """
    if name not in DEVICES:
        raise UsageError(f"--device: unknown {name!r}. Known: {', '.join(DEVICES)}.")
    if name == "cuda":
        raise DeviceError(
            "❌ CUDA not available: this version computes on the CPU. "
            "Use --device cpu, or leave --device out."
        )
    return "cpu"
