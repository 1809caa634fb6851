from __future__ import annotations

from contextlib import closing
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

import gguf_files
from effort import lines_run
from mutation import peak_bytes
from paramscope import pipeline
from paramscope.anatomy.dissect import dissect
from paramscope.checkpoint import PackedTensor, Window
from paramscope.checkpoint.gguf_types import TYPES
from paramscope.checkpoint.open import open_checkpoint
from paramscope.errors import CheckpointError
from paramscope.source.local import LocalSource
from paramscope.tokens.vocabulary import read_vocabulary

SOURCES: list[LocalSource] = []
Q = GGMLQuantizationType
PLAIN = ("F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64")


def decodable(kind: Q) -> bool:
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return kind.name not in PLAIN


def quantisable(kind: Q) -> bool:
    try:
        quantize(np.ones((1, GGML_QUANT_SIZES[kind][0]), np.float32), kind)
    except NotImplementedError:
        return False
    return decodable(kind)


PACKED = [kind for kind in Q if decodable(kind)]


def opened(path: Path):
    SOURCES.append(LocalSource(path))
    return open_checkpoint(SOURCES[-1])


@pytest.fixture(autouse=True)
def _close_sources():
    yield
    while SOURCES:
        SOURCES.pop().close()


def test_the_table_of_types_is_that_of_the_library():
    for kind in Q:
        row = TYPES[kind.value]
        assert (row.name, (row.block, row.nbytes)) == (kind.name, GGML_QUANT_SIZES[kind])
        assert bool(row.plain) == (kind.name in PLAIN)
        assert bool(row.refusal) == (not row.plain and not decodable(kind))


def test_plain_types_are_read_as_they_stand(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "blk.0.attn_q.weight": rng.standard_normal((3, 5)).astype(np.float32),
        "blk.0.attn_k.weight": rng.standard_normal((2, 7)).astype(np.float16),
        "blk.0.attn_v.weight": rng.standard_normal((2, 3)),
        "blk.0.attn_norm.weight": rng.standard_normal(9).astype(np.float32),
        "i8": np.arange(-3, 3, dtype=np.int8),
        "i16": np.arange(-3, 3, dtype=np.int16),
        "i32": np.arange(-3, 3, dtype=np.int32),
        "i64": np.arange(-3, 3, dtype=np.int64).reshape(1, 2, 3),
    }
    checkpoint = opened(gguf_files.write(tmp_path / "m.gguf", tensors))
    assert {tensor.name for tensor in checkpoint.tensors} == set(tensors)
    for tensor in checkpoint.tensors:
        assert tensor.shape == tensors[tensor.name].shape
        codes = checkpoint.read(tensor, 0, tensor.numel)
        assert codes.tobytes() == tensors[tensor.name].tobytes()
        assert checkpoint.read(tensor, 1, 3).tobytes() == codes[1:3].tobytes()
    names = {tensor.name: tensor.stored_dtype for tensor in checkpoint.tensors}
    assert (names["blk.0.attn_v.weight"], names["i16"]) == ("F64", "I16")


def test_bfloat16_is_read_as_it_stands(tmp_path):
    W = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    codes = quantize(W, Q.BF16)
    path = gguf_files.write(tmp_path / "m.gguf", {"w": codes}, kinds={"w": Q.BF16})
    [tensor] = opened(path).tensors
    checkpoint = opened(path)
    values = tensor.dtype.decode(checkpoint.read(tensor, 0, tensor.numel)).reshape(4, 6)
    assert (tensor.stored_dtype, tensor.shape) == ("BF16", (4, 6))
    np.testing.assert_array_equal(values, dequantize(codes, Q.BF16))


