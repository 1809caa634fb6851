"""Does every element of the checkpoint stand in the table? Counted, not believed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from paramscope.checkpoint import Checkpoint
from paramscope.table.schema import Row


@dataclass(frozen=True, slots=True)
class Coverage:
    """The headers' totals against the table's.

    Attributes:
        tensors: stored tensors in the headers.
        expected, found: elements in the headers, those of packed weights counted as decoded, and
            elements in the rows.
        parameters, buffers: elements of the rows, buffers apart.
        nbytes: bytes of all stored tensors.
        found_bytes: bytes that the rows account for.
        wrong: names of tensors whose rows do not add up to what the header says, of rows that no
            header knows, and of stored tensors that belong to no row, or to two.
    """

    tensors: int
    expected: int
    found: int
    parameters: int
    buffers: int
    nbytes: int
    found_bytes: int
    wrong: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return self.expected == self.found and self.nbytes == self.found_bytes and not self.wrong


def coverage(checkpoint: Checkpoint, rows: Iterable[Row]) -> Coverage:
    """Compare the rows with the headers, tensor by tensor, in elements and in bytes."""
    expected = {tensor.name: (tensor.numel, tensor.nbytes) for tensor in checkpoint.tensors}
    numels: Counter[str] = Counter()
    nbytes: Counter[str] = Counter()
    buffers = 0
    for row in rows:
        numel = int(row["numel"] or 0)
        name = str(row["param_name"])
        numels[name] += numel
        nbytes[name] += int(row["nbytes"] or 0)
        buffers += numel if row["block_type"] == "buffer" else 0
    owners = Counter(part.name for tensor in checkpoint.tensors for part in tensor.stored)
    names = dict.fromkeys([*expected, *numels])
    stored = dict.fromkeys([*(tensor.name for tensor in checkpoint.stored), *owners])
    headers = {tensor.name for tensor in checkpoint.stored}
    total = sum(numels.values())
    return Coverage(
        tensors=len(checkpoint.stored),
        expected=sum(numel for numel, _ in expected.values()),
        found=total,
        parameters=total - buffers,
        buffers=buffers,
        nbytes=sum(tensor.nbytes for tensor in checkpoint.stored),
        found_bytes=sum(nbytes.values()),
        wrong=(
            *(n for n in names if n not in numels or (numels[n], nbytes[n]) != expected.get(n)),
            *(name for name in stored if owners[name] != 1 or name not in headers),
        ),
    )
