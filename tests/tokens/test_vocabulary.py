"""Token text from every form of vocabulary; the tokenizers library is the oracle."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from paramscope.source.local import LocalSource
from paramscope.tokens.reachable import unreachable
from paramscope.tokens.readable import readable, token_bytes
from paramscope.tokens.vocabulary import from_pairs, read_vocabulary
from planted import write_tokenizer


@pytest.mark.parametrize(
    ("token", "text"),
    [
        ("hello", "hello"),
        ("Ġhello", "␣hello"),
        ("ĠĠ", "␣␣"),
        ("Ċ", "\\n"),
        ("ĉ", "\\t"),
        ("Ã¤", "ä"),
        ("ä¸Ń", "中"),
        ("ä¸", "<0xE4><0xB8>"),
        ("aÃ", "a<0xC3>"),
        ("Ń", "<0xAD>"),
        ("<|im_start|>", "<|im_start|>"),
        ("中文", "中文"),
        ("â̦", "â̦"),
    ],
)
def test_byte_level_tokens_are_readable(token, text):
    assert readable(token, byte_level=True) == text


@pytest.mark.parametrize(
    ("token", "text"),
    [
        ("##ing", "##ing"),
        ("▁the", "▁the"),
        ("<0xE4>", "<0xE4>"),
        ("a b", "a␣b"),
        ("a\u200bb", "a<U+200B>b"),
        ("\x1b[31m", "<U+001B>[31m"),
        ("Ġ", "Ġ"),
    ],
)
def test_other_tokens_stay_but_for_what_is_invisible(token, text):
    assert readable(token, byte_level=False) == text


def test_every_byte_has_one_character():
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = ByteLevel.alphabet()
    values = [token_bytes(character) for character in alphabet]
    assert sorted(values) == [bytes([byte]) for byte in range(256)]
    text = "naïve 中文 \n\t\U0001f600"
    pieces = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    assert b"".join(token_bytes(piece) for piece, _ in pieces) == text.encode()


def vocabulary_in(folder):
    with closing(LocalSource(folder)) as source:
        return read_vocabulary(source, "model.safetensors")


def byte_level_bpe(folder):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = ["the quick brown fox jumps over the lazy dog", "naïve café 中文字符"] * 20
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def unigram(folder):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = ["<unk>", "▁the", "▁fox", "fo", "x", "▁", "t", "h", "e", "f", "o"]
    tokenizer = Tokenizer(models.Unigram([(p, -float(i)) for i, p in enumerate(pieces)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


@pytest.mark.parametrize("make", [byte_level_bpe, unigram])
def test_a_tokenizer_json_gives_the_tokens_that_the_library_gives(make, tmp_path):
    tokenizer = make(tmp_path)
    vocabulary = vocabulary_in(tmp_path)
    assert len(vocabulary) == tokenizer.get_vocab_size()
    for token_id in range(len(vocabulary)):
        assert vocabulary.raw[token_id] == tokenizer.id_to_token(token_id)
    assert vocabulary.file == "tokenizer.json" and vocabulary.notes == ()


def test_byte_level_is_recognised_and_special_tokens_are_known(tmp_path):
    byte_level_bpe(tmp_path)
    vocabulary = vocabulary_in(tmp_path)
    assert vocabulary.byte_level and vocabulary.special == {0}
    assert vocabulary.text(vocabulary.raw.index("Ġthe")) == "␣the"


def test_reachable_tokens_of_a_trained_tokenizer_are_not_called_unreachable(tmp_path):
    tokenizer = byte_level_bpe(tmp_path)
    ids, note = unreachable(vocabulary_in(tmp_path))
    assert note == ""
    used = set(tokenizer.encode("the quick brown fox naïve café 中文字符").ids)
    assert not used & set(ids)
    # What is called unreachable indeed never comes out, whatever text contains it.
    for token_id in ids:
        text = tokenizer.decode([token_id])
        for before in ("", " ", "x", "("):
            for after in ("", " ", "y", ")"):
                assert token_id not in tokenizer.encode(before + text + after).ids


def test_wordpiece_tokens_that_no_text_leads_to(tmp_path):
    tokens = ["[PAD]", "[UNK]", "[unused1]", "hello", "##ing", "##!", "##Ing", "Hello", "!", "é"]
    write_tokenizer(tmp_path, tokens, special=(0, 1))
    ids, note = unreachable(vocabulary_in(tmp_path))
    assert (note, [tokens[i] for i in ids]) == ("", ["[unused1]", "##!", "##Ing", "Hello", "é"])


def test_without_the_library_a_sentence_says_what_was_not_tested(tmp_path, monkeypatch):
    import sys

    write_tokenizer(tmp_path, ["[UNK]", "a"])
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert "pip install tokenizers" in unreachable(vocabulary_in(tmp_path))[1]
    assert "tokenizer.json" in unreachable(from_pairs([("a", 0)]))[1]


def test_a_tokenizer_that_cannot_encode_is_noted(tmp_path):
    write_tokenizer(tmp_path, ["hello", "##ing"])  # no [UNK]
    ids, note = unreachable(vocabulary_in(tmp_path))
    assert ids == [] and "the tokenizer fails" in note and "UNK" in note


def test_vocab_txt_and_vocab_json_serve_too(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\nhello\n##s\n", "utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    vocabulary = vocabulary_in(tmp_path)
    assert (vocabulary.raw, vocabulary.special) == (("[PAD]", "hello", "##s"), {0})
    (tmp_path / "vocab.json").write_text(json.dumps({"Ġhi": 1, "a": 0}))
    config = {"added_tokens_decoder": {"3": {"content": "<end>"}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    vocabulary = vocabulary_in(tmp_path)
    assert vocabulary.raw == ("a", "Ġhi", None, "<end>") and vocabulary.special == {3}
    assert [vocabulary.text(i) for i in range(5)] == ["a", "␣hi", "⟨2⟩", "<end>", "⟨4⟩"]


BROKEN = {
    "no JSON": b"{not json",
    "no UTF-8": b"\xff\xfe",
    "cut short": b'{"model": {"vocab": {"a": 0,',
    "a list": b"[1, 2]",
    "no model": b"{}",
    "null model": b'{"model": null}',
    "ids that are no numbers": b'{"model": {"vocab": {"a": "x"}}}',
    "negative ids": b'{"model": {"vocab": {"a": -1}}}',
    "giant ids": b'{"model": {"vocab": {"a": 99999999999}}}',
    "tokens that are no text": b'{"model": {"vocab": [[1, 2]]}}',
    "nothing": b"",
    "deep": b"[" * 100_000,
    "no tokens": b'{"model": {"vocab": {}}}',
    "added tokens that are none": b'{"model": {"vocab": {"a": 0}}, "added_tokens": [7]}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_tokenizer_json_is_noted_and_ids_serve(content, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(content)
    vocabulary = vocabulary_in(tmp_path)
    assert len(vocabulary) == 0 and vocabulary.text(7) == "⟨7⟩"
    assert "tokenizer.json" in vocabulary.notes[0] and "ids" in vocabulary.notes[-1]
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    vocabulary = vocabulary_in(tmp_path)
    assert vocabulary.raw == ("a", "b") and "tokenizer.json" in vocabulary.notes[0]


def test_a_tokenizer_model_is_named_as_not_read(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    assert "tokenizer.model is a format that is not read" in vocabulary_in(tmp_path).notes[0]


def test_reserved_names():
    names = ["[unused7]", "<|reserved_special_token_3|>", "<unused2>", "unused", "<extra_id_1>"]
    vocabulary = from_pairs([(name, i) for i, name in enumerate(names)])
    assert vocabulary.reserved() == [0, 1, 2]


def test_tokens_are_found_by_raw_or_readable_form_without_their_space_or_by_id():
    vocabulary = from_pairs([("Ġking", 0), ("king", 1), ("Ġqueen", 2), ("7", 3)], byte_level=True)
    assert vocabulary.find("king") == [1]
    assert vocabulary.find("queen") == [2] == vocabulary.find(" queen")
    assert vocabulary.find("Ġking") == [0] == vocabulary.find("␣king")
    assert vocabulary.find("7") == [3]
    assert vocabulary.find("2") == [2]
    assert vocabulary.find("quen") == [] and vocabulary.nearest("quen") == ["␣queen"]


def test_the_real_tokenizer_is_read_whole(real_model):
    vocabulary = vocabulary_in(real_model)
    lines = (real_model / "vocab.txt").read_text("utf-8").splitlines()
    assert list(vocabulary.raw) == lines
    assert len(vocabulary.reserved()) == 994
    ids, _ = unreachable(vocabulary)
    others = [vocabulary.text(i) for i in ids if i not in set(vocabulary.reserved())]
    # Pre-tokenization sets punctuation and ideographs apart: no continuation can begin with them.
    assert len(others) == 337 and sum(text.startswith("##") for text in others) == 336