@pytest.mark.parametrize("kind", PACKED, ids=lambda kind: kind.name)
def test_windows_decode_to_the_librarys_bits(tmp_path, kind):
    rows, columns = 37, 768
    if quantisable(kind):
        W = np.random.default_rng(1).standard_normal((rows, columns)).astype(np.float32)
        codes = quantize(W, kind)
    else:
        codes = gguf_files.blocks(kind, rows, columns)
    path = gguf_files.write(tmp_path / "m.gguf", {"w.weight": codes}, kinds={"w.weight": kind})
    checkpoint = opened(path)
    [tensor] = checkpoint.tensors
    assert isinstance(tensor, PackedTensor) and not tensor.refusal
    assert (tensor.shape, tensor.stored_dtype) == ((rows, columns), kind.name)
    assert tensor.nbytes == codes.size
    with np.errstate(all="ignore"):
        expected = dequantize(codes, kind)
    rng = np.random.default_rng(2)
    for _ in range(20):
        rows_at = np.sort(rng.integers(0, rows + 1, 2))
        columns_at = np.sort(rng.integers(0, columns + 1, 2))
        window = Window(*map(int, (*rows_at, *columns_at)))
        values = tensor.decode(checkpoint.read_stored, window)
        assert values.tobytes() == expected[window.rows, window.columns].tobytes()
    assert checkpoint.read(tensor, 700, 2000).tobytes() == expected.reshape(-1)[700:2000].tobytes()


def test_a_stack_of_experts_is_decoded_by_rows_of_all(tmp_path):
    W = np.random.default_rng(0).standard_normal((3, 8, 64)).astype(np.float32)
    codes = quantize(W, Q.Q8_0)
    name = "blk.1.ffn_down_exps.weight"
    path = gguf_files.write(tmp_path / "m.gguf", {name: codes}, kinds={name: Q.Q8_0})
    checkpoint = opened(path)
    [tensor] = checkpoint.tensors
    expected = dequantize(codes, Q.Q8_0)
    assert tensor.shape == (3, 8, 64)
    part = tensor.decode(checkpoint.read_stored, Window(6, 18, 5, 40))
    np.testing.assert_array_equal(part, expected.reshape(24, 64)[6:18, 5:40])
    matrices = dissect(checkpoint.tensors, {})
    assert [(m.role, m.part, m.layer, m.expert) for m in matrices] == [
        ("moe.expert.down", f"expert.{i}.down", 1, i) for i in range(3)
    ]


@pytest.mark.parametrize("kind", [Q.Q8_1, Q.Q8_K, Q.Q1_0])
def test_codes_without_a_decoder_are_listed_and_refused(tmp_path, kind):
    block, nbytes = GGML_QUANT_SIZES[kind]
    name = "blk.0.ffn_up.weight"
    codes = np.zeros((4, nbytes), np.uint8)
    path = gguf_files.write(tmp_path / "m.gguf", {name: codes}, kinds={name: kind})
    [tensor] = opened(path).tensors
    assert kind.name in tensor.refusal
    assert (tensor.shape, tensor.nbytes) == ((4, block), codes.size)


def test_removed_and_unknown_types_are_listed_and_refused(tmp_path):
    infos = [
        gguf_files.info("blk.0.attn_q.weight", [32, 4], 31, 0),
        gguf_files.info("blk.0.attn_k.weight", [32, 4], 200, 96),
        gguf_files.info("blk.0.attn_v.weight", [4], 0, 192),
    ]
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_files.by_hand(infos, data=bytes(208)))
    result = pipeline.analyze(path, out=tmp_path / "out")
    rows = {row["param_name"]: row for row in result.rows}
    assert "removed" in rows["blk.0.attn_q.weight"]["reason"]
    assert "200 is not known" in rows["blk.0.attn_k.weight"]["reason"]
    assert rows["blk.0.attn_k.weight"]["nbytes"] == 96
    assert result.meta["coverage"]["complete"] is True


def test_scales_beside_weights_are_multiplied_in(tmp_path):
    rng = np.random.default_rng(0)
    one, stack = "blk.0.ffn_up", "blk.0.ffn_up_exps"
    codes = {
        f"{one}.weight": gguf_files.blocks(Q.NVFP4, 8, 128),
        f"{stack}.weight": gguf_files.blocks(Q.NVFP4, 24, 128).reshape(3, 8, -1),
    }
    scales = {
        f"{one}.scale": np.array([0.25], np.float32),
        f"{stack}.scale": rng.standard_normal(3).astype(np.float32),
    }
    path = gguf_files.write(
        tmp_path / "m.gguf", {**codes, **scales}, kinds=dict.fromkeys(codes, Q.NVFP4)
    )
    checkpoint = opened(path)
    found = {tensor.name: tensor for tensor in checkpoint.tensors}
    assert set(found) == set(codes)
    with np.errstate(all="ignore"):
        single = dequantize(codes[f"{one}.weight"], Q.NVFP4) * np.float32(0.25)
        many = dequantize(codes[f"{stack}.weight"], Q.NVFP4)
        many *= scales[f"{stack}.scale"][:, None, None]
    for name, expected in ((f"{one}.weight", single), (f"{stack}.weight", many)):
        values = checkpoint.read(found[name], 0, found[name].numel)
        assert values.tobytes() == expected.tobytes()
    window = Window(5, 19, 60, 70)
    values = found[f"{stack}.weight"].decode(checkpoint.read_stored, window)
    assert values.tobytes() == many.reshape(24, -1)[5:19, 60:70].tobytes()


