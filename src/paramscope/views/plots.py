"""The static plots: PNG or SVG through matplotlib's Agg, without pyplot and its global state.

Each title says what is shown, each axis names its quantity and unit. Colours are Okabe and Ito's
and Cividis, which the colour-blind tell apart; lines also differ by marker.
"""

from __future__ import annotations

import math
import statistics
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramscope.anatomy.roles import role_order
from paramscope.files import whole_file
from paramscope.table.schema import Row
from paramscope.views.findings.finding import Evidence, number, percent
from paramscope.views.sampled_spectra import SampledSpectra
from paramscope.views.words import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a51a3", "#666666")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
_STYLES = ("-", "--", ":", "-.")
_MOST_TOWERS = 4
_MOST_BARS = 20
_DPI = 150
_MOST_LINES = 60  # spectra per panel
_MOST_PANELS = 12
_CHARACTERS_AN_INCH = 11  # of a title
_FEWEST_VALUES = 8  # a shorter spectrum is no curve

# Per layer and role: column, what it says, whether its scale is logarithmic.
_BY_LAYER = (
    ("svd_90_percent_ratio", "Share of directions that carries 90 % of the variance", False),
    ("stable_rank", "Stable rank", True),
    ("effective_rank", "Effective rank", True),
    ("frobenius_norm", "Frobenius norm", True),
    ("spectral_norm", "Largest singular value", True),
)
_OVER_DEPTH = ("svd_90_percent_ratio", "stable_rank", "frobenius_norm")


def draw_plots(
    evidence: Evidence, spectra: SampledSpectra, folder: Path, formats: Sequence[str]
) -> dict[str, str]:
    """Draw into `folder`; for each PNG (or the first format), its name and what it shows."""
    shown: dict[str, str] = {}
    for name, says, figure in _figures(evidence, spectra):
        for index, kind in enumerate(formats):
            _save(figure, folder / f"{name}.{kind}", kind)
            if index == 0:
                shown[f"{name}.{kind}"] = says
    return shown


def _figures(evidence: Evidence, spectra: SampledSpectra) -> Iterator[tuple[str, str, Figure]]:
    for tower, group in list(_by_tower(evidence).items())[:_MOST_TOWERS]:
        ending = f"_{_slug(tower)}" if tower else ""
        where = f" ({drawable(tower, 24)})" if tower else ""
        for column, says, logarithmic in _BY_LAYER:
            grid = _grid(evidence.rows, group, column)
            if grid:
                title = f"{says}, by layer and role{where}"
                yield f"heat_{column}{ending}", title, _heat(grid, title, says, logarithmic)
            if grid and column in _OVER_DEPTH:
                title = f"{says}, over depth{where}"
                yield f"depth_{column}{ending}", title, _depth(grid, title, says, logarithmic)
    title = "Parameters by role"
    yield "parameters_by_role", title, _parameters(evidence, title)
    if any(length >= _FEWEST_VALUES for length in spectra.lengths.values()):
        title = (
            "Singular values by role, each relative to the largest of its matrix "
            "(dotted: random numbers)"
        )
        yield "spectra", title, _spectra(evidence, spectra, title)


Grid = dict[str, dict[int, float]]


def _by_tower(evidence: Evidence) -> dict[str, list[int]]:
    towers: dict[str, list[int]] = defaultdict(list)
    for place in evidence.weights():
        if isinstance(evidence.rows[place]["layer_index"], int):
            towers[str(evidence.rows[place]["tower"] or "")].append(place)
    return dict(sorted(towers.items(), key=lambda item: -len(item[1])))


def _grid(rows: Sequence[Row], places: Sequence[int], column: str) -> Grid:
    """By role and layer, the median over the matrices that are both (experts)."""
    values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for place in places:
        row = rows[place]
        if row[column] is not None:
            values[str(row["role"])][int(number(row, "layer_index"))].append(number(row, column))
    return {
        role: {layer: statistics.median(found) for layer, found in sorted(layers.items())}
        for role, layers in sorted(values.items(), key=lambda item: role_order(item[0]))
    }


