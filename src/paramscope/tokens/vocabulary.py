"""The vocabulary of a checkpoint: tokenizer.json, vocab.json or vocab.txt; or none, and why."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from paramscope.checkpoint import TokenList
from paramscope.errors import SourceError
from paramscope.source import Source
from paramscope.tokens.readable import readable

MOST_IDS = 2**24  # a larger id is a damaged file, not a vocabulary
_MOST_BYTES = 256 * 2**20
_NOT_READ = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tiktoken.model")
# GGUF's kinds of tokens, and its kinds of tokenizers whose characters stand for bytes.
_SPECIAL, _UNUSED = (2, 3), 5
_BYTE_LEVEL = ("gpt2", "hybriddna")
_RESERVED = re.compile(r"unused|reserved|dummy|placeholder|madeupword|extra_\d", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens by id.

    Attributes:
        raw: as the file has them; None where no token has that id.
        special: ids of tokens that the tokenizer calls special.
        byte_level: whether the characters stand for bytes.
        file: where it was read from; empty where there is none.
        notes: what a user should know, in sentences.
        data: the content of `tokenizer.json`, for those who need more of it.
    """

    raw: tuple[str | None, ...] = ()
    special: frozenset[int] = frozenset()
    byte_level: bool = False
    file: str = ""
    notes: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """One more than the largest id."""
        return len(self.raw)

    def text(self, token_id: int) -> str:
        """The token in readable form; `⟨id⟩` where there is none."""
        raw = self.raw[token_id] if token_id < len(self.raw) else None
        return f"⟨{token_id}⟩" if raw is None else readable(raw, byte_level=self.byte_level)

    def reserved(self) -> list[int]:
        """Ids of tokens whose name says that nothing uses them: `[unused7]`, `<|reserved_3|>`."""
        return [
            token_id
            for token_id, raw in enumerate(self.raw)
            if raw is not None and raw[:1] in "[<" and _RESERVED.search(raw)
        ]

    def find(self, wanted: str) -> list[int]:
        """Ids of a token given in raw or readable form, or without its leading space; or an id."""
        exact = [i for i, raw in enumerate(self.raw) if raw is not None and wanted == raw]
        if exact:
            return exact
        spaced = {wanted.replace(" ", "␣"), f"␣{wanted}", f"▁{wanted}"}
        found = [i for i, raw in enumerate(self.raw) if raw is not None and self.text(i) in spaced]
        if not found and wanted.isdecimal():
            return [int(wanted)]
        return found

    def nearest(self, wanted: str, count: int = 3) -> list[str]:
        """Tokens spelled most like this one, readable; for messages."""
        import difflib

        first = wanted[:1].lower()
        texts = {self.text(i) for i, raw in enumerate(self.raw) if raw is not None}
        alike = [text for text in texts if text.lstrip("␣▁#")[:1].lower() == first]
        return difflib.get_close_matches(wanted, sorted(alike), n=count, cutoff=0.5)


def read_vocabulary(source: Source, beside: str, own: TokenList | None = None) -> Vocabulary:
    """The vocabulary of a source; an empty one, with a note, where there is none to read.

    Args:
        beside: a weight file; its folder is searched first, then the top folder, then `tokenizer`.
        own: the vocabulary that the weight file holds itself; it counts before any other file.
    """
    if own is not None:
        return _own(own)
    notes: list[str] = []
    folders = dict.fromkeys(
        (PurePosixPath(beside).parent, PurePosixPath(), PurePosixPath("tokenizer"))
    )
    for folder in folders:
        for name, parse in _PARSERS.items():
            file = str(folder / name)
            if file not in source.files():
                continue
            try:
                found = parse(_read(source, file), _beside(source, folder))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError, SourceError):
                notes.append(
                    f"{file} is damaged or not a vocabulary that is known; it is not used."
                )
                continue
            if len(found):
                return Vocabulary(
                    found.raw, found.special, found.byte_level, file, tuple(notes), found.data
                )
            notes.append(f"{file} has no tokens; it is not used.")
    unread = [file for file in source.files() if PurePosixPath(file).name in _NOT_READ]
    reason = f" ({unread[0]} is a format that is not read)" if unread else ""
    notes.append(f"No tokenizer was found{reason}: tokens are named by their ids, as ⟨7⟩.")
    return Vocabulary(notes=tuple(notes))