def test_latent_attention_is_turned_as_hugging_face_has_it(tmp_path):
    heads, nope, values, latent = 3, 32, 64, 96
    kv_b = np.random.default_rng(0).standard_normal((heads, nope + values, latent))
    kv_b = kv_b.astype(np.float32)
    k_b = np.ascontiguousarray(kv_b[:, :nope].transpose(0, 2, 1))
    v_b = np.ascontiguousarray(kv_b[:, nope:])
    names = ("blk.0.attn_k_b.weight", "blk.0.attn_v_b.weight")
    path = gguf_files.write(tmp_path / "m.gguf", {names[0]: k_b, names[1]: v_b})
    checkpoint = opened(path)
    keys, vals = checkpoint.tensors
    expected = kv_b[:, :nope].reshape(-1, latent), kv_b[:, nope:].reshape(-1, latent)
    assert (keys.shape, vals.shape) == ((heads * nope, latent), (heads * values, latent))
    for tensor, right in zip((keys, vals), expected, strict=True):
        assert checkpoint.read(tensor, 0, tensor.numel).tobytes() == right.tobytes()
        part = tensor.decode(checkpoint.read_stored, Window(20, 90, 7, 90))
        np.testing.assert_array_equal(part, right[20:90, 7:90])
    assert [m.role for m in dissect(checkpoint.tensors, {})] == ["attn.k_b", "attn.v_b"]


