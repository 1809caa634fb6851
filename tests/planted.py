"""Embeddings with a structure that is known because it was put there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def blobs(k: int, *, n: int = 6000, d: int = 48, seed: int = 0, spread: float = 0.25):
    """n rows around k random centres, and which centre each belongs to."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % k)
    centres = rng.standard_normal((k, d))
    rows = centres[labels] + spread * rng.standard_normal((n, d))
    return rows.astype(np.float32), labels


def trained_rows(n: int, d: int, *, seed: int = 0) -> np.ndarray:
    """Rows as training leaves them: norms spread about 1, more variance in some directions."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, d)) / np.sqrt(1 + np.arange(d) / 8)
    rows *= rng.lognormal(0.0, 0.15, n)[:, None] / np.linalg.norm(rows, axis=1)[:, None]
    return rows.astype(np.float32)


def untrained_rows(n: int, d: int, *, seed: int = 1) -> np.ndarray:
    """Rows that only drifted: a common direction and the noise of their first values."""
    rng = np.random.default_rng(seed)
    common = np.random.default_rng(7).standard_normal(d) * 0.4 / np.sqrt(d)
    return (common + rng.standard_normal((n, d)) * 0.15 / np.sqrt(d)).astype(np.float32)


def word_tokens(n: int) -> list[str]:
    """n different words of letters, as a WordPiece vocabulary has them."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [
        letters[i % 26] + letters[i // 26 % 26] + letters[i // 676 % 26] + "q" for i in range(n)
    ]


def write_tokenizer(folder: Path, tokens: list[str], *, special: tuple[int, ...] = ()) -> None:
    """A WordPiece tokenizer.json, as BERT's."""
    added = [
        {
            "id": i,
            "content": tokens[i],
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for i in special
    ]
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: i for i, token in enumerate(tokens)},
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")
