"""Does every element of the checkpoint stand in the table? Counted, not believed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from paramscope.checkpoint import StoredTensor
from paramscope.table.schema import Row


@dataclass(frozen=True, slots=True)
class Coverage:
    """The headers' totals against the table's.

    Attributes:
        tensors: stored tensors in the headers.
        expected, found: elements in the headers, and in the rows.
        parameters, buffers: elements of the rows, buffers apart.
        nbytes: bytes of all stored tensors.
        wrong: names of tensors whose rows do not add up to what the header says, or of rows
            that no header knows.
    """

    tensors: int
    expected: int
    found: int
    parameters: int
    buffers: int
    nbytes: int
    wrong: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return self.expected == self.found and not self.wrong


def coverage(tensors: Sequence[StoredTensor], rows: Iterable[Row]) -> Coverage:
    """Compare the rows' elements with the headers', tensor by tensor."""
    expected = {tensor.name: tensor.numel for tensor in tensors}
    found: Counter[str] = Counter()
    buffers = 0
    for row in rows:
        numel = int(row["numel"] or 0)
        found[str(row["param_name"])] += numel
        buffers += numel if row["block_type"] == "buffer" else 0
    names = [*expected, *(name for name in found if name not in expected)]
    total = sum(found.values())
    return Coverage(
        tensors=len(tensors),
        expected=sum(expected.values()),
        found=total,
        parameters=total - buffers,
        buffers=buffers,
        nbytes=sum(tensor.nbytes for tensor in tensors),
        wrong=tuple(
            name for name in names if name not in found or found[name] != expected.get(name)
        ),
    )
