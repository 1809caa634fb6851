"""The files of torch.save before 1.6: five pickles, then the storages, one after another.

    a number, 1001, facts of the machine, the value, the storages' keys
    for each key:  elements (int64)  bytes

The numbers are little-endian whatever machine wrote them. Of the storages only the counts are
read here.

Source: `torch/serialization.py`, `_legacy_save` and `_legacy_load`.
"""

from __future__ import annotations

from collections.abc import Iterable

from paramscope.checkpoint.pickle_machine import Machine
from paramscope.checkpoint.pickle_program import MOST_BYTES, MOST_STEPS, run
from paramscope.checkpoint.pickle_records import BrokenError, Storage
from paramscope.checkpoint.scattered import read_ranges
from paramscope.checkpoint.storages import Place, Program
from paramscope.source import Source

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_COUNT_BYTES = 8
_FIRST_READ_BYTES = 2**20


def read_legacy(source: Source, file: str) -> Program:
    """What the file's pickles describe, and where its storages lie.

    Raises:
        BrokenError: it is no file of torch.save, or is damaged.
    """
    machine = _machine(source, file)
    if run(machine) != _MAGIC or run(machine) != _PROTOCOL:
        raise BrokenError(
            "is a pickle, but not one of torch.save. Save the weights again, best as safetensors."
        )
    _, value, keys = (run(machine) for _ in range(3))
    places = _places(source, file, machine.at, _keys(keys), machine.storages)

    def known(wanted: Iterable[str]) -> dict[str, Place]:
        return {key: places[key] for key in wanted if key in places}

    sizes = {key: place.nbytes for key, place in places.items()}
    return Program(value, machine.data[: machine.at], known, sizes)


def _machine(source: Source, file: str) -> Machine:
    """A machine for the file's pickles; only they know how long they are, so it reads on."""
    file_bytes = source.files()[file]

    def more(wanted_bytes: int) -> bytes:
        if wanted_bytes > file_bytes:
            raise BrokenError("its pickle is cut short. Download the file again.")
        if wanted_bytes > MOST_BYTES:
            raise BrokenError(
                f"refused: its pickle is longer than {MOST_BYTES:,} bytes, which are enough "
                "for the weights of any model."
            )
        return source.read(file, 0, min(max(_FIRST_READ_BYTES, 4 * wanted_bytes), file_bytes))

    return Machine(b"", MOST_STEPS, more)


def _keys(keys: object) -> list[str]:
    if not isinstance(keys, list) or not all(isinstance(key, (str, int)) for key in keys):
        raise BrokenError("its list of storages is damaged. Download the file again.")
    names = [str(key) for key in keys]
    if len(set(names)) != len(names):
        raise BrokenError("its list of storages names one twice. The file is damaged.")
    return names


def _places(
    source: Source, file: str, start: int, keys: list[str], storages: dict[str, Storage]
) -> dict[str, Place]:
    """Where each storage lies, each count in the file compared with what the pickle says."""
    file_bytes = source.files()[file]
    places: dict[str, Place] = {}
    for key in keys:
        if key not in storages:
            raise BrokenError(
                f"it lists a storage {key!r:.40} that no tensor uses. The file is damaged."
            )
        stored = storages[key]
        nbytes = stored.file_numel * (stored.dtype.bits // 8)
        places[key] = Place(start + _COUNT_BYTES, nbytes)
        start += _COUNT_BYTES + nbytes
        if nbytes < 0 or start > file_bytes:
            raise BrokenError(
                f"its pickle says that the file has {start:,} bytes or more, found "
                f"{file_bytes:,}. The file was cut short. Download it again."
            )
    ranges = [(place.offset_bytes - _COUNT_BYTES, _COUNT_BYTES) for place in places.values()]
    for key, count in zip(places, read_ranges(source, file, ranges), strict=True):
        if int.from_bytes(count, "little") != storages[key].file_numel:
            raise BrokenError(
                f"its storage {key!r:.40} has {int.from_bytes(count, 'little'):,} elements, "
                f"expected {storages[key].file_numel:,}. The file is damaged; download it again."
            )
    return places
