"""Damaged and hostile GGUF files: read, or refused with a sentence; quickly, in little memory."""

from __future__ import annotations

import struct
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType as Q

import gguf_files
from gguf_files import by_hand, info, pair, text
from mutation import peak_bytes, read_all, survive
from paramscope.checkpoint.open import open_checkpoint
from paramscope.errors import CheckpointError, ParamscopeError
from paramscope.source.local import LocalSource

U32, U64 = struct.Struct("<I").pack, struct.Struct("<Q").pack
U8_KIND, U32_KIND, STRING, ARRAY = 0, 4, 8, 9
NAME = "blk.0.ffn_up.weight"


def array(kind: int, count: int, elements: bytes = b"") -> bytes:
    return U32(kind) + U64(count) + elements


def nested(depth: int) -> bytes:
    value = array(U8_KIND, 1, b"\0")
    for _ in range(depth - 1):
        value = array(ARRAY, 1, value)
    return value


def aligned(value: bytes, kind: int = U32_KIND) -> list[bytes]:
    return [pair("general.alignment", kind, value)]


HOSTILE = {
    "empty": (b"", "has 0 left"),
    "three bytes": (b"GGU", "begin with 'GGUF'"),
    "other magic": (b"GGML" + bytes(60), "begin with 'GGUF'"),
    "magic alone": (b"GGUF", "has 0 left"),
    "version 0": (by_hand(version=0), "found 0"),
    "version 1": (by_hand(version=1), "version 2 or 3, found 1"),
    "version 4": (by_hand(version=4), "found 4"),
    "big-endian": (by_hand(version=3 << 24), "big-endian"),
    "tensors without end": (by_hand(counts=(2**63, 0)), "announces 9,223,372,036,854,775,808"),
    "pairs without end": (by_hand(counts=(0, 2**64 - 1)), "key-value pairs"),
    "a few too many tensors": (by_hand(counts=(9, 0), data=bytes(64)), "announces 9 tensors"),
    "a long key": (by_hand(pairs=[U64(2**63) + bytes(20)]), "takes 9,223,372,036,854,775,808"),
    "a long string": (by_hand(pairs=[pair("k", STRING, U64(2**40))]), "takes 1,099,511,627,776"),
    "an unknown kind": (by_hand(pairs=[pair("k", 13, bytes(8))]), "type 13"),
    "an unknown kind in an array": (by_hand(pairs=[pair("k", ARRAY, array(99, 1))]), "type 99"),
    "a long array": (by_hand(pairs=[pair("k", ARRAY, array(10, 2**61))]), "an array of"),
    "many strings": (by_hand(pairs=[pair("k", ARRAY, array(STRING, 2**60))]), "strings under"),
    "a string in an array": (
        by_hand(pairs=[pair("k", ARRAY, array(STRING, 1, U64(2**64 - 1)))]),
        "behind the end",
    ),
    "deep arrays": (by_hand(pairs=[pair("k", ARRAY, nested(5000))]), "deeper than 4"),
    "one key twice": (by_hand(pairs=[pair("k", U8_KIND, b"\0")] * 2), "stands twice"),
    "alignment 0": (by_hand(pairs=aligned(U32(0))), "power of two"),
    "alignment 3": (by_hand(pairs=aligned(U32(3))), "power of two"),
    "alignment in words": (by_hand(pairs=aligned(text("x"), STRING)), "power of two"),
    "alignment true": (by_hand(pairs=aligned(b"\1", 7)), "power of two"),
    "five dimensions": (by_hand([info(NAME, [1] * 5, 0, 0)], data=bytes(64)), "5 dimensions"),
    "dimensions without end": (
        by_hand([text(NAME) + U32(2**32 - 1) + bytes(12)]),
        "4,294,967,295 dimensions",
    ),
    "a dimension of 2**63": (by_hand([info(NAME, [2**63], 0, 0)]), "too many elements"),
    "a product of 2**64": (by_hand([info(NAME, [2**32, 2**32], 0, 0)]), "too many elements"),
    "larger than the file": (by_hand([info(NAME, [1024], 0, 0)], data=bytes(64)), "the file at"),
    "behind the file": (by_hand([info(NAME, [4], 0, 2**40)], data=bytes(64)), "the file at"),
    "far behind the file": (by_hand([info(NAME, [4], 0, 2**64 - 32)]), "the file at"),
    "not aligned": (by_hand([info(NAME, [4], 0, 4)], data=bytes(64)), "no multiple of 32"),
    "no whole blocks": (by_hand([info(NAME, [33, 2], 2, 0)], data=bytes(64)), "no whole blocks"),
    "overlapping": (
        by_hand([info("a", [16], 0, 0), info("b", [16], 0, 32)], data=bytes(128)),
        "belong to others too",
    ),
    "one name twice": (
        by_hand([info("a", [8], 0, 0), info("a", [8], 0, 32)], data=bytes(64)),
        "also in",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_breaks_the_format_is_refused_with_a_sentence(tmp_path, case):
    content, says = HOSTILE[case]
    path = tmp_path / "m.gguf"
    path.write_bytes(content)

    def refused():
        with pytest.raises(CheckpointError, match=says) as caught:
            read_all(path)
        assert "m.gguf" in str(caught.value)

    assert peak_bytes(refused) < 20 * 2**20


def test_tensors_without_elements_are_listed(tmp_path):
    infos = [
        info("blk.0.ffn_down_exps.weight", [5, 0, 2**40], 0, 0),
        info("blk.0.ffn_up_exps.weight", [256, 0, 2**40], 12, 0),
        info("blk.0.attn_q.weight", [0, 4], 12, 0),
        info("blk.0.attn_k_b.weight", [0, 2, 2], 1, 0),
        info("scalar", [], 0, 0),
    ]
    path = tmp_path / "m.gguf"
    path.write_bytes(by_hand(infos, data=bytes(32)))
    read_all(path)
    with closing(LocalSource(path)) as source:
        shapes = {tensor.name: tensor.shape for tensor in open_checkpoint(source).tensors}
    assert shapes["blk.0.ffn_up_exps.weight"] == (2**40, 0, 256)
    assert shapes["scalar"] == ()


def test_a_file_without_tensors_has_none(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(by_hand(pairs=[pair("general.architecture", STRING, text("llama"))]))
    read_all(path)


def test_bytes_of_no_tensor_are_told(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(by_hand([info("a", [8], 0, 64)], data=bytes(64 + 32 + 100)))
    with closing(LocalSource(path)) as source:
        assert any("164 bytes" in note for note in open_checkpoint(source).notes)


def test_names_and_keys_may_be_any_bytes(tmp_path):
    path = tmp_path / "m.gguf"
    name = text(b"\xff\xfe") + U32(1) + U64(8) + U32(0) + U64(0)
    path.write_bytes(by_hand([name], [pair("k", STRING, text(b"\xff"))], bytes(32)))
    read_all(path)


def test_every_kind_of_value_is_read_past(tmp_path):
    kinds = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    pairs = [pair(f"k{kind}", kind, b"\1" * size) for kind, size in kinds.items()]
    pairs += [pair(f"a{kind}", ARRAY, array(kind, 3, bytes(3 * n))) for kind, n in kinds.items()]
    pairs += [pair("nested", ARRAY, nested(3)), pair("s", STRING, text("x"))]
    pairs += [pair("long", ARRAY, array(U8_KIND, 10_000, bytes(10_000)))]
    path = tmp_path / "m.gguf"
    path.write_bytes(by_hand([info("a", [8], 0, 0)], pairs, bytes(32), version=2))
    read_all(path)


def test_nonsense_in_the_metadata_is_no_configuration(tmp_path):
    pairs = [
        pair("general.architecture", STRING, text("llama")),
        pair("llama.attention.head_count", STRING, text("many")),
        pair("llama.attention.head_count_kv", ARRAY, array(STRING, 1, text("x"))),
        pair("llama.embedding_length", 10, U64(2**63)),
        pair("llama.block_count", ARRAY, nested(2)),
        pair("tokenizer.ggml.tokens", ARRAY, array(U8_KIND, 3, b"abc")),
        pair("tokenizer.ggml.token_type", STRING, text("x")),
        pair("split.count", ARRAY, array(U8_KIND, 1, b"\3")),
        pair("split.no", STRING, text("x")),
    ]
    path = tmp_path / "m.gguf"
    path.write_bytes(by_hand([info("a", [8], 0, 0)], pairs, bytes(32)))
    with closing(LocalSource(path)) as source:
        checkpoint = open_checkpoint(source)
        assert checkpoint.config == {"model_type": "llama"}


def small(tmp_path: Path) -> bytes:
    """A file with a little of everything."""
    rng = np.random.default_rng(0)
    kinds = {
        NAME: Q.Q4_K,
        "blk.0.ffn_gate.weight": Q.NVFP4,
        "blk.0.ffn_down_exps.weight": Q.IQ2_XXS,
        "blk.0.attn_k_b.weight": Q.Q8_0,
    }
    tensors = {
        NAME: gguf_files.blocks(Q.Q4_K, 2, 256),
        "blk.0.ffn_gate.weight": gguf_files.blocks(Q.NVFP4, 2, 128),
        "blk.0.ffn_gate.scale": np.ones(1, np.float32),
        "blk.0.ffn_down_exps.weight": gguf_files.blocks(Q.IQ2_XXS, 4, 256).reshape(2, 2, -1),
        "blk.0.attn_k_b.weight": gguf_files.blocks(Q.Q8_0, 4, 32).reshape(2, 2, -1),
        "blk.0.attn_qkv.weight": rng.standard_normal((12, 4)).astype(np.float16),
        "token_embd.weight": rng.standard_normal((5, 4)).astype(np.float32),
    }
    metadata = {
        "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": [2, 2],
        "tokenizer.ggml.tokens": ["a", "b", "c", "d", "e"],
        "tokenizer.ggml.token_type": [1, 1, 1, 3, 5],
    }
    path = gguf_files.write(tmp_path / "small.gguf", tensors, metadata, kinds=kinds)
    return path.read_bytes()


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    whole = small(tmp_path)
    path = tmp_path / "m.gguf"
    path.write_bytes(whole)
    read_all(path)
    for length in [*range(0, len(whole) - 64, 7), len(whole) - 40]:
        path.write_bytes(whole[:length])
        with pytest.raises(ParamscopeError):
            read_all(path)


@pytest.mark.parametrize("times", [1000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_damaged_files_are_read_or_refused(tmp_path, times):
    outcome = survive(
        tmp_path / "fuzz",
        {"m.gguf": small(tmp_path)},
        times=times,
        place=lambda folder: folder / "m.gguf",
    )
    assert outcome["read"] > times / 100 and outcome["refused"] > times / 10


def test_damaged_series_are_read_or_refused(tmp_path):
    whole = {}
    for part in range(2):
        numbers = {"split.no": part, "split.count": 2, "split.tensors.count": 2}
        file = tmp_path / f"m-{part + 1:05d}-of-00002.gguf"
        gguf_files.write(file, {f"blk.{part}.ffn_up.weight": np.ones((2, 2), "f4")}, numbers)
        whole[file.name] = file.read_bytes()
    outcome = survive(tmp_path / "fuzz", whole, times=300)
    assert outcome["read"] and outcome["refused"]
