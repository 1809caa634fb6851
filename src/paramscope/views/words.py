"""Numbers as people read them."""

from __future__ import annotations


def count_text(n: int) -> str:
    """`22,713,216 (22.7 M)`; small numbers without the second form."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6)):
        if n >= size:
            return f"{n:,} ({n / size:.3g} {unit})"
    return f"{n:,}"


def bytes_text(n: int) -> str:
    """`86.7 MiB`."""
    size = float(n)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{int(size)} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")


def duration_text(seconds: float) -> str:
    """`0.4 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def printable(text: str, width: int = 0) -> str:
    """Text from a checkpoint, safe for a terminal: no control characters, shortened to width."""
    safe = "".join(char if char.isprintable() else "�" for char in text)
    if width and len(safe) > width:
        head = (width - 1) // 2
        return f"{safe[:head]}…{safe[len(safe) - (width - 1 - head) :]}"
    return safe
