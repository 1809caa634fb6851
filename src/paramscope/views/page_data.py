"""The numbers of the page: typed arrays behind a JSON head, compressed, as text that is safe.

    4 bytes   length of the head, little-endian
    head      JSON; an array is {"at": offset behind the head, "length": elements, "type": …}
    arrays    one after another, each at a multiple of 8

As base64 it holds no character that HTML gives a meaning to, whatever the checkpoint's names are.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from paramscope.anatomy.roles import ROLES
from paramscope.measure.random_matrix import random_spectrum
from paramscope.table import embedding_files
from paramscope.table.export import json_text
from paramscope.table.schema import COLUMNS, Row
from paramscope.views.findings import Section
from paramscope.views.sampled_spectra import SampledSpectra

_TYPES = {"int32": "i4", "float32": "f4", "float64": "f8"}
NO_INTEGER = -(2**31)
_MOST_RANDOM_VALUES = 2**18  # a model has few shapes; one that has not goes without


class Packer:
    """Collects arrays; gives references for the head."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size_bytes = 0

    def add(self, values: npt.ArrayLike, kind: str) -> dict[str, Any]:
        """Put an array in; `kind` is int32, float32 or float64."""
        array = np.ascontiguousarray(values, dtype=f"<{_TYPES[kind]}")
        data = array.tobytes()
        reference = {"at": self._size_bytes, "length": int(array.size), "type": kind}
        padding = -len(data) % 8
        self._pieces += [data, bytes(padding)]
        self._size_bytes += len(data) + padding
        return reference

    def packed(self, head: Mapping[str, Any]) -> str:
        """Everything as base64 of gzip, the same for the same input."""
        text = json_text(head).encode("utf-8", "replace")
        text += b" " * (-(len(text) + 4) % 8)
        data = len(text).to_bytes(4, "little") + text + b"".join(self._pieces)
        return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode("ascii")


def table_data(rows: Sequence[Row], sections: Sequence[Section]) -> str:
    """Every cell of the table in full precision, and the rows of each finding."""
    packer = Packer()
    columns = [_column(packer, rows, column.name, column.dtype) for column in COLUMNS]
    meanings = [{"meaning": column.meaning, "unit": column.unit} for column in COLUMNS]
    findings = {
        finding.key: packer.add(finding.rows, "int32")
        for section in sections
        for finding in section.findings
        if finding.rows
    }
    return packer.packed(
        {
            "rows": len(rows),
            "columns": [{**c, **m} for c, m in zip(columns, meanings, strict=True)],
            "findings": findings,
            "roles": list(ROLES),
        }
    )


def _column(packer: Packer, rows: Sequence[Row], name: str, dtype: str) -> dict[str, Any]:
    cells = [row.get(name) for row in rows]
    about: dict[str, Any] = {"name": name, "dtype": dtype}
    if dtype == "string":
        distinct = list(dict.fromkeys(cells))
        codes = {value: code for code, value in enumerate(distinct)}
        about["values"] = distinct
        about["codes"] = packer.add([codes[cell] for cell in cells], "int32")
    elif dtype == "int64" and all(cell is None or abs(int(cell)) < 2**31 for cell in cells):
        numbers = [NO_INTEGER if cell is None else int(cell) for cell in cells]
        about["numbers"] = packer.add(numbers, "int32")
    else:
        numbers_ = [math.nan if cell is None else float(cell) for cell in cells]
        about["numbers"] = packer.add(numbers_, "float64")
    return about


def spectra_data(rows: Sequence[Row], spectra: SampledSpectra) -> str:
    """Points of every spectrum, and what random numbers of the same shape would have."""
    packer = Packer()
    places = sorted(spectra.values)
    values = [spectra.values[place] for place in places]
    positions = {
        str(length): packer.add(kept, "int32") for length, kept in spectra.positions.items()
    }
    return packer.packed(
        {
            "points": spectra.points,
            "places": packer.add(places, "int32"),
            "lengths": packer.add([spectra.lengths[place] for place in places], "int32"),
            "values": packer.add(np.concatenate(values) if values else [], "float32"),
            "positions": positions,
            "random": _random(packer, rows, spectra),
        }
    )


def _random(packer: Packer, rows: Sequence[Row], spectra: SampledSpectra) -> dict[str, Any]:
    """By `long×short×length`: expected singular values for unit variance, at the positions."""
    wanted = {}
    for place, length in spectra.lengths.items():
        sides = sorted((int(rows[place]["rows"] or 0), int(rows[place]["cols"] or 0)))
        wanted[sides[1], sides[0], length] = spectra.positions[length]
    if sum(len(kept) for kept in wanted.values()) > _MOST_RANDOM_VALUES:
        return {}
    return {
        "x".join(map(str, key)): packer.add(random_spectrum(key[0], key[1], kept), "float32")
        for key, kept in wanted.items()
    }


def embedding_data(folder: Path, summary: Mapping[str, Any] | None) -> str:
    """The map of the tokens, the clusters and the curve over k; empty where there are none."""
    if summary is None:
        return ""
    packer = Packer()
    curve = folder / embedding_files.CURVE
    head: dict[str, Any] = {
        "summary": summary,
        "curve": embedding_files.read_curve(curve) if curve.is_file() else [],
    }
    tokens = folder / embedding_files.TOKENS
    if tokens.is_file():
        head["tokens"] = _tokens(packer, embedding_files.read_tokens(tokens))
    return packer.packed(head)


def _tokens(packer: Packer, tokens: embedding_files.TokenColumns) -> dict[str, Any]:
    return {
        "text": list(tokens.text),
        "cluster": packer.add(tokens.cluster, "int32"),
        "flags": list(tokens.flags),
        **{name: packer.add(getattr(tokens, name), "float32") for name in ("x", "y", "norm")},
    }


def read_embedding(folder: Path) -> dict[str, Any] | None:
    """`clusters.json`, or None where there is none that can be read."""
    try:
        found = json.loads((folder / embedding_files.CLUSTERS).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