def permuted(W: np.ndarray, heads: int) -> np.ndarray:
    """The order of rows that llama.cpp wants of q and k."""
    halves = W.reshape(heads, 2, W.shape[0] // heads // 2, *W.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(W.shape))


HF_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def llama(hidden=64, ff=96, vocab=80, layers=2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)

    def matrix(rows, columns):
        return rng.standard_normal((rows, columns)).astype(np.float32) / 8

    tensors = {"token_embd.weight": matrix(vocab, hidden)}
    for layer in range(layers):
        block = f"blk.{layer}"
        tensors |= {
            f"{block}.attn_norm.weight": rng.standard_normal(hidden).astype(np.float32),
            f"{block}.attn_q.weight": matrix(hidden, hidden),
            f"{block}.attn_k.weight": matrix(hidden // 2, hidden),
            f"{block}.attn_v.weight": matrix(hidden // 2, hidden),
            f"{block}.attn_output.weight": matrix(hidden, hidden),
            f"{block}.ffn_norm.weight": rng.standard_normal(hidden).astype(np.float32),
            f"{block}.ffn_gate.weight": matrix(ff, hidden),
            f"{block}.ffn_up.weight": matrix(ff, hidden),
            f"{block}.ffn_down.weight": matrix(hidden, ff),
        }
    return tensors | {
        "output_norm.weight": rng.standard_normal(hidden).astype(np.float32),
        "output.weight": matrix(vocab, hidden),
    }


LLAMA = {
    "llama.block_count": 2,
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 96,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.context_length": 512,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": [f"Ġword{i}" for i in range(78)] + ["<|end|>", "[PAD79]"],
    "tokenizer.ggml.token_type": [1] * 78 + [3, 5],
}


def hf_name(name: str) -> str:
    *block, module, leaf = name.split(".")
    prefix = f"model.layers.{block[1]}." if block else ""
    return f"{prefix}{HF_NAMES[module]}.{leaf}"


def compared(ours: dict, theirs: dict) -> None:
    for word in ("role", "block_type", "layer_index", "tower", "numel", "part"):
        assert ours[word] == theirs[word], (ours["param_name"], word)
    assert list(ours["shape"]) == list(theirs["shape"])
    assert ours["actual_rank"] == theirs["actual_rank"]
    assert ours["svd_90_percent_rank"] == theirs["svd_90_percent_rank"]
    assert ours["std"] == pytest.approx(theirs["std"], rel=1e-12)


def test_analysis_equals_that_of_the_same_weights_in_safetensors(tmp_path, write_checkpoint):
    tensors = llama()
    stored = {
        name: permuted(W, 4 if "attn_q" in name else 2)
        if name.endswith(("attn_q.weight", "attn_k.weight"))
        else W
        for name, W in tensors.items()
    }
    theirs = pipeline.analyze(
        write_checkpoint(
            {hf_name(name): W for name, W in tensors.items()}, config={"model_type": "llama"}
        ),
        out=tmp_path / "hf",
    )
    ours = pipeline.analyze(
        gguf_files.write(tmp_path / "m.gguf", stored, LLAMA), out=tmp_path / "gguf"
    )
    assert ours.meta["coverage"]["complete"] is True
    by_name = {row["param_name"]: row for row in theirs.rows}
    assert len(ours.rows) == len(theirs.rows) == len(tensors)
    for row in ours.rows:
        right = by_name[hf_name(row["param_name"])]
        compared(row, right)
        s, t = ours.spectrum(row["param_name"]), theirs.spectrum(right["param_name"])
        if s is not None and t is not None:
            np.testing.assert_allclose(s, t, atol=2 * row["sigma_error_bound"] + 1e-12)
    assert any("another order" in note for note in ours.meta["notes"])


def test_analysis_of_quantised_weights_is_that_of_the_decoded_ones(tmp_path, write_checkpoint):
    names = ("blk.0.ffn_up.weight", "blk.0.ffn_down.weight", "blk.0.attn_v.weight")
    kinds = dict(zip(names, (Q.Q4_K, Q.Q6_K, Q.Q4_0), strict=True))
    codes = {name: gguf_files.blocks(kind, 48, 256) for name, kind in kinds.items()}
    for name, kind in kinds.items():  # one scale of moderate size in every block
        at = GGML_QUANT_SIZES[kind][1] - 2 if kind == Q.Q6_K else 0
        parts = codes[name].reshape(-1, GGML_QUANT_SIZES[kind][1])
        parts[:, at : at + 2] = np.array([0.01], np.float16).view(np.uint8)
        if kind == Q.Q4_K:
            parts[:, 2:4] = np.array([0.02], np.float16).view(np.uint8)
    decoded = {name: dequantize(codes[name], kind) for name, kind in kinds.items()}
    ours = pipeline.analyze(
        gguf_files.write(tmp_path / "m.gguf", codes, kinds=kinds), out=tmp_path / "a"
    )
    theirs = pipeline.analyze(write_checkpoint(decoded), out=tmp_path / "b")
    assert ours.meta["coverage"]["complete"] is True
    right = {row["param_name"]: row for row in theirs.rows}
    for row in ours.rows:
        compared(row, right[row["param_name"]])
        assert row["dtype"] == kinds[row["param_name"]].name
        np.testing.assert_allclose(
            ours.spectrum(row["param_name"]),
            theirs.spectrum(row["param_name"]),
            atol=2 * row["sigma_error_bound"] + 1e-12,
        )


def test_metadata_becomes_a_configuration(tmp_path):
    checkpoint = opened(gguf_files.write(tmp_path / "m.gguf", llama(), LLAMA))
    config = checkpoint.config
    wanted = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_size": 64,
        "intermediate_size": 96,
        "vocab_size": 80,
        "tie_word_embeddings": False,
    }
    assert {word: config.get(word) for word in wanted} == wanted


def test_numbers_per_layer_count_where_layers_agree(tmp_path):
    metadata = {"lfm2.attention.head_count": [0, 8, 8, 0], "lfm2.attention.head_count_kv": [2, 4]}
    path = tmp_path / "m.gguf"
    gguf_files.write(path, {"w": np.ones((2, 2), np.float32)}, metadata, architecture="lfm2")
    config = opened(path).config
    assert config["num_attention_heads"] == 8 and "num_key_value_heads" not in config


@pytest.mark.parametrize(
    ("heads", "groups", "width", "parts"),
    [(4, 4, None, (32, 32, 32)), (4, 2, 8, (32, 16, 16)), (4, 1, None, (32, 8, 8))],
)
def test_fused_attention_is_split_by_heads(tmp_path, heads, groups, width, parts):
    metadata = {
        "falcon.attention.head_count": heads,
        "falcon.attention.head_count_kv": groups,
        "falcon.embedding_length": 32,
    }
    if width:
        metadata["falcon.attention.key_length"] = width
    tensors = {"blk.0.attn_qkv.weight": np.ones((sum(parts), 32), np.float32)}
    path = gguf_files.write(tmp_path / "m.gguf", tensors, metadata, architecture="falcon")
    checkpoint = opened(path)
    matrices = dissect(checkpoint.tensors, checkpoint.config)
    assert [(m.role, m.rows) for m in matrices] == list(
        zip(("attn.q", "attn.k", "attn.v"), parts, strict=True)
    )


def test_fused_gate_and_up_is_split_where_it_is_twice_as_long(tmp_path):
    tensors = {
        "blk.0.ffn_up.weight": np.ones((24, 8), np.float32),
        "blk.0.ffn_down.weight": np.ones((8, 12), np.float32),
    }
    metadata = {"phi3.feed_forward_length": 12, "phi3.embedding_length": 8}
    path = gguf_files.write(tmp_path / "m.gguf", tensors, metadata, architecture="phi3")
    checkpoint = opened(path)
    roles = [m.role for m in dissect(checkpoint.tensors, checkpoint.config)]
    assert sorted(roles) == ["mlp.down", "mlp.gate", "mlp.up"]


def test_linear_attention_and_gated_queries_are_split(tmp_path):
    metadata = {
        "qwen3next.embedding_length": 32,
        "qwen3next.attention.head_count": 4,
        "qwen3next.attention.head_count_kv": 2,
        "qwen3next.attention.key_length": 8,
        "qwen3next.ssm.state_size": 4,
        "qwen3next.ssm.group_count": 2,
        "qwen3next.ssm.time_step_rank": 4,
        "qwen3next.ssm.inner_size": 24,
    }
    tensors = {
        "blk.0.attn_qkv.weight": np.ones((2 * 8 + 24, 32), np.float32),
        "blk.0.ssm_out.weight": np.ones((32, 24), np.float32),
        "blk.3.attn_q.weight": np.ones((64, 32), np.float32),
    }
    path = gguf_files.write(tmp_path / "m.gguf", tensors, metadata, architecture="qwen3next")
    checkpoint = opened(path)
    found = [(m.role, m.layer, m.rows) for m in dissect(checkpoint.tensors, checkpoint.config)]
    assert found == [
        ("attn.q", 0, 8),
        ("attn.k", 0, 8),
        ("attn.v", 0, 24),
        ("attn.o", 0, 32),
        ("attn.q", 3, 32),
        ("attn.gate", 3, 32),
    ]


def test_tokens_come_from_the_file(tmp_path):
    path = gguf_files.write(tmp_path / "m.gguf", llama(), LLAMA)
    checkpoint = opened(path)
    vocabulary = read_vocabulary(checkpoint.source, "m.gguf", checkpoint.own_tokens)
    assert (vocabulary.text(3), vocabulary.text(78), vocabulary.text(79)) == (
        "␣word3",
        "<|end|>",
        "⟨79⟩",
    )
    assert vocabulary.special == {78} and vocabulary.byte_level


def test_sentencepiece_tokens_keep_their_marks(tmp_path):
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "<0x0A>", "▁the", "ing"],
        "tokenizer.ggml.token_type": [2, 3, 6, 1, 1],
    }
    path = gguf_files.write(tmp_path / "m.gguf", {"w": np.ones((2, 2), np.float32)}, metadata)
    checkpoint = opened(path)
    vocabulary = read_vocabulary(checkpoint.source, "m.gguf", checkpoint.own_tokens)
    assert [vocabulary.text(i) for i in range(5)] == ["<unk>", "<s>", "<0x0A>", "▁the", "ing"]
    assert vocabulary.special == {0, 1}


