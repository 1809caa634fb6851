"""`report.md`: the findings for a repository or a model card, with the static plots."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import paramscope
from paramscope.views.findings import Evidence, Section, visible
from paramscope.views.findings.finding import Finding, Name, Table, Text
from paramscope.views.html import command, provenance
from paramscope.views.words import printable

_SIGNS = {"fault": "❌", "notable": "⚠️", "sound": "✅", "fact": "•"}
_WORD_SPECIAL = re.compile(r"([\\`*_\[\]<>|~&$])")


def markdown(evidence: Evidence, sections: Sequence[Section], plots: Mapping[str, str]) -> str:
    """The whole document.

    Args:
        plots: for a file below the run's folder, what it shows.
    """
    return "\n".join(_lines(evidence, sections, plots)) + "\n"


def code(text: str) -> str:
    """Text from a checkpoint as a code span that nothing in it can end.

    A span is closed by as many backticks as open it, so the fence is longer than any run inside.
    A bar would end a table's cell even there, so it is replaced by one that looks like it.
    """
    text = printable(text).replace("|", "\u2223")
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    space = " " if not text.strip() or text[0] in "` " or text[-1] in "` " else ""
    return f"{fence}{space}{text}{space}{fence}"


def escaped(text: str) -> str:
    """A sentence of our own as Markdown: what would be markup is not."""
    return _WORD_SPECIAL.sub(r"\\\1", visible(text))


def _text(text: Text) -> str:
    return "".join(code(part.text) if isinstance(part, Name) else escaped(part) for part in text)


def _lines(
    evidence: Evidence, sections: Sequence[Section], plots: Mapping[str, str]
) -> Iterator[str]:
    model_id = str(evidence.meta["model"]["model_id"])
    yield f"# What is in the parameters of {code(printable(model_id, 120))}"
    for section in sections:
        yield f"\n## {escaped(section.heading)}\n"
        for finding in section.findings:
            yield from _finding(finding)
    if plots:
        yield "\n## Plots\n"
        for file, shows in plots.items():
            yield f"![{escaped(shows)}]({file})\n"
    yield "## Provenance\n"
    yield "```sh"
    yield _no_fence(command(evidence.meta))
    yield "```\n"
    for group in provenance(evidence.meta):
        yield f"### {escaped(group.heading)}\n"
        headings = tuple(group.headings) or ("What", "Value")
        label = code if group.headings else escaped
        lines = [[label(line[0]), *map(code, line[1:])] for line in group.lines]
        yield from _rows(headings, lines)
        yield ""
    yield f"Made by paramscope {paramscope.__version__}."


def _no_fence(text: str) -> str:
    return text.replace("```", "'''")


def _finding(finding: Finding) -> Iterator[str]:
    yield f"{_SIGNS[finding.level]} **{_text(finding.title)}**"
    if finding.detail:
        yield ""
        yield _text(finding.detail)
    if finding.table:
        yield ""
        yield from _table(finding.table)
    yield ""


def _table(table: Table) -> Iterator[str]:
    yield from _rows(
        table.headings, [[_text(cell) for cell in line] for line in table.cells], table
    )
    if table.more:
        yield ""
        yield escaped(table.more)


def _rows(
    headings: Sequence[str], lines: Sequence[Sequence[str]], table: Table | None = None
) -> Iterator[str]:
    numeric = table.numeric if table else frozenset()
    yield f"| {' | '.join(escaped(heading) for heading in headings)} |"
    yield f"|{'|'.join('---:' if i in numeric else '---' for i in range(len(headings)))}|"
    for line in lines:
        yield f"| {' | '.join(line)} |"
