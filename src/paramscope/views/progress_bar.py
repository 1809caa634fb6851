"""Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from paramscope.progress import OnProgress, Progress
from paramscope.views.words import bytes_text, duration_text, printable

if TYPE_CHECKING:
    from paramscope.source.fetch import DownloadProgress, OnDownload

_SECONDS_BETWEEN_LINES = 10.0


@contextlib.contextmanager
def shown_progress() -> Iterator[OnProgress]:
    """A listener that shows progress until the block ends."""
    if not sys.stderr.isatty():
        yield _with_opening(_lines())
        return
    with _bar() as listener:
        yield _with_opening(listener)


def _with_opening(listener: OnProgress) -> OnProgress:
    """Say once per model what an earlier run has left to do."""
    opened: set[str] = set()

    def tell(now: Progress) -> None:
        if now.label not in opened:
            opened.add(now.label)
            if now.done:
                print(f"{printable(now.label)}: {_left(now)}", file=sys.stderr, flush=True)
        listener(now)

    return tell


def _left(now: Progress) -> str:
    if now.done == now.total:
        return f"all {now.total:,} parameters were measured before; nothing to do (--fresh redoes)"
    return f"goes on after {now.done:,} of {now.total:,} parameters"


def _lines() -> OnProgress:
    """One line every ten seconds; nothing for a run that is over sooner."""
    last = time.monotonic()

    def tell(now: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            share = now.work_done / now.work_total if now.work_total else 1.0
            print(f"{now.label}: {share:.0%}, {_counts(now)}", file=sys.stderr, flush=True)

    return tell


@contextlib.contextmanager
def _bar() -> Iterator[OnProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[counts]}", markup=False),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def tell(now: Progress) -> None:
            if now.label not in tasks:
                tasks[now.label] = bar.add_task(printable(now.label, 24), counts="")
            bar.update(
                tasks[now.label],
                completed=now.work_done,
                total=now.work_total or 1.0,
                counts=_counts(now),
            )

        yield tell


@contextlib.contextmanager
def shown_download() -> Iterator[OnDownload]:
    """A listener that shows a download's bytes until the block ends."""
    if not sys.stderr.isatty():
        yield _download_lines()
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")

        def tell(now: DownloadProgress) -> None:
            name = f"{now.step} {printable(now.file, 32)}"
            bar.update(
                task, description=name, completed=now.done_bytes, total=now.total_bytes or None
            )

        yield tell


def _download_lines() -> OnDownload:
    last = time.monotonic()

    def tell(now: DownloadProgress) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            done, total = bytes_text(now.done_bytes), bytes_text(now.total_bytes)
            print(f"{now.step}: {done} of {total}", file=sys.stderr, flush=True)

    return tell


def _counts(now: Progress) -> str:
    eta = "" if now.eta_s is None else f", {duration_text(now.eta_s)} to go"
    return f"{now.done:,}/{now.total:,} parameters{eta}"
