"""What the pictures of an embedding share: colours, titles, tokens as labels."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from paramscope.table.embedding_result import Embedding

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito's colours, told apart with any colour vision; yellow is too pale for points.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#555555")
INK, FAINT = "#222222", "#BBBBBB"


def described(result: Embedding, *, scaled: bool = True) -> str:
    """What a picture shows: model, matrix, shape, and how it was scaled where that matters."""
    facts = result.facts
    scaling = {
        "unit": "rows scaled to norm 1",
        "standard": "columns standardised",
        "none": "unscaled",
    }
    shape = f"{facts['rows']:,} × {facts['columns']:,}"
    model, name = (
        drawable(str(text), 60) for text in (facts["model"]["model_id"], facts["param_name"])
    )
    how = f", {scaling[facts['scaling']]}" if scaled else ""
    return f"{model}: {name}, {shape}{how}".replace("$", "\\$")


def plain(axis: Axes) -> None:
    """No frame but the two axes."""
    axis.spines[["top", "right"]].set_visible(False)


def words(cluster: Any, count: int = 5) -> str:
    """A cluster's representatives, those first that the font can draw."""
    texts = [str(token["text"]) for token in cluster["representatives"]]
    texts.sort(key=lambda text: drawable(text) != text)
    return "  ".join(drawable(text) for text in texts[:count])


def drawable(text: str, width: int = 14) -> str:
    """A token's text in characters that the font has, others as `<U+4E2D>`; shortened."""
    known = _known_characters()
    parts = [char if ord(char) in known else f"<U+{ord(char):04X}>" for char in text]
    while len("".join(parts)) > width and len(parts) > 1:
        parts = [*parts[:-2], "…"] if parts[-1] == "…" else [*parts[:-1], "…"]
    return "".join(parts)


@cache
def _known_characters() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties(family="DejaVu Sans")))
    return frozenset(font.get_charmap())