def test_word_pieces_are_written_as_their_own_tokenizer_does(tmp_path):
    metadata = {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": ["[PAD]", "▁[unused0]", "▁the", "ing"],
        "tokenizer.ggml.token_type": [3, 1, 1, 1],
    }
    path = gguf_files.write(tmp_path / "m.gguf", {"w": np.ones((2, 2), np.float32)}, metadata)
    checkpoint = opened(path)
    vocabulary = read_vocabulary(checkpoint.source, "m.gguf", checkpoint.own_tokens)
    assert vocabulary.raw == ("[PAD]", "[unused0]", "the", "##ing")
    assert vocabulary.reserved() == [1]


def test_embedding_prints_the_files_own_tokens(tmp_path):
    from paramscope.embeddings.run import embedding

    path = gguf_files.write(tmp_path / "m.gguf", llama(), LLAMA)
    embedding(path, out=tmp_path / "out", k=3, plots=False)
    written = (tmp_path / "out" / "clusters.json").read_text() + "".join(
        file.read_text() for file in (tmp_path / "out").glob("*.csv")
    )
    assert "word" in written


def test_large_vocabularies_are_skipped_and_read_when_asked_for(tmp_path):
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [f"token-{i}" for i in range(256_000)],
        "tokenizer.ggml.merges": [f"a{i} b" for i in range(256_000)],
        "tokenizer.ggml.token_type": [1] * 256_000,
    }
    path = gguf_files.write(tmp_path / "m.gguf", {"w": np.ones((2, 2), np.float32)}, metadata)
    assert lines_run(lambda: opened(path)) < 20 * (256_000 + 256_000)
    checkpoint = opened(path)
    vocabulary = read_vocabulary(checkpoint.source, "m.gguf", checkpoint.own_tokens)
    assert (len(vocabulary), vocabulary.text(255_999)) == (256_000, "token-255999")


