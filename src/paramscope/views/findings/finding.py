"""What a finding is: a sentence in plain words, with the rows it stands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paramscope.table.schema import Row
from paramscope.views.words import printable

SHARES = (90, 95, 99)
LEVELS = ("fault", "notable", "sound", "fact")
SHOWN = 10  # lines of a table
_NAME_LENGTH = 72


@dataclass(frozen=True, slots=True)
class Name:
    """Text that comes from a checkpoint; `row` is the place in the table it leads to."""

    text: str
    row: int | None = None


Text = tuple[str | Name, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers behind a finding; `numeric` columns are set flush right."""

    headings: tuple[str, ...]
    cells: tuple[tuple[Text, ...], ...]
    numeric: frozenset[int] = frozenset()
    more: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is so.

    Attributes:
        key: unique in the report; the anchor of the page.
        level: "fault" (something is broken), "notable" (look at it), "sound" (looked for and not
            found), "fact".
        title: one sentence.
        detail: more sentences; how it was decided.
        rows: places in the table of what it is about.
    """

    key: str
    level: str
    title: Text
    detail: Text = ()
    rows: tuple[int, ...] = ()
    table: Table | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """Findings on one question."""

    key: str
    heading: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Evidence:
    """What findings are drawn from: the tables of a run, nothing else.

    Attributes:
        rows: the table.
        meta: `run_meta.json`.
        errors: for a row by its place, the relative error √(1 - energy) of truncating it at the
            ranks that carry 90, 95 and 99 % of the variance; only where the spectrum is complete.
        distances: for such a row, how far its spectrum is from that of random numbers of the same
            shape and variance: the largest difference, relative to the largest value.
        embedding: what the analysis of the embedding wrote; None where there is none.
    """

    rows: Sequence[Row]
    meta: Mapping[str, Any]
    errors: Mapping[int, Sequence[float]] = field(default_factory=dict)
    distances: Mapping[int, float] = field(default_factory=dict)
    embedding: Mapping[str, Any] | None = None

    def name(self, place: int) -> Name:
        """The matrix of a row, shortened where it is long."""
        return Name(row_name(self.rows[place], _NAME_LENGTH), place)

    def names(self, places: Sequence[int], most: int = 3) -> Text:
        """`a, b, c and 4 more`."""
        parts: list[str | Name] = []
        for place in places[:most]:
            parts += [", ", self.name(place)] if parts else [self.name(place)]
        if len(places) > most:
            parts.append(f" and {len(places) - most:,} more")
        return tuple(parts)

    def weights(self) -> list[int]:
        """The places of the matrices: no vector, no norm, no bias, no buffer."""
        return [place for place, row in enumerate(self.rows) if is_weight(row)]


def row_name(row: Row, width: int = 0) -> str:
    """`name [part]`, without characters that could not be seen."""
    part = f" [{row['part']}]" if row["part"] else ""
    return printable(f"{row['param_name']}{part}", width)


def is_weight(row: Row) -> bool:
    """Whether a row is a matrix in the strict sense."""
    return (
        number(row, "rows") > 1
        and number(row, "cols") > 1
        and row["block_type"] not in ("norm", "bias", "buffer")
    )


def number(row: Row, column: str) -> float:
    """A cell as a number; 0 where it is empty."""
    value = row.get(column)
    return float(value) if isinstance(value, (int, float)) else 0.0


def visible(text: str) -> str:
    """A sentence, whatever got into it: no character that hides, or that turns what follows."""
    return "".join(c if c.isprintable() or c == "\u00a0" else "\ufffd" for c in text)


def count(n: int, one: str, many: str = "") -> str:
    """`1 matrix`, `1,200 matrices`."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def matrices(n: int) -> str:
    """`1 matrix`, `1,200 matrices`."""
    return count(n, "matrix", "matrices")


def more(places: Sequence[int]) -> str:
    """What a table of the first rows leaves out."""
    return f"and {len(places) - SHOWN:,} more" if len(places) > SHOWN else ""


def percent(share: float) -> str:
    """`31.6 %`; small shares keep two digits that say something."""
    if 0 < share < 0.0005:
        return "under 0.1\u00a0%"
    if 0.9995 <= share < 1:
        return "over 99.9\u00a0%"
    return f"{share:.1%}".replace("%", "\u00a0%")
