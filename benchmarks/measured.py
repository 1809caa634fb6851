"""What the benchmarks share: processes timed whole, and results kept with machine and versions."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("paramscope", "numpy", "torch", "weightwatcher")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Finished:
    """A process that has ended: wall time, largest resident memory, what it printed."""

    wall_s: float
    peak_mib: float
    out: str


class FailedError(Exception):
    """A command that failed, or took too long; the last line says why."""


def timed(command: Sequence[str], *, limit_s: float | None = None) -> Finished:
    """Run a command to its end; what it warns of is passed on.

    Raises:
        FailedError: it did not end well, or not within the limit.
    """
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        late = threading.Timer(limit_s or threading.TIMEOUT_MAX, process.kill)
        late.daemon = True
        late.start()
        try:
            out = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        finally:
            late.cancel()
        wall_s = time.perf_counter() - started
        errors.seek(0)
        said = errors.read().strip()
    if status:
        if limit_s is not None and wall_s >= limit_s:
            said = f"not done in {limit_s:.0f} s"
        raise FailedError(f"{' '.join(command)[:200]}\n{said[-2000:] or f'status {status}'}")
    sys.stderr.write("".join(f"{line}\n" for line in said.splitlines() if "⚠️" in line))
    return Finished(wall_s, usage.ru_maxrss / 1024, out)


def record(name: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table and keep it as `results/<name>.json`, from which the docs' page is made.

    Args:
        name: of the file; a second run on the same kind of machine replaces the first.
        title: what was measured, in one sentence.
    """
    RESULTS.mkdir(exist_ok=True)
    result = {
        "title": title,
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *_arguments()]),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "columns": list(columns),
        "rows": [list(row) for row in rows],
    }
    text = json.dumps(result, indent=1, ensure_ascii=False)
    (RESULTS / f"{name}.json").write_text(text + "\n", "utf-8")
    shown = [[str(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(len(row[at]) for row in shown) for at in range(len(columns))]
    print(title)
    for row in shown:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


def _arguments() -> list[str]:
    """As given, absolute paths by their last part: they say nothing elsewhere."""
    return [Path(a).name if Path(a).is_absolute() else a for a in sys.argv[1:]]


def machine() -> dict[str, Any]:
    """Processor, cores, memory and GPU, without names or paths of the place."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": CORES,
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "gpu": _gpu() if "cuda" in sys.argv else "",
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpu() -> str:
    if shutil.which("nvidia-smi") is None:
        return ""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    names = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
    return ", ".join(names)


def versions() -> dict[str, str]:
    """Of Python and of the packages that were compared."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def seconds(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def times(value: float) -> str:
    """A ratio."""
    return f"{value:.2f}×" if value < 10 else f"{value:.1f}×"