class Counting(LocalSource):
    """A source that counts what is read."""

    def __init__(self, path):
        super().__init__(path)
        self.reads: list[tuple[int, int]] = []

    def read(self, file, offset, size_bytes):
        self.reads.append((offset, size_bytes))
        return super().read(file, offset, size_bytes)


def test_opening_reads_the_header_and_little_more(tmp_path):
    W = np.zeros((2048, 8192), np.float32)
    metadata = {"tokenizer.ggml.tokens": [f"token-{i}" for i in range(200_000)]}
    path = gguf_files.write(tmp_path / "m.gguf", {"blk.0.ffn_up.weight": W}, metadata)
    header_bytes = path.stat().st_size - W.nbytes
    with closing(Counting(path)) as source:
        open_checkpoint(source)
        assert sum(size for _, size in source.reads) <= 2 * header_bytes + 2**20
        assert len(source.reads) <= 4


def test_a_window_of_a_large_tensor_takes_little_memory(tmp_path):
    rows, columns = 16384, 4096  # 256 MiB decoded, 36 MiB stored
    codes = np.zeros((rows, columns // 32 * 18), np.uint8)
    name = "blk.0.ffn_up.weight"
    path = gguf_files.write(tmp_path / "m.gguf", {name: codes}, kinds={name: Q.Q4_0})
    checkpoint = opened(path)
    [tensor] = checkpoint.tensors
    assert isinstance(tensor, PackedTensor)

    def rows_of():
        tensor.decode(checkpoint.read_stored, Window(100, 612, 0, columns))

    def columns_of():
        tensor.decode(checkpoint.read_stored, Window(0, rows, 64, 128))

    window_bytes = 512 * columns * 4
    assert peak_bytes(rows_of) < window_bytes + 512 * columns + 40 * 2**20
    assert peak_bytes(columns_of) < codes.nbytes + rows * 64 * 4 + 40 * 2**20


def split(tmp_path: Path, tensors: dict, parts: int, **changes) -> Path:
    folder = tmp_path / "split"
    folder.mkdir()
    names = list(tensors)
    for part in range(parts):
        some = {name: tensors[name] for name in names[part::parts]}
        metadata = LLAMA if part == 0 else {}
        numbers = {
            "split.no": part,
            "split.count": parts,
            "split.tensors.count": len(tensors),
            **changes,
        }
        file = folder / f"m-{part + 1:05d}-of-{parts:05d}.gguf"
        gguf_files.write(file, some, {**metadata, **numbers})
    return folder


def test_a_series_of_files_is_one_model(tmp_path):
    tensors = llama()
    checkpoint = opened(split(tmp_path, tensors, 3))
    assert {tensor.name for tensor in checkpoint.tensors} == set(tensors)
    assert len(checkpoint.weight_files) == 3 and checkpoint.config["num_attention_heads"] == 4
    for tensor in checkpoint.tensors:
        assert checkpoint.read(tensor, 0, tensor.numel).tobytes() == tensors[tensor.name].tobytes()
    assert checkpoint.own_tokens is not None and len(checkpoint.own_tokens.texts()) == 80


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"split.no": 0}, "not one series"),
        ({"split.count": 4}, "not one series"),
        ({"split.tensors.count": 99}, "different versions"),
    ],
)
def test_a_series_that_does_not_fit_is_an_error(tmp_path, changes, says):
    with pytest.raises(CheckpointError, match=says):
        opened(split(tmp_path, llama(), 3, **changes))


