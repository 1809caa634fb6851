"""The map of an embedding: every token in two dimensions, clusters by colour, number and name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from paramscope.measure.blocks import Float64, Int64
from paramscope.table import embedding_files as files
from paramscope.table.embedding_result import Embedding
from paramscope.views.embedding_labels import COLOURS, INK, described, plain, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_LABELS = 28


def map_picture(figure: Figure, result: Embedding, tokens: files.TokenColumns) -> None:
    """Every token in two dimensions; clusters by colour and number, named at both sides."""
    there = (tokens.cluster >= 0) & np.isfinite(tokens.x)
    x, y, labels = tokens.x[there], tokens.y[there], tokens.cluster[there]
    k = len(result.clusters)
    middles = _middles(x, y, labels, k)
    colour_of = _colouring(middles)
    figure.set_size_inches(14, 8)
    figure.set_layout_engine("none")  # the names at both sides have their own room
    axis = figure.add_axes((0.28, 0.08, 0.48, 0.8))
    order = np.random.default_rng(0).permutation(len(x))  # no cluster hides another
    axis.scatter(
        x[order],
        y[order],
        s=max(0.5, min(9.0, 6e4 / max(1, len(x)))),
        c=np.array(COLOURS)[colour_of[labels[order]]],
        alpha=0.5,
        linewidths=0,
        rasterized=True,
    )
    _name_clusters(axis, result, _apart(middles, axis), colour_of)
    axis_names = {"pca": ("first principal component", "second principal component")}
    horizontal, vertical = axis_names.get(result.facts["map"], ("UMAP 1", "UMAP 2"))
    axis.set_xlabel(f"{horizontal} (scaled units)")
    axis.set_title(f"↑ {vertical} (scaled units)", loc="left", fontsize=10)
    plain(axis)
    named = f"the {_MOST_LABELS} largest named" if k > _MOST_LABELS else "named by nearest tokens"
    figure.suptitle(
        f"Map of {len(x):,} tokens in {k} clusters, {named}\n{described(result)}", fontsize=11
    )


def _middles(x: Float64, y: Float64, labels: Int64, k: int) -> Float64:
    """The median place of each cluster, shape (k, 2)."""
    return np.array(
        [[np.median(x[labels == c]), np.median(y[labels == c])] for c in range(k)]
    ).reshape(k, 2)


def _apart(middles: Float64, axis: Axes) -> Float64:
    """Places for the numbers: the middles, pushed apart where their boxes would overlap."""
    low = np.array([axis.get_xlim()[0], axis.get_ylim()[0]])
    span = np.array([axis.get_xlim()[1], axis.get_ylim()[1]]) - low
    box = np.array([0.038, 0.034])
    places = (middles - low) / span / box
    rng = np.random.default_rng(0)
    for _ in range(200):
        gaps = places[:, None] - places
        overlap = np.maximum(0.0, 1.0 - np.abs(gaps))
        overlap[np.arange(len(places)), np.arange(len(places))] = 0.0
        # Push along the side on which they overlap least.
        along = np.where((overlap[..., :1] < overlap[..., 1:]), [1.0, 0.0], [0.0, 1.0])
        push = (
            overlap * along * np.where(gaps == 0.0, rng.choice([-1, 1], gaps.shape), np.sign(gaps))
        )
        push[(overlap == 0.0).any(axis=2)] = 0.0
        if not push.any():
            break
        places = places + 0.5 * push.sum(axis=1)
    moved: Float64 = places * box * span + low
    return moved


def _colouring(middles: Float64) -> Int64:
    """A colour for each cluster: the one whose nearest user on the map is furthest away."""
    colour_of = np.zeros(len(middles), dtype=np.int64)
    for cluster in range(1, len(middles)):
        apart = np.hypot(*(middles[:cluster] - middles[cluster]).T)
        gaps = [
            apart[colour_of[:cluster] == colour].min(initial=np.inf)
            for colour in range(len(COLOURS))
        ]
        colour_of[cluster] = int(np.argmax(gaps))
    return colour_of


def _name_clusters(axis: Axes, result: Embedding, middles: Float64, colour_of: Int64) -> None:
    """Numbers where clusters lie; their names left and right, by height, so that none overlap."""
    shown = list(result.clusters)[:_MOST_LABELS]
    by_x = sorted(shown, key=lambda c: float(middles[c["cluster"], 0]))
    half = len(by_x) // 2
    for side, members in ((-1, by_x[:half]), (1, by_x[half:])):
        members.sort(key=lambda c: -float(middles[c["cluster"], 1]))
        for place, cluster in enumerate(members):
            number, named = cluster["cluster"], words(cluster, 3)
            axis.annotate(
                f"{number}   {named}" if side > 0 else f"{named}   {number}",
                tuple(middles[number]),
                xycoords="data",
                xytext=(
                    1.02 if side > 0 else -0.14,
                    0.97 - 0.94 * (place + 0.5) / max(1, len(members)),
                ),
                textcoords="axes fraction",
                ha="left" if side > 0 else "right",
                va="center",
                fontsize=8,
                color=INK,
                parse_math=False,
                annotation_clip=False,
                arrowprops={
                    "arrowstyle": "-",
                    "color": COLOURS[colour_of[number]],
                    "linewidth": 0.7,
                    "alpha": 0.6,
                    "shrinkB": 6,
                    "relpos": (0.0 if side > 0 else 1.0, 0.5),
                },
            )
    for number, (x, y) in enumerate(middles[: len(shown)]):
        axis.text(
            float(x),
            float(y),
            str(number),
            ha="center",
            va="center",
            fontsize=8,
            weight="bold",
            color=INK,
            bbox={
                "boxstyle": "round,pad=0.2",
                "facecolor": "white",
                "edgecolor": COLOURS[colour_of[number]],
                "linewidth": 1.5,
            },
        )
