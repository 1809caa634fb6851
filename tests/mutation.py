"""A fuzzer for containers: damaged files are read, or refused with a sentence; nothing else."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from paramscope.anatomy.dissect import dissect
from paramscope.checkpoint.open import open_checkpoint
from paramscope.errors import ParamscopeError
from paramscope.source.local import LocalSource

_EXTREMES = (
    0,
    1,
    2,
    127,
    128,
    255,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63,
    2**64 - 1,
)
_TEXT = (b"-", b"9" * 25, b'"', b"[", b"{", b"\0", b"1e9", b"null", b"../")


def mutations(
    good: Mapping[str, bytes], *, times: int, seed: int = 1
) -> Iterator[dict[str, bytes]]:
    """Files like the good ones, one of them damaged in one to six places."""
    rng = random.Random(seed)
    names = sorted(good)
    for _ in range(times):
        victim = rng.choice(names)
        yield {**good, victim: _damaged(good[victim], rng)}


def _damaged(good: bytes, rng: random.Random) -> bytes:
    data = bytearray(good)
    for _ in range(rng.randint(1, 6)):
        # Headers are where files begin, or end.
        edge = rng.choice((len(data), min(len(data), 512)))
        at = rng.randrange(max(1, edge))
        if rng.random() < 0.2:
            at = max(0, len(data) - 1 - at)
        kind = rng.randrange(7)
        if kind == 0 and data:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1 and data:
            data[at : at + 1] = bytes([data[min(at, len(data) - 1)] ^ (1 << rng.randrange(8))])
        elif kind == 2:
            del data[at : at + rng.randint(1, 40)]
        elif kind == 3:
            data[at:at] = rng.choice(_TEXT)
        elif kind == 4:
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice(_EXTREMES) % 2 ** (8 * size)
            data[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
        elif kind == 5:
            start = rng.randrange(max(1, len(data)))
            data[at:at] = data[start : start + rng.randint(1, 64)]
        elif rng.random() < 0.3:
            del data[at:]
    return bytes(data)


def survive(
    folder: Path,
    good: Mapping[str, bytes],
    *,
    times: int,
    seed: int = 1,
    place: Callable[[Path], Path] = lambda folder: folder,
) -> dict[str, int]:
    """Write each mutation into `folder`, open it, take it apart, read every tensor of it.

    Anything but a `ParamscopeError` fails.

    Args:
        place: what is opened, given the folder: the folder, or a file in it.

    Returns:
        How many were read whole, and how many were refused.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outcome = {"read": 0, "refused": 0}
    for files in mutations(good, times=times, seed=seed):
        for name, data in files.items():
            (folder / name).write_bytes(data)
        try:
            read_all(place(folder))
        except ParamscopeError:
            outcome["refused"] += 1
        else:
            outcome["read"] += 1
    return outcome


def read_all(path: Path) -> None:
    """Open a checkpoint, take it apart, and read every tensor that can be read."""
    with closing(LocalSource(path)) as source:
        checkpoint = open_checkpoint(source)
        dissect(checkpoint.tensors, checkpoint.config)
        for tensor in checkpoint.tensors:
            if not tensor.refusal:
                assert len(checkpoint.read(tensor, 0, tensor.numel)) == tensor.numel


def peak_bytes(work: Callable[[], object]) -> int:
    """The most that Python and numpy held at one time while `work` ran."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