def _figure(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Axes = figure.add_subplot()
    axes.set_title(title, fontsize=11, loc="left", wrap=True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _heat(grid: Grid, title: str, says: str, logarithmic: bool) -> Figure:
    from matplotlib.colors import LogNorm, Normalize

    roles = list(grid)
    layers = sorted({layer for values in grid.values() for layer in values})
    numbers = [[grid[role].get(layer, math.nan) for layer in layers] for role in roles]
    known = [x for line in numbers for x in line if not math.isnan(x)]
    positive = [x for x in known if x > 0]
    norm: Normalize = Normalize(min(known), max(known))
    if logarithmic and positive:
        norm = LogNorm(min(positive), max(max(positive), min(positive) * (1 + 1e-9)))
    figure, axes = _figure(min(14.0, 4.2 + 0.26 * len(layers)), 1.7 + 0.3 * len(roles), title)
    image = axes.imshow(numbers, cmap="cividis", norm=norm, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(roles)), [drawable(role, 32) for role in roles])
    step = max(1, math.ceil(len(layers) / 20))
    axes.set_xticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
    axes.set_xlabel("layer")
    axes.set_ylabel("role")
    bar = figure.colorbar(image, ax=axes)
    bar.set_label(says + (" (log scale)" if logarithmic else ""), fontsize=8)
    bar.ax.tick_params(which="both", labelsize=8)
    if logarithmic:
        _plain_ticks(bar.ax.yaxis)
    return figure


def _depth(grid: Grid, title: str, says: str, logarithmic: bool) -> Figure:
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure(8.5, 4.6, title)
    for index, (role, values) in enumerate(grid.items()):
        axes.plot(
            list(values),
            list(values.values()),
            label=drawable(role, 32),
            color=COLOURS[index % len(COLOURS)],
            marker=_MARKERS[index % len(_MARKERS)],
            linestyle=_STYLES[index // len(COLOURS) % len(_STYLES)],
            markersize=4,
            linewidth=1.4,
        )
    if logarithmic and all(x > 0 for values in grid.values() for x in values.values()):
        axes.set_yscale("log")
        _plain_ticks(axes.yaxis)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layer")
    axes.set_ylabel(says, fontsize=9, wrap=True)
    axes.grid(alpha=0.3)
    figure.legend(
        loc="outside lower center", ncols=min(4, max(1, len(grid))), fontsize=8, frameon=False
    )
    return figure


def _plain_ticks(axis: Any) -> None:
    """`300` rather than `3 × 10²` on a logarithmic axis, at a few ticks."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _parameters(evidence: Evidence, title: str) -> Figure:
    from matplotlib.ticker import EngFormatter

    elements: dict[str, float] = defaultdict(float)
    for row in evidence.rows:
        if row["block_type"] != "buffer":
            tower = f"{row['tower']}: " if row["tower"] else ""
            elements[f"{tower}{row['role']}"] += number(row, "numel")
    order = sorted(elements.items(), key=lambda item: -item[1])
    shown, rest = order[:_MOST_BARS], order[_MOST_BARS:]
    if rest:
        shown.append((f"{len(rest)} more", sum(n for _, n in rest)))
    total = sum(elements.values()) or 1.0
    figure, axes = _figure(7.5, 1.4 + 0.27 * max(1, len(shown)), title)
    bars = axes.barh(
        [drawable(name, 36) for name, _ in shown], [n for _, n in shown], color=COLOURS[0]
    )
    axes.bar_label(
        bars, [f"{n:,.0f} ({percent(n / total)})" for _, n in shown], padding=3, fontsize=8
    )
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.invert_yaxis()
    axes.set_xlabel("parameters (elements)")
    axes.set_ylabel("role")
    axes.margins(x=0.28)
    return figure


def _spectra(evidence: Evidence, spectra: SampledSpectra, title: str) -> Figure:
    """All spectra of a role in one panel, thin; the median matrix's random counterpart dotted."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    by_role: dict[str, list[int]] = defaultdict(list)
    for place in sorted(p for p, n in spectra.lengths.items() if n >= _FEWEST_VALUES):
        by_role[str(evidence.rows[place]["role"])].append(place)
    most = sorted(by_role, key=lambda role: (-len(by_role[role]), role_order(role)))
    roles = sorted(most[:_MOST_PANELS], key=role_order)
    columns = min(4, len(roles))
    lines = math.ceil(len(roles) / columns)
    figure = Figure(
        figsize=(max(5.0, 2.9 * columns), 0.9 + 2.3 * lines), dpi=_DPI, layout="constrained"
    )
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(lines, columns, sharex=True, squeeze=False).flat
    for panel, role in zip(panels, roles, strict=False):
        _panel(panel, evidence, spectra, by_role[role], role)
    for panel in list(figure.axes)[len(roles) :]:
        panel.set_visible(False)
    for panel in list(figure.axes)[: len(roles)][-columns:]:  # the lowest of its column
        panel.tick_params(labelbottom=True)
    lines_of_title = textwrap.fill(title, int(_CHARACTERS_AN_INCH * figure.get_figwidth()))
    figure.suptitle(lines_of_title, fontsize=11, x=0.01, ha="left")
    figure.supxlabel("i / k: share of the directions", fontsize=9)
    figure.supylabel("σᵢ / σ₁ (log scale)", fontsize=9)
    return figure


def _panel(
    panel: Axes, evidence: Evidence, spectra: SampledSpectra, places: Sequence[int], role: str
) -> None:
    step = math.ceil(len(places) / _MOST_LINES)
    lowest = 1.0
    for place in places[::step]:
        s = spectra.values[place]
        side = number(evidence.rows[place], "design_rank") or 1.0
        if s[0] > 0:
            share = (spectra.positions[spectra.lengths[place]] + 1) / side
            panel.plot(share, s / s[0], color=COLOURS[0], linewidth=0.7, alpha=0.6)
            positive = (s / s[0])[s > 0]
            lowest = min(lowest, float(positive[int(0.98 * (len(positive) - 1))]))
    _random_line(panel, evidence, spectra, places[len(places) // 2])
    panel.set_yscale("log")
    panel.set_ylim(max(lowest / 2, 1e-7), 1.5)
    panel.set_title(f"{drawable(role, 24)} ({len(places):,})", fontsize=8.5)
    panel.tick_params(labelsize=7)
    panel.grid(alpha=0.25)


def _random_line(panel: Axes, evidence: Evidence, spectra: SampledSpectra, place: int) -> None:
    from paramscope.measure.random_matrix import random_spectrum

    row = evidence.rows[place]
    sides = int(number(row, "rows")), int(number(row, "cols"))
    kept = spectra.positions[spectra.lengths[place]]
    expected = random_spectrum(*sides, kept)
    share = (kept + 1) / min(sides)
    panel.plot(share, expected / expected[0], color=COLOURS[1], linewidth=1.2, linestyle=":")


def drawable(text: str, width: int = 0) -> str:
    """Text without mathematics markup and without characters that the font has not."""
    safe = printable(text, width)
    known = _glyphs()
    return "".join(c if ord(c) in known else "?" for c in safe).replace("$", r"\$")


def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return _glyphs_of(findfont("DejaVu Sans"), get_font)


def _glyphs_of(path: str, get_font: Callable[[str], Any]) -> frozenset[int]:
    if path not in _KNOWN:
        _KNOWN[path] = frozenset(get_font(path).get_charmap())
    return _KNOWN[path]


_KNOWN: dict[str, frozenset[int]] = {}


def _slug(text: str) -> str:
    """A tower's name as part of a file's name."""
    safe = "".join(c if c.isascii() and c.isalnum() else "_" for c in text)
    return safe[:40] or "tower"


def _save(figure: Figure, path: Path, kind: str) -> None:
    """Whole or not at all, and the same bytes for the same numbers."""
    import matplotlib as mpl

    metadata = (
        {"Date": None, "Creator": "paramscope"} if kind == "svg" else {"Software": "paramscope"}
    )
    with mpl.rc_context({"svg.hashsalt": "paramscope"}), whole_file(path) as part:
        figure.savefig(part, format=kind, metadata=metadata)