def test_one_part_alone_is_read_with_a_note(tmp_path):
    folder = split(tmp_path, llama(), 3)
    checkpoint = opened(folder / "m-00002-of-00003.gguf")
    assert any("part 2 of 3" in note for note in checkpoint.notes)
    assert "tie_word_embeddings" not in checkpoint.config


def test_a_projector_beside_a_model_is_a_tower_of_its_own(tmp_path):
    gguf_files.write(tmp_path / "model.gguf", llama(), LLAMA)
    vision = {
        "v.blk.0.attn_qkv.weight": np.ones((96, 32), np.float32),
        "v.blk.0.ffn_up.weight": np.ones((64, 32), np.float32),
        "mm.0.weight": np.ones((64, 32), np.float32),
    }
    numbers = {"clip.vision.embedding_length": 32, "clip.vision.attention.head_count": 4}
    gguf_files.write(tmp_path / "a-mmproj.gguf", vision, numbers, architecture="clip")
    checkpoint = opened(tmp_path)
    matrices = dissect(checkpoint.tensors, checkpoint.config)
    assert checkpoint.config["model_type"] == "llama"
    assert [(m.role, m.tower, m.rows) for m in matrices if m.tensor.name in vision] == [
        ("attn.q", "vision", 32),
        ("attn.k", "vision", 32),
        ("attn.v", "vision", 32),
        ("mlp.up", "vision", 64),
        ("projector", "", 64),
    ]


def test_factors_of_an_adapter_are_listed_under_the_role_of_their_weight(tmp_path):
    tensors = {
        "blk.0.attn_q.weight.lora_a": np.ones((4, 32), np.float32),
        "blk.0.attn_q.weight.lora_b": np.ones((32, 4), np.float32),
    }
    path = gguf_files.write(tmp_path / "m.gguf", tensors, {"general.type": "adapter"})
    checkpoint = opened(path)
    matrices = dissect(checkpoint.tensors, checkpoint.config)
    assert [(m.role, m.layer) for m in matrices] == [("attn.q", 0)] * 2
    assert all("adapter" in m.note for m in matrices)


# Names that stand for no role: none so far.
WITHOUT_ROLE: set[str] = set()
WITHOUT_LEAF = ("exp_probs_b", "v.std_bias", "v.std_scale", "rope_freqs")


def _shape(name: str) -> tuple[int, ...]:
    if "norm" in name or name.endswith(("_ln", ".ln1", ".ln2", ".bn", "ln_q", "ln_kv", "ln_post")):
        return (8,)
    if "conv" in name or name.endswith(("_exps", "_chexps")):
        return (6, 8, 3)
    return (8,) if name.endswith(("_sinks", "ffn_gate_inp_shexp")) else (6, 8)


@pytest.mark.parametrize("name", sorted(set(gguf.constants.TENSOR_NAMES.values())))
def test_every_name_of_the_library_has_a_role(tmp_path, name):
    full = name.format(bid=3, xid=1)
    full += ".bias" if full.endswith("exp_probs_b") else ""
    full += "" if full.endswith((".bias", *WITHOUT_LEAF)) else ".weight"
    W = np.ones(_shape(full.removesuffix(".weight")), np.float32)
    checkpoint = opened(gguf_files.write(tmp_path / "m.gguf", {full: W}))
    first = dissect(checkpoint.tensors, checkpoint.config)[0]
    assert (first.role == "other") == (name in WITHOUT_ROLE)
    if "blk.{bid}" in name:
        assert first.layer == 3
