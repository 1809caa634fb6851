"""A run's journal as another process sees it."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path


def rows_in(journal: Path) -> int:
    """How many rows it has; 0 also where that cannot be had just now, as another writes."""
    if not journal.is_file():
        return 0
    try:
        place = f"file:{journal}?mode=ro&nolock=1"
        with closing(sqlite3.connect(place, uri=True)) as connection:
            return int(connection.execute("SELECT COUNT(*) FROM rows").fetchone()[0])
    except sqlite3.Error:
        return 0


def wait_for_rows(journal: Path, count: int, process: subprocess.Popen[str]) -> int:
    """Until the journal has so many, or its process has ended; how many there are then."""
    while (found := rows_in(journal)) < count and process.poll() is None:
        time.sleep(0.005)
    return found