def _own(tokens: TokenList) -> Vocabulary:
    """The vocabulary of a GGUF file. What only fills its list up is no token."""
    kinds = tokens.kinds()
    special = {i for i, kind in enumerate(kinds) if kind in _SPECIAL}
    fillers = {i for i, kind in enumerate(kinds) if kind == _UNUSED}
    texts = [
        (_word_piece(text) if tokens.model == "bert" and i not in special else text, i)
        for i, text in enumerate(tokens.texts())
        if i not in fillers or text != f"[PAD{i}]"
    ]
    found = from_pairs(
        texts,
        special=special,
        byte_level=tokens.model in _BYTE_LEVEL,
    )
    return replace(found, file=tokens.file)


def _word_piece(text: str) -> str:
    """A WordPiece token: llama.cpp marks the beginnings of words, others what goes on in them."""
    return text[1:] if text.startswith("▁") else f"##{text}"


def from_pairs(
    pairs: Iterable[tuple[str, int]],
    *,
    special: Iterable[int] = (),
    byte_level: bool = False,
    data: Mapping[str, Any] | None = None,
) -> Vocabulary:
    """A vocabulary from (token, id); the first token of an id counts.

    Raises:
        ValueError: a token is no text, or an id no whole number in 0 … 2²⁴.
    """
    by_id: dict[int, str] = {}
    for token, token_id in pairs:
        if not isinstance(token, str) or type(token_id) is not int or not 0 <= token_id < MOST_IDS:
            raise ValueError(f"{token!r:.40}: {token_id!r:.40}")
        by_id.setdefault(token_id, token)
    size = max(by_id, default=-1) + 1
    return Vocabulary(
        tuple(by_id.get(token_id) for token_id in range(size)),
        frozenset(special),
        byte_level,
        data=data or {},
    )


def _read(source: Source, file: str) -> bytes:
    size_bytes = source.files()[file]
    if size_bytes > _MOST_BYTES:
        raise ValueError("too large")
    return source.read(file, 0, size_bytes)


def _beside(source: Source, folder: PurePosixPath) -> Mapping[str, Any]:
    """`tokenizer_config.json` of the folder, or {}."""
    file = str(folder / "tokenizer_config.json")
    if file not in source.files():
        return {}
    try:
        parsed = json.loads(_read(source, file))
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _tokenizer_json(data: bytes, config: Mapping[str, Any]) -> Vocabulary:
    parsed = json.loads(data)
    model = parsed["model"]
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        pairs = list(vocab.items())
    else:  # Unigram: [token, score] in the order of ids
        pairs = [(entry[0], token_id) for token_id, entry in enumerate(vocab)]
    added = parsed.get("added_tokens") or []
    pairs = [(token["content"], token["id"]) for token in added] + pairs
    return from_pairs(
        pairs,
        special=[token["id"] for token in added if token.get("special")],
        byte_level=_mentions(parsed.get("decoder"), "ByteLevel")
        or _mentions(parsed.get("pre_tokenizer"), "ByteLevel"),
        data=parsed,
    )


def _mentions(node: Any, kind: str) -> bool:
    """Whether a part of a tokenizer's description, or one below it, is of this type."""
    if isinstance(node, dict):
        return node.get("type") == kind or any(_mentions(below, kind) for below in node.values())
    return isinstance(node, list) and any(_mentions(below, kind) for below in node)


def _vocab_json(data: bytes, config: Mapping[str, Any]) -> Vocabulary:
    parsed = json.loads(data)
    added = _added(config)
    byte_level = any(token.startswith("Ġ") for token in parsed)
    return from_pairs(
        [*parsed.items(), *added.items()], special=added.values(), byte_level=byte_level
    )


def _vocab_txt(data: bytes, config: Mapping[str, Any]) -> Vocabulary:
    lines = data.decode("utf-8").split("\n")
    if lines and not lines[-1]:
        lines.pop()
    tokens = [line.rstrip("\r") for line in lines]
    named = {value for key, value in config.items() if key.endswith("_token")}
    special = [i for i, token in enumerate(tokens) if token in named]
    return from_pairs([(token, i) for i, token in enumerate(tokens)], special=special)


def _added(config: Mapping[str, Any]) -> dict[str, int]:
    """Tokens that `tokenizer_config.json` adds, with their ids."""
    found = config.get("added_tokens_decoder") or {}
    return {token["content"]: int(token_id) for token_id, token in found.items()}


_PARSERS = {"tokenizer.json": _tokenizer_json, "vocab.json": _vocab_json, "vocab.txt": _vocab_txt}
