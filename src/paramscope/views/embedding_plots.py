"""Pictures of an embedding, drawn from its tables: elbow, cluster sizes, map, norms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paramscope.errors import UsageError
from paramscope.files import whole_file
from paramscope.table import embedding_files as files
from paramscope.table.embedding_result import Embedding
from paramscope.views.embedding_labels import COLOURS, FAINT, INK, described, drawable, plain, words
from paramscope.views.embedding_map import map_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Flag, legend, colour, marker; a token is drawn under the first of its flags.
_MARKS = (
    ("special", "special", COLOURS[3], "D"),
    ("padding", "without a token", COLOURS[2], "s"),
    ("unreachable", "unreachable", COLOURS[0], "x"),
    ("undertrained", "other candidates for untrained", COLOURS[5], "v"),
)
_MOST_BARS = 40
_DPI = 150


def draw(result: Embedding) -> list[Path]:
    """Draw every picture into the result's folder `plots`; their paths.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(
            "Pictures need matplotlib. Run: pip install matplotlib, or give --no-plots."
        ) from None
    tokens = result.tokens()
    paths = []
    for name, picture in PICTURES.items():
        figure = Figure(layout="constrained")
        FigureCanvasAgg(figure)
        picture(figure, result, tokens)
        path = result.folder / files.PLOTS / f"{name}.png"
        with whole_file(path) as part:
            figure.savefig(part, format="png", dpi=_DPI)
        paths.append(path)
    return paths


def elbow_picture(figure: Figure, result: Embedding, tokens: files.TokenColumns) -> None:
    """Inertia over k, and three other indices below, each on its own scale."""
    figure.set_size_inches(8, 7.5)
    axes = figure.subplots(4, 1, sharex=True, height_ratios=(3, 1, 1, 1))
    elbow = result.facts["elbow"]
    panels = (
        ("inertia", "inertia\n(scaled units²)", INK),
        ("silhouette", f"silhouette of\n{elbow['sample_size']:,} rows\n↑ better", COLOURS[0]),
        ("calinski_harabasz", "Calinski-\nHarabasz\n↑ better", COLOURS[2]),
        ("davies_bouldin", "Davies-\nBouldin\n↓ better", COLOURS[5]),
    )
    for axis, (column, label, colour) in zip(axes, panels, strict=True):
        points = [(p["k"], p[column]) for p in result.curve if p[column] is not None]
        if points:
            axis.plot(*zip(*points, strict=True), "o-", color=colour, markersize=4, linewidth=1.2)
        axis.axvline(elbow["k"], color=FAINT, linestyle="--", zorder=0)
        axis.set_ylabel(label)
        plain(axis)
    clear = "elbow" if elbow["clear"] else "no clear elbow, taken"
    chosen = next(p for p in result.curve if p["chosen"])
    axes[0].annotate(
        f"{clear}: k = {elbow['k']}",
        (chosen["k"], chosen["inertia"]),
        textcoords="offset points",
        xytext=(14, 16),
        arrowprops={"arrowstyle": "->", "color": INK},
    )
    axes[-1].set_xlabel("k, number of clusters")
    figure.suptitle(f"How much k clusters explain\n{described(result)}", fontsize=11)


def sizes_picture(figure: Figure, result: Embedding, tokens: files.TokenColumns) -> None:
    """One bar per cluster with its nearest tokens; the largest 40 where there are more."""
    clusters = list(result.clusters)
    shown, rest = clusters[:_MOST_BARS], clusters[_MOST_BARS:]
    names = [f"{c['cluster']}   {words(c)}" for c in shown]
    sizes = [c["size"] for c in shown]
    figure.set_size_inches(9, 1.6 + 0.24 * len(names))
    axis = figure.subplots()
    places = np.arange(len(names))
    axis.barh(places, sizes, color=COLOURS[0], height=0.7)
    for place, size in zip(places, sizes, strict=True):
        axis.annotate(
            f"{size:,}",
            (size, place),
            textcoords="offset points",
            xytext=(3, 0),
            va="center",
            fontsize=8,
        )
    axis.set_yticks(places)
    axis.set_yticklabels(names, fontsize=8, parse_math=False)
    axis.invert_yaxis()
    axis.margins(x=0.1, y=0.01)
    axis.set_xlabel("tokens in the cluster")
    axis.set_ylabel("cluster and the tokens nearest to its centre")
    plain(axis)
    title = f"Sizes of the {len(clusters)} clusters"
    if rest:
        title = (
            f"Sizes of the {len(shown)} largest of {len(clusters)} clusters; "
            f"the others hold {sum(c['size'] for c in rest):,} tokens"
        )
    figure.suptitle(f"{title}\n{described(result)}", fontsize=11)


def norms_picture(figure: Figure, result: Embedding, tokens: files.TokenColumns) -> None:
    """Norm of each row against its token id, flagged rows marked; their distribution beside it."""
    figure.set_size_inches(11, 6)
    axis, beside = figure.subplots(1, 2, sharey=True, width_ratios=(5, 1))
    ids = np.arange(len(tokens))
    norms = tokens.norm
    there = np.isfinite(norms)
    axis.scatter(
        ids[there], norms[there], s=2, color=FAINT, linewidths=0, rasterized=True, label="rows"
    )
    marked = np.zeros(len(tokens), dtype=bool)
    for flag, label, colour, marker in _MARKS:
        chosen = there & ~marked
        chosen &= np.array([flag in names.split(",") for names in tokens.flags], dtype=bool)
        if not chosen.any():
            continue
        marked |= chosen
        axis.scatter(
            ids[chosen],
            norms[chosen],
            s=26 if chosen.sum() < 20 else 9,
            color=colour,
            marker=marker,
            linewidths=0.6 if marker == "x" else 0,
            label=f"{label} ({chosen.sum():,})",
        )
    _name_extremes(axis, result)
    axis.set_xlabel("token id")
    axis.set_ylabel("Euclidean norm of the row, as stored")
    axis.set_ylim(bottom=0)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=5, frameon=False, fontsize=9)
    beside.hist(norms[there], bins=80, orientation="horizontal", color=COLOURS[0])
    beside.set_xlabel("tokens")
    plain(axis)
    plain(beside)
    figure.suptitle(
        f"Norms of the rows of the embedding\n{described(result, scaled=False)}", fontsize=11
    )


PICTURES: dict[str, Callable[[Figure, Embedding, files.TokenColumns], None]] = {
    "elbow": elbow_picture,
    "cluster_sizes": sizes_picture,
    "map": map_picture,
    "norms": norms_picture,
}


def _name_extremes(axis: Axes, result: Embedding) -> None:
    """The tokens of the largest and smallest norms, in a line above and below the points."""
    for key, place, word in (
        ("largest_norms", 0.985, "largest"),
        ("smallest_norms", 0.015, "smallest"),
    ):
        tokens = result.facts["matrix"][key]
        axis.text(
            0.01,
            place,
            f"{word}: " + "  ".join(drawable(token["text"]) for token in tokens[:8]),
            transform=axis.transAxes,
            va="top" if place > 0.5 else "bottom",
            fontsize=8,
            parse_math=False,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
        )
