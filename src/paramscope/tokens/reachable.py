"""Tokens that no text leads to: the tokenizer never gives them out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from paramscope.tokens.readable import token_bytes
from paramscope.tokens.vocabulary import Vocabulary

# A character that pre-tokenizers set apart: a piece from the middle of a word can follow it.
_BEFORE = "«"
_BATCH = 8192


def unreachable(vocabulary: Vocabulary) -> tuple[list[int], str]:
    """Ids that do not come back when their own text is tokenized; and a note where that is unknown.

    A token's text is tried alone, without its leading space, and after a quotation mark. A
    WordPiece continuation (`##ing`) is tried on the level where it would be cut off: a word that
    ends in it must come through normalisation and pre-tokenization in one piece. Special and
    added tokens, and bytes that are no complete character, are not judged.

    Returns:
        Ascending ids; a sentence, empty where the test was done.

    Source: Land & Bartolo 2024, arXiv:2405.05417, section 3.1.
    """
    if not vocabulary.data:
        return [], "Which tokens are unreachable was not tested: that takes a tokenizer.json."
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return [], (
            "Which tokens are unreachable was not tested: that takes the package tokenizers "
            "(pip install tokenizers)."
        )
    try:
        tokenizer = Tokenizer.from_str(json.dumps(vocabulary.data))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return _unreachable(tokenizer, vocabulary), ""
    except Exception as error:  # the library raises nothing narrower
        reason = " ".join(str(error).split())[:120]
        return [], f"Which tokens are unreachable was not tested: the tokenizer fails ({reason})."


def _unreachable(tokenizer: Any, vocabulary: Vocabulary) -> list[int]:
    model = vocabulary.data.get("model", {})
    prefix = model.get("continuing_subword_prefix") if model.get("type") == "WordPiece" else None
    added = {token.get("id") for token in vocabulary.data.get("added_tokens") or []}
    texts: dict[int, str] = {}
    found: list[int] = []
    for token_id, raw in enumerate(vocabulary.raw):
        if raw is None or not raw or token_id in added:
            continue
        if prefix and raw.startswith(prefix) and len(raw) > len(prefix):
            if not _stays_whole(tokenizer, "a" + raw[len(prefix) :]):
                found.append(token_id)
            continue
        text = _text(raw, byte_level=vocabulary.byte_level)
        if text is not None:
            texts[token_id] = text
    before = tokenizer.encode(_BEFORE, add_special_tokens=False).ids
    for alter in (_same, _without_space, _after):
        wanted = list(texts)
        encoded = _encode(tokenizer, [alter(texts[token_id]) for token_id in wanted])
        for token_id, ids in zip(wanted, encoded, strict=True):
            if ids in ([token_id], [*before, token_id]):
                del texts[token_id]
    return sorted([*found, *texts])


def _text(raw: str, *, byte_level: bool) -> str | None:
    """The text for which a token stands; None where it is no complete text."""
    if byte_level:
        data = token_bytes(raw)
        try:
            return None if data is None else data.decode("utf-8")
        except UnicodeDecodeError:
            return None
    if raw.startswith("<0x") and raw.endswith(">") and len(raw) == 6:
        return None
    return raw.replace("▁", " ")


def _same(text: str) -> str:
    return text


def _without_space(text: str) -> str:
    return text.removeprefix(" ")


def _after(text: str) -> str:
    return _BEFORE + text


def _encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    ids: list[list[int]] = []
    for start in range(0, len(texts), _BATCH):
        batch = tokenizer.encode_batch(texts[start : start + _BATCH], add_special_tokens=False)
        ids += [encoding.ids for encoding in batch]
    return ids


def _stays_whole(tokenizer: Any, word: str) -> bool:
    """Whether normalisation keeps a word as it is and pre-tokenization does not cut it."""
    normal = word if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(word)
    if normal.strip() != word:
        return False
    if tokenizer.pre_tokenizer is None:
        return True
    return len(tokenizer.pre_tokenizer.pre_tokenize_str(normal)) == 1
