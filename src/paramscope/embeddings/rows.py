"""The rows of an embedding that can be measured, and the tokens they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from paramscope.measure.blocks import Float64, Int64
from paramscope.tokens.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Rows:
    """Which rows are measured; the others hold NaN or Inf.

    Attributes:
        total: rows of the matrix.
        kept: the token ids of the measured rows, ascending, shape (m,).
        norms: of the measured rows as stored, shape (m,).
        vocabulary: may be empty, smaller or larger than the matrix.
    """

    total: int
    kept: Int64
    norms: Float64
    vocabulary: Vocabulary

    def at(self, token_ids: npt.ArrayLike) -> Int64:
        """Places among the measured rows of those token ids that are there."""
        wanted = np.asarray(token_ids, dtype=np.int64)
        place = np.searchsorted(self.kept, wanted)
        inside = place < len(self.kept)
        place, wanted = place[inside], wanted[inside]
        found: Int64 = place[self.kept[place] == wanted]
        return found

    def token(self, place: int) -> dict[str, Any]:
        """What names a measured row."""
        token_id = int(self.kept[place])
        return {"token_id": token_id, "text": self.vocabulary.text(token_id)}

    def tokens(self, places: npt.ArrayLike, **values: Any) -> list[dict[str, Any]]:
        """As `token`, for several rows, each with its value of what is given by name."""
        listed = [self.token(int(place)) for place in np.asarray(places)]
        for name, each in values.items():
            for token, value in zip(listed, each, strict=True):
                token[name] = float(value)
        return listed

    def spread(self, values: Float64) -> Float64:
        """Values of the measured rows as values of all rows, NaN for the others."""
        everywhere = np.full(self.total, np.nan)
        everywhere[self.kept] = values
        return everywhere

    def padding(self) -> Int64:
        """Token ids of rows for which the vocabulary has no token; none where it is empty."""
        raw = self.vocabulary.raw
        if not raw:
            return np.empty(0, dtype=np.int64)
        holes = [token_id for token_id, token in enumerate(raw[: self.total]) if token is None]
        beyond = np.arange(min(len(raw), self.total), self.total)
        return np.concatenate([np.array(holes, dtype=np.int64), beyond])
