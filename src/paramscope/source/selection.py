"""Which of a repository's files an analysis needs: pure functions over file names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath, PureWindowsPath

from paramscope.errors import SourceError

# Beside the weights: what the report and the token names are made from, and the model card.
BESIDE_WEIGHTS = (
    "config*.json",
    "*_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "README.md",
    "LICENSE*",
)

# What training leaves beside the weights in the same container, and is not a weight.
_NOT_WEIGHTS = ("training_args.*", "optimizer*", "scheduler*", "rng_state*", "scaler*", "*.md")

# GGUF repositories hold one model many times; the most precise copy is the one to measure.
_GGUF_PRECISION = ("f32", "bf16", "f16", "q8", "q6", "q5", "q4", "iq4", "q3", "iq3", "q2", "iq2")


@dataclass(frozen=True, slots=True)
class Container:
    """A kind of file that holds weights.

    Attributes:
        title: what to call it in a sentence.
        endings: of its files.
        main: the stem of the file that holds a whole model, where it has its usual name.
    """

    title: str
    endings: tuple[str, ...]
    main: str = ""


# The best first: headers that are data before headers that are programs, exact before packed.
CONTAINERS = {
    "safetensors": Container("safetensors", (".safetensors",), "model"),
    "pytorch": Container("PyTorch pickle", (".bin", ".pt", ".pth"), "pytorch_model"),
    "gguf": Container("GGUF", (".gguf",)),
}
UNREAD_FORMATS = {
    ".h5": "Keras",
    ".msgpack": "Flax",
    ".onnx": "ONNX",
    ".ckpt": "TensorFlow or Lightning",
    ".npz": "NumPy",
    ".nemo": "NeMo",
    ".mlmodel": "Core ML",
    ".tflite": "TensorFlow Lite",
}

_SERIES = re.compile(r"^(?P<stem>.*-)(?P<number>\d{2,9})-of-(?P<total>\d{2,9})(?P<ending>\.\w+)$")
_RESERVED = re.compile(r"^(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.IGNORECASE)


def select(
    names: Iterable[str],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    everything: bool = False,
    container: str | None = None,
) -> list[str]:
    """The files to fetch, sorted.

    Args:
        names: every file of the repository, POSIX paths.
        include: shell patterns; given, they replace the default choice. `folder/` is all below.
        exclude: shell patterns of files to leave out, whatever chose them.
        everything: all files.
        container: which copy of the weights, where there are several.

    Returns:
        By default the weights in one format, their index, and the configuration, tokenizer
        and model card beside them; no weights give an empty list.
    """
    names = sorted(set(names))
    if everything:
        chosen = names
    elif include:
        chosen = [name for name in names if _matches(name, include)]
    else:
        weights = weight_files(names, container)
        folders = {str(PurePosixPath(name).parent) for name in weights} | {"."}
        beside = [name for name in names if weights and _is_beside(name, folders)]
        chosen = sorted({*weights, *beside})
    return [name for name in chosen if not _matches(name, exclude)]


def containers_in(names: Iterable[str]) -> list[str]:
    """Keys of `CONTAINERS` that some of the names are weights in, the best first."""
    names = list(names)
    return [key for key in CONTAINERS if _weights(names, key)]


def weight_files(names: Iterable[str], container: str | None = None) -> list[str]:
    """The weights in one container, with their index files.

    Of several folders those nearest the top that have any; of each folder one model.

    Args:
        container: a key of `CONTAINERS`; by default the best that is present.
    """
    names = list(names)
    for key in [container] if container else containers_in(names):
        weights = _weights(names, key)
        if not weights:
            continue
        depth = min(_depth(name) for name in weights)
        folders: dict[PurePosixPath, list[str]] = {}
        for name in weights:
            if _depth(name) == depth:
                folders.setdefault(PurePosixPath(name).parent, []).append(name)
        choose = _one_gguf if key == "gguf" else _one_model
        return sorted(
            chosen
            for folder, here in folders.items()
            for chosen in choose(here, [n for n in names if PurePosixPath(n).parent == folder])
        )
    return []


def _weights(names: Iterable[str], container: str) -> list[str]:
    endings = CONTAINERS[container].endings
    return [name for name in names if name.endswith(endings) and _is_weight(name)]


def missing_shards(names: Iterable[str]) -> list[str]:
    """Files that a series `…-00001-of-00003…` among the names promises and lacks."""
    present = set(names)
    missing: set[str] = set()
    for match in filter(None, map(_SERIES.match, present)):
        width, total = len(match["number"]), int(match["total"])
        missing.update(
            f"{match['stem']}{number:0{width}d}-of-{match['total']}{match['ending']}"
            for number in range(1, min(total, 100_000) + 1)
        )
    return sorted(missing - present)


def nothing_chosen(names: Sequence[str], *, where: str, patterns: bool) -> str:
    """Why `select` gave nothing, and what to do, for an error.

    Args:
        where: the model.
        patterns: whether the user gave some.
    """
    listed = f"{', '.join(names[:5])}{', …' if len(names) > 5 else ''}" or "no file at all"
    if patterns:
        return f"{where}: no file is left by --include and --exclude. It has {listed}."
    unread = sorted({what for ending, what in UNREAD_FORMATS.items() if _any_ends(names, ending)})
    if unread:
        return (
            f"{where}: the weights are in a format that is not read: {', '.join(unread)}. "
            f"Read are {_titles()}. To fetch the files all the same: --all"
        )
    return (
        f"{where}: expected weights ({_titles()}), found none; it has {listed}. "
        "To fetch the files all the same: --all"
    )


def _titles() -> str:
    return ", ".join(container.title for container in CONTAINERS.values())


def demand_safe(name: str, *, where: str) -> None:
    """Refuse a file name that would leave its folder, on this or another system.

    Raises:
        SourceError: the name is absolute, climbs, or means something else on Windows.
    """
    parts = name.split("/")
    windows = PureWindowsPath(name)
    if (
        not name
        or any(part in ("", ".", "..") for part in parts)
        or any(ord(character) < 32 for character in name)
        or any(character in name for character in '\\:*?"<>|')
        or windows.drive
        or any(_RESERVED.match(part) or part.endswith((" ", ".")) for part in parts)
    ):
        raise SourceError(
            f"{where}: the repository names a file {name!r:.200}, which cannot be written safely "
            "inside a folder. Nothing was written. Leave it out with --exclude, or report it to "
            "the owner of the repository."
        )


def _is_weight(name: str) -> bool:
    file = PurePosixPath(name).name
    return not any(fnmatchcase(file, pattern) for pattern in _NOT_WEIGHTS)


def _one_model(weights: list[str], here: list[str]) -> list[str]:
    """One index and its shards, else the single file, else all weights of the folder."""
    ending = max((PurePosixPath(name).suffix for name in weights), key=_count(weights))
    names = {PurePosixPath(name).name: name for name in here}
    main = next(row.main for row in CONTAINERS.values() if ending in row.endings)
    indices = [name for name in names if name.endswith(f"{ending}.index.json")]
    indices.sort(key=lambda name: (name != f"{main}{ending}.index.json", name))
    if indices:
        stem = indices[0].removesuffix(f"{ending}.index.json")
        shards = [w for w in weights if PurePosixPath(w).name.startswith(f"{stem}-")]
        return [names[indices[0]], *(shards or weights)]
    single = names.get(f"{main}{ending}")
    return [single] if single else weights


def _one_gguf(weights: list[str], here: list[str]) -> list[str]:
    """The copy of highest precision, all its parts; all files where none says what it is."""
    for precision in _GGUF_PRECISION:
        pattern = re.compile(rf"(^|[-._]){precision}([-._]|$)", re.IGNORECASE)
        chosen = [name for name in weights if pattern.search(PurePosixPath(name).name)]
        if chosen:
            first = _SERIES.match(chosen[0])
            if first is None:
                return chosen[:1]
            return [name for name in chosen if name.startswith(first["stem"])]
    return weights


def _is_beside(name: str, folders: set[str]) -> bool:
    path = PurePosixPath(name)
    return str(path.parent) in folders and any(
        fnmatchcase(path.name, pattern) for pattern in BESIDE_WEIGHTS
    )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    whole = (f"{pattern}*" if pattern.endswith("/") else pattern for pattern in patterns)
    return any(fnmatchcase(name, pattern) for pattern in whole)


def _count(weights: list[str]) -> Callable[[str], int]:
    return lambda ending: sum(name.endswith(ending) for name in weights)


def _depth(name: str) -> int:
    return name.count("/")


def _any_ends(names: Sequence[str], ending: str) -> bool:
    return any(name.endswith(ending) for name in names)
