"""What a scheme has to go by: the stored tensors not yet claimed, and the configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from paramscope.checkpoint import ReadElements, StoredTensor, Window


@dataclass(frozen=True, slots=True)
class Leftover:
    """The stored tensors that no scheme has claimed so far.

    Attributes:
        tensors: by name, in the order of the files.
        config: `config.json`, or {}.
        read: reads elements of a stored tensor.
        read_json: reads a small JSON file of the checkpoint, None where there is none.
    """

    tensors: Mapping[str, StoredTensor]
    config: Mapping[str, Any]
    read: ReadElements
    read_json: Callable[[str], Any]

    @property
    def quantization(self) -> Mapping[str, Any]:
        """The configuration's `quantization_config`, or {}."""
        node = self.config.get("quantization_config")
        if not isinstance(node, dict):
            text = self.config.get("text_config")
            node = text.get("quantization_config") if isinstance(text, dict) else None
        return node if isinstance(node, dict) else {}

    def ending(self, *endings: str) -> Iterator[tuple[str, str, StoredTensor]]:
        """(stem, ending, tensor) of every tensor whose name ends so."""
        for name, tensor in self.tensors.items():
            for ending in endings:
                if name.endswith(ending):
                    yield name.removesuffix(ending), ending, tensor
                    break

    def get(self, name: str, *dtypes: str) -> StoredTensor | None:
        """The tensor of that name, where it has one of these dtypes (any, where none is given)."""
        tensor = self.tensors.get(name)
        return None if tensor is None or (dtypes and tensor.dtype.name not in dtypes) else tensor


def by_item(window: Window, rows: int) -> Iterator[tuple[int, Window]]:
    """The items of a stack of matrices of `rows` rows that a window touches.

    Yields:
        (index of the item, the window within it), in order.
    """
    start = window.row_start
    while start < window.row_stop:
        item = start // rows
        stop = min(window.row_stop, (item + 1) * rows)
        yield (
            item,
            Window(
                start - item * rows, stop - item * rows, window.column_start, window.column_stop
            ),
        )
        start = stop
