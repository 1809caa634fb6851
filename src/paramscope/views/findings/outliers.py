"""Which layers stand out from their neighbours.

Matrices of one role and shape form a series over the layers; experts of one layer form one over
the experts. A value x stands out where, with the median M and the median absolute deviation D of
the eight nearest others (of all others, among experts),

    |ln x - M| ≥ 8 · max(1.4826·D, 0.05)   and   |ln x - M| ≥ ln 1.5

taken over logarithms. The floor of 5 % keeps a series that hardly varies from making much of
little; a trend over the depth widens D and so is not taken for an outlier.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from paramscope.views.findings.finding import (
    SHOWN,
    Evidence,
    Finding,
    Table,
    Text,
    matrices,
    more,
    number,
)
from paramscope.views.words import printable

MEASURES = {
    "frobenius_norm": "Frobenius norm",
    "spectral_norm": "largest singular value",
    "stable_rank": "stable rank",
    "effective_rank": "effective rank",
    "svd_90_percent_rank": "directions for 90 % of the variance",
    "kurtosis": "kurtosis",
}
_NEIGHBOURS = 8
_FEWEST_NEIGHBOURS = 4
_FEWEST_EXPERTS = 8
_SMALLEST_SIDE = 16  # the measures of smaller matrices scatter too much
_DEVIATIONS = 8.0
_FLOOR = 0.05
_LEAST = math.log(1.5)


@dataclass(frozen=True, slots=True)
class Outlier:
    """One value far from its neighbours'; `usual` is their median."""

    place: int
    measure: str
    value: float
    usual: float

    @property
    def factor(self) -> float:
        return self.value / self.usual

    @property
    def distance(self) -> float:
        return abs(math.log(self.factor))


def outlier_findings(evidence: Evidence) -> Iterator[Finding]:
    """The matrices that stand out, the furthest first."""
    series = [*_over_layers(evidence), *_over_experts(evidence)]
    found = [item for group in series for item in _outliers(evidence, group)]
    long_enough = any(len(places) > _FEWEST_NEIGHBOURS for places, _ in series)
    if not found:
        if long_enough:
            yield Finding(
                "outliers",
                "sound",
                ("No matrix stands out from its neighbours of the same role.",),
                (_how(),),
            )
        else:
            yield Finding(
                "outliers",
                "fact",
                ("There are too few layers of one kind to compare a matrix with its neighbours.",),
            )
        return
    worst: dict[int, Outlier] = {}
    for item in sorted(found, key=lambda item: -item.distance):
        worst.setdefault(item.place, item)
    places = list(worst)
    yield Finding(
        "outliers",
        "notable",
        (
            f"{matrices(len(places))} {'stands' if len(places) == 1 else 'stand'} out from "
            f"{'its' if len(places) == 1 else 'their'} neighbours{_where(evidence, places)}: ",
            *evidence.names(places),
            ".",
        ),
        (_how(),),
        rows=tuple(places),
        table=Table(
            ("Matrix", "Measure", "Value", "Neighbours' median", "Factor"),
            tuple(_line(evidence, item) for item in list(worst.values())[:SHOWN]),
            numeric=frozenset({2, 3, 4}),
            more=more(places),
        ),
    )


def _how() -> str:
    return (
        "Compared are norms, ranks and kurtosis with those of the eight nearest layers (or the "
        "other experts of the layer): more than 8 robust deviations and a factor of 1.5 off."
    )


def _where(evidence: Evidence, places: Sequence[int]) -> str:
    layers = {
        (str(evidence.rows[p]["tower"] or ""), int(evidence.rows[p]["layer_index"] or 0))
        for p in places
    }
    if len(layers) > 6:
        return f", in {len(layers)} layers"
    names = [f"{printable(tower, 24)} {layer}".strip() for tower, layer in sorted(layers)]
    return f", in layer{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _line(evidence: Evidence, item: Outlier) -> tuple[Text, ...]:
    factor = item.factor if item.factor >= 1 else 1 / item.factor
    return (
        (evidence.name(item.place),),
        (MEASURES[item.measure],),
        (f"{item.value:.4g}",),
        (f"{item.usual:.4g}",),
        (f"{factor:.3g}× {'larger' if item.factor >= 1 else 'smaller'}",),
    )


def _over_layers(evidence: Evidence) -> Iterator[tuple[list[int], int]]:
    """Matrices outside experts whose names differ in the layer only, by layer."""
    groups: dict[tuple[object, ...], dict[int, int]] = defaultdict(dict)
    for place in evidence.weights():
        row = evidence.rows[place]
        if isinstance(row["layer_index"], int) and row["expert_index"] is None:
            pattern = re.sub(r"\d+", "#", str(row["param_name"]))
            key = (row["tower"], row["role"], row["shape"], pattern, row["part"])
            groups[key].setdefault(row["layer_index"], place)
    for group in groups.values():
        yield [group[layer] for layer in sorted(group)], _NEIGHBOURS


def _over_experts(evidence: Evidence) -> Iterator[tuple[list[int], int]]:
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for place in evidence.weights():
        row = evidence.rows[place]
        if row["expert_index"] is not None:
            key = (row["tower"], row["layer_index"], row["role"], row["shape"])
            groups[key].append(place)
    for group in groups.values():
        if len(group) >= _FEWEST_EXPERTS:
            yield group, len(group)


def _outliers(evidence: Evidence, series: tuple[list[int], int]) -> Iterator[Outlier]:
    places, window = series
    if number(evidence.rows[places[0]], "design_rank") < _SMALLEST_SIDE:
        return
    for measure in MEASURES:
        values = [(p, number(evidence.rows[p], measure)) for p in places]
        logs = [(p, math.log(value)) for p, value in values if value > 0]
        for index, (place, x) in enumerate(logs):
            others = _others([value for _, value in logs], index, window)
            if len(others) < _FEWEST_NEIGHBOURS:
                continue
            middle = statistics.median(others)
            if abs(x - middle) < _LEAST:
                continue
            spread = statistics.median(abs(other - middle) for other in others)
            if abs(x - middle) >= _DEVIATIONS * max(1.4826 * spread, _FLOOR):
                yield Outlier(place, measure, math.exp(x), math.exp(middle))


def _others(values: Sequence[float], index: int, window: int) -> Sequence[float]:
    """The `window` values nearest to one, without it; at the ends, more from the one side."""
    if window >= len(values) - 1:
        start, stop = 0, len(values)
    else:
        start = min(max(0, index - window // 2), len(values) - window - 1)
        stop = start + window + 1
    return [*values[start:index], *values[index + 1 : stop]]
