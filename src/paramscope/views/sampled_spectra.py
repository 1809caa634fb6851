"""The spectra of a run, thinned out for drawing, in one pass over `spectra.parquet`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from paramscope.measure.random_matrix import random_spectrum
from paramscope.measure.spectrum import Float64
from paramscope.table.results import SPECTRA, Run
from paramscope.table.schema import Row
from paramscope.views.findings.finding import SHARES

MOST_POINTS = 256
FEWEST_POINTS = 24
_MOST_VALUES = 2**20  # over all matrices: 4 MiB in float32

Positions = npt.NDArray[np.int32]


@dataclass(frozen=True)
class SampledSpectra:
    """Points of the spectra of all matrices; vectors, with their one value, are left out.

    Attributes:
        values: for a row by its place, σ at `positions[length]`, float32.
        lengths: for a row by its place, how many singular values are known.
        positions: for a length, which of the values are kept, from 0.
        errors: for a row by its place, √(1 - energy) at the ranks of 90, 95 and 99 %.
        distances: for a row by its place, the largest difference from what random numbers of the
            same shape and variance would have, relative to the largest of those.
        points: at most so many per matrix.
    """

    values: Mapping[int, npt.NDArray[np.float32]]
    lengths: Mapping[int, int]
    positions: Mapping[int, Positions]
    errors: Mapping[int, tuple[float, ...]]
    distances: Mapping[int, float]
    points: int


def sample_spectra(run: Run, rows: Sequence[Row]) -> SampledSpectra:
    """Read every spectrum once, keep at most 256 points of each, fewer where there are many."""
    places = {(row["param_name"], row["part"]): place for place, row in enumerate(rows)}
    spectral = sum(1 for row in rows if row["actual_rank"] is not None and _side(row) > 1)
    points = max(FEWEST_POINTS, min(MOST_POINTS, _MOST_VALUES // max(1, spectral)))
    values: dict[int, npt.NDArray[np.float32]] = {}
    positions: dict[int, Positions] = {}
    lengths: dict[int, int] = {}
    errors: dict[int, tuple[float, ...]] = {}
    distances: dict[int, float] = {}
    for name, part, s in _spectra(run.folder / SPECTRA):
        place = places.get((name, part))
        if place is None or len(s) < 2:
            continue
        length = len(s)
        if length not in positions:
            positions[length] = spread(length, points)
        values[place] = s[positions[length]].astype(np.float32)
        lengths[place] = length
        if length == _side(rows[place]) and s[0] > 0:
            errors[place] = _errors(s, rows[place])
            distances[place] = _distance(s, positions[length], rows[place])
    return SampledSpectra(values, lengths, positions, errors, distances, points)


def _side(row: Row) -> int:
    return int(row["design_rank"] or 0)


def spread(length: int, points: int) -> Positions:
    """At most `points` of the positions 0 … length-1: half of them even, half denser at the top."""
    if length <= points:
        return np.arange(length, dtype=np.int32)
    half = points // 2
    even = np.linspace(0, length - 1, points - half)
    dense = np.geomspace(1, length, half) - 1
    return np.unique(np.rint(np.concatenate([even, dense]))).astype(np.int32)


def _errors(s: Float64, row: Row) -> tuple[float, ...]:
    energy = (s / s[0]) ** 2
    total = float(energy.sum())
    ranks = (int(row[f"svd_{share}_percent_rank"] or 0) for share in SHARES)
    return tuple(math.sqrt(float(energy[rank:].sum()) / total) for rank in ranks)


def _distance(s: Float64, kept: Positions, row: Row) -> float:
    rows, columns = int(row["rows"] or 0), int(row["cols"] or 0)
    expected = _random_points(rows, columns, len(kept), kept.tobytes())
    deviation = math.sqrt(float(s @ s) / (rows * columns))
    return float(np.abs(s[kept] / deviation - expected).max() / expected[0])


@lru_cache(maxsize=512)
def _random_points(rows: int, columns: int, points: int, kept: bytes) -> Float64:
    return random_spectrum(rows, columns, np.frombuffer(kept, dtype=np.int32, count=points))


def _spectra(path: Path) -> Iterator[tuple[str, str, Float64]]:
    import pyarrow.parquet as pq

    if not path.is_file():
        return
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=512):
            names, parts, spectra = (column for column in batch.columns)
            for name, part, s in zip(names, parts, spectra, strict=True):
                yield name.as_py(), part.as_py(), s.values.to_numpy()
