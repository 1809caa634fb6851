"""Where paramscope remembers what can be made again: calibration, the demo's model."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """`PARAMSCOPE_CACHE`, else the platform's cache folder for the user. It may not exist yet."""
    chosen = os.environ.get("PARAMSCOPE_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return root / "paramscope"
