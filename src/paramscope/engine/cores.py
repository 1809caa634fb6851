"""The cores of this machine that are ours to use."""

from __future__ import annotations

import os


def worker_count() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
