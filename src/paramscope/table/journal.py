"""The durable store of a run: every row as soon as it is measured, in one SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from paramscope.errors import RunError
from paramscope.measure.spectrum import Float64
from paramscope.table.schema import Row

JOURNAL = "journal.sqlite"
_SCHEMA_VERSION = "2"
_WORDS = {"checkpoint": "the weights (of another model, or changed since)"}

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished row: its place in the checkpoint, its cells, its spectrum if it has one."""

    position: int
    row: Row
    s: Float64 | None
    time_s: float


class Journal:
    """Rows and spectra of one run; one process writes at a time.

    A transaction holds whatever has finished since the last one, so a process killed at any
    moment loses only what was in flight. The rollback journal is used since the write-ahead log
    fails on network file systems.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], *, fresh: bool = False) -> None:
        """Open or create the journal in `folder`.

        Args:
            identity: what makes two runs the same run: checkpoint and settings.
            fresh: throw away what is there.

        Raises:
            RunError: the folder cannot be written, another process writes to it, or it holds
                a run of another identity.
        """
        self.path = folder / JOURNAL
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if fresh:
                self.path.unlink(missing_ok=True)
                Path(f"{self.path}-journal").unlink(missing_ok=True)
            self._connection = sqlite3.connect(self.path, isolation_level=None, timeout=2.0)
            self._create(identity)
        except (OSError, sqlite3.Error) as error:
            raise RunError(_cannot_write(self.path, error)) from error

    def _create(self, identity: dict[str, Any]) -> None:
        execute = self._connection.execute
        execute("PRAGMA journal_mode=DELETE")
        execute("PRAGMA synchronous=NORMAL")
        execute("PRAGMA locking_mode=EXCLUSIVE")
        execute("BEGIN EXCLUSIVE")
        execute("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        execute(
            "CREATE TABLE IF NOT EXISTS rows (position INTEGER PRIMARY KEY, status TEXT NOT NULL, "
            "cells TEXT NOT NULL, spectrum BLOB, time_s REAL NOT NULL)"
        )
        wanted = {"schema": _SCHEMA_VERSION, "identity": json.dumps(identity, sort_keys=True)}
        found = dict(execute("SELECT key, value FROM meta"))
        if found and found != wanted:
            execute("ROLLBACK")
            self._connection.close()
            raise RunError(_another_run(self.path.parent, found, wanted))
        execute("DELETE FROM meta")
        self._connection.executemany("INSERT INTO meta VALUES (?, ?)", wanted.items())
        execute("COMMIT")

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close()

    def done(self) -> set[int]:
        """Positions of the matrices that need not be measured again."""
        return {position for (position,) in self._connection.execute("SELECT position FROM rows")}

    def add(self, entries: Iterable[Entry]) -> None:
        """Store rows, all or none; they are on disk when this returns.

        Raises:
            RunError: the disk is full or gone; everything stored before is kept.
        """
        records = [
            (
                entry.position,
                str(entry.row["status"]),
                json.dumps(entry.row),
                None if entry.s is None else entry.s.astype("<f8").tobytes(),
                entry.time_s,
            )
            for entry in entries
        ]
        try:
            self._connection.execute("BEGIN")
            self._connection.executemany(
                "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?)", records
            )
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise RunError(_cannot_write(self.path, error)) from error

    def entries(self, *, spectra: bool) -> Iterator[Entry]:
        """Every row in the order of the checkpoint, with or without its singular values."""
        records = self._connection.execute(
            f"SELECT position, cells, {'spectrum' if spectra else 'NULL'}, time_s "
            "FROM rows ORDER BY position"
        )
        for position, cells, spectrum, time_s in records:
            s = None if spectrum is None else np.frombuffer(spectrum, dtype="<f8")
            yield Entry(position, json.loads(cells), s, time_s)

    def time_s(self) -> float:
        """Summed time that the matrices took on their workers."""
        (total,) = self._connection.execute("SELECT TOTAL(time_s) FROM rows").fetchone()
        return float(total)


def _cannot_write(path: Path, error: Exception) -> str:
    if "locked" in str(error):
        return (
            f"{path}: another process is writing to this run. "
            "Wait for it, or choose another folder with --out."
        )
    if "malformed" in str(error) or "not a database" in str(error):
        return f"{path}: the journal is damaged ({error}). Start over with --fresh."
    if "full" in str(error) or getattr(error, "errno", None) == 28:
        return f"{path}: the disk is full. Finished rows are kept; make room and run again."
    return f"{path}: cannot be written ({error}). Choose a folder you may write to with --out."


def _another_run(folder: Path, found: dict[str, str], wanted: dict[str, str]) -> str:
    ours = json.loads(wanted["identity"])
    theirs = json.loads(found.get("identity", "{}"))
    different = sorted(key for key in ours if ours[key] != theirs.get(key))
    said = ", ".join(_WORDS.get(key, key) for key in different) or "its version"
    return (
        f"{folder}: holds another run; it differs in {said}. "
        "Choose another folder with --out, or start over with --fresh."
    )
