"""Findings on checkpoints where the truth was planted: each found and named, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

import paramscope
from paramscope.views.findings import Evidence, find
from paramscope.views.findings.finding import Name
from paramscope.views.sampled_spectra import sample_spectra

LAYERS, HIDDEN = 10, 64
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "vocab_size": 300,
    "tie_word_embeddings": False,
}


def random_model(seed=0, dtype=np.float32):
    """Every matrix of independent normal numbers; norms of ones, as initialised."""
    rng = np.random.default_rng(seed)

    def w(*shape):
        return (0.05 * rng.standard_normal(shape)).astype(dtype)

    tensors = {
        "model.embed_tokens.weight": w(300, HIDDEN),
        "lm_head.weight": w(300, HIDDEN),
        "model.norm.weight": np.ones(HIDDEN, dtype),
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        tensors |= {
            at + "self_attn.q_proj.weight": w(HIDDEN, HIDDEN),
            at + "self_attn.k_proj.weight": w(HIDDEN // 2, HIDDEN),
            at + "self_attn.v_proj.weight": w(HIDDEN // 2, HIDDEN),
            at + "self_attn.o_proj.weight": w(HIDDEN, HIDDEN),
            at + "mlp.gate_proj.weight": w(3 * HIDDEN, HIDDEN),
            at + "mlp.up_proj.weight": w(3 * HIDDEN, HIDDEN),
            at + "mlp.down_proj.weight": w(HIDDEN, 3 * HIDDEN),
            at + "input_layernorm.weight": np.ones(HIDDEN, dtype),
            at + "post_attention_layernorm.weight": np.ones(HIDDEN, dtype),
        }
    return tensors


@pytest.fixture
def findings(write_checkpoint, tmp_path):
    """From tensors to findings by their key."""

    def found(tensors, config=CONFIG, **options):
        run = paramscope.analyze(
            write_checkpoint(tensors, config=config), out=tmp_path / "run", fresh=True, **options
        )
        spectra = sample_spectra(run, run.rows)
        evidence = Evidence(run.rows, run.meta, spectra.errors, spectra.distances)
        sections = find(evidence)
        keys = [finding.key for section in sections for finding in section.findings]
        assert len(keys) == len(set(keys))
        for section in sections:
            for finding in section.findings:
                assert all(0 <= place < len(run.rows) for place in finding.rows)
        return {f.key: f for section in sections for f in section.findings}, run

    return found


def text(parts):
    return "".join(part.text if isinstance(part, Name) else part for part in parts)


def named(finding, run):
    return {run.rows[place]["param_name"] for place in finding.rows}


def claims(found):
    return {key for key, finding in found.items() if finding.level in ("fault", "notable")}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_nothing_is_claimed_on_a_plain_random_model(findings, seed, dtype):
    found, _ = findings(random_model(seed, dtype))
    assert claims(found) == set()
    for key in ("coverage", "nan", "dead-rows", "duplicates", "compressible", "outliers"):
        assert found[key].level == "sound", key


def test_low_rank_is_found_with_what_it_saves(findings):
    tensors = random_model()
    rng = np.random.default_rng(1)
    low = rng.standard_normal((HIDDEN, 5)) @ rng.standard_normal((5, HIDDEN))
    name = "model.layers.3.self_attn.q_proj.weight"
    tensors[name] = (low / np.linalg.norm(low) * 3).astype(np.float32)
    found, run = findings(tensors)
    assert claims(found) <= {"rank-deficient", "compressible", "outliers"}
    assert named(found["compressible"], run) == {name}
    (line,) = found["compressible"].table.cells
    assert text(line[2]) == "32.0"
    s = np.linalg.svd(tensors[name].astype(np.float64), compute_uv=False)
    energy = np.cumsum(s**2) / np.sum(s**2)
    for share, cell in zip((0.90, 0.95, 0.99), line[3:], strict=True):
        rank = int(np.searchsorted(energy, share) + 1)
        saved = HIDDEN * HIDDEN - rank * 2 * HIDDEN
        error = np.sqrt(1 - energy[rank - 1])
        assert text(cell).startswith(f"rank {rank}: saves {saved:,} ({saved * 4 / 1024:.1f} KiB)")
        expected = f"{error:.1%}".replace("%", "\u00a0%")
        assert text(cell).endswith(f"error {expected}") or error < 5e-4


def test_exact_low_rank_is_found_as_a_rank(findings):
    tensors = random_model(dtype=np.float32)
    rng = np.random.default_rng(1)
    name = "model.layers.3.mlp.down_proj.weight"
    small = rng.integers(-2, 3, (HIDDEN, 5)) @ rng.integers(-2, 3, (5, 3 * HIDDEN))
    tensors[name] = small.astype(np.float32)
    found, run = findings(tensors)
    assert named(found["rank-deficient"], run) == {name}
    assert text(found["rank-deficient"].table.cells[0][2]) == "5 of 64"


def test_a_dead_layer_is_found_and_named(findings):
    tensors = random_model()
    for name in tensors:
        if name.startswith("model.layers.4.") and "norm" not in name:
            tensors[name] = np.zeros_like(tensors[name])
    found, run = findings(tensors)
    assert claims(found) == {"dead-layer-0"}
    dead = found["dead-layer-0"]
    assert text(dead.title) == "Layer 4 is dead: all its 7 matrices are zero."
    assert named(dead, run) == {
        name for name in tensors if name.startswith("model.layers.4.") and "norm" not in name
    }


def test_one_zero_matrix_is_named(findings):
    tensors = random_model()
    name = "model.layers.9.self_attn.o_proj.weight"
    tensors[name] = np.zeros_like(tensors[name])
    found, run = findings(tensors)
    assert claims(found) == {"zero-matrices"}
    assert named(found["zero-matrices"], run) == {name}


def test_dead_rows_and_columns_are_counted(findings):
    tensors = random_model()
    name = "model.layers.2.mlp.up_proj.weight"
    tensors[name][[3, 5, 100]] = 0
    tensors[name][:, 7] = 0
    found, run = findings(tensors)
    dead = found["dead-rows"]
    assert named(dead, run) == {name}
    assert text(dead.title).startswith("3 rows and 1 column of zeros throughout, in 1 matrix: ")
    assert [text(cell) for cell in dead.table.cells[0][1:]] == ["3 of 192", "1 of 64"]


def test_a_duplicate_is_found_and_named(findings):
    tensors = random_model()
    twin = ("model.layers.7.mlp.up_proj.weight", "model.layers.2.mlp.up_proj.weight")
    tensors[twin[0]] = tensors[twin[1]].copy()
    found, run = findings(tensors)
    assert claims(found) == {"duplicates"}
    assert named(found["duplicates"], run) == set(twin)
    assert "they take 48.0 KiB less" in text(found["duplicates"].detail)


def test_nan_and_infinity_are_found_and_named(findings):
    tensors = random_model()
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = np.nan
    tensors["lm_head.weight"][0, :2] = np.inf
    found, run = findings(tensors)
    assert claims(found) == {"nan"}
    assert found["nan"].level == "fault"
    assert named(found["nan"], run) == {"model.layers.1.mlp.up_proj.weight", "lm_head.weight"}


def test_a_layer_that_stands_out_is_named(findings):
    tensors = random_model()
    name = "model.layers.6.mlp.gate_proj.weight"
    tensors[name] = tensors[name] * 4
    found, run = findings(tensors)
    assert claims(found) == {"outliers"}
    assert named(found["outliers"], run) == {name}
    assert "in layer 6" in text(found["outliers"].title)
    assert text(found["outliers"].table.cells[0][4]).endswith("× larger")


def test_a_trend_over_depth_is_no_outlier(findings):
    tensors = random_model()
    for name, W in tensors.items():
        if ".layers." in name and "norm" not in name:
            tensors[name] = W * (1.25 ** int(name.split(".")[2]))
    found, _ = findings(tensors)
    assert claims(found) == set()


def test_an_expert_that_stands_out_is_named(findings):
    rng = np.random.default_rng(0)
    tensors = {
        f"model.layers.{layer}.mlp.experts.{expert}.up_proj.weight": rng.standard_normal(
            (32, 24)
        ).astype(np.float32)
        for layer in range(2)
        for expert in range(16)
    }
    name = "model.layers.1.mlp.experts.5.up_proj.weight"
    tensors[name] = tensors[name] * 0.2
    config = {"model_type": "mixtral", "num_local_experts": 16, "num_experts_per_tok": 4}
    found, run = findings(tensors, config)
    assert named(found["outliers"], run) == {name}
    assert "4 of 16 experts" in text(found["arithmetic"].detail)
    assert "12.3 k operations" in text(found["arithmetic"].title)  # 2·2·16·32·24 · 4/16


def test_tied_embeddings_stored_twice_or_apart(findings):
    tensors = random_model()
    found, _ = findings(tensors, {**CONFIG, "tie_word_embeddings": True})
    assert found["tied"].level == "notable"
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    found, _ = findings(tensors, {**CONFIG, "tie_word_embeddings": True})
    assert "in the table twice" in text(found["tied"].detail)
    del tensors["lm_head.weight"]
    found, _ = findings(tensors, {**CONFIG, "tie_word_embeddings": True})
    assert "are one matrix" in text(found["tied"].title)
    assert "output head is the input embedding" in text(found["arithmetic"].detail)


def test_a_layer_that_is_missing_is_told(findings):
    found, _ = findings(random_model(), {**CONFIG, "num_hidden_layers": 12})
    assert claims(found) == {"missing-layers"}


def test_operations_are_two_per_element(findings):
    found, _ = findings(random_model())
    per_layer = HIDDEN * HIDDEN * 2 + HIDDEN * HIDDEN + 9 * HIDDEN * HIDDEN
    total = 2 * (LAYERS * per_layer + 300 * HIDDEN)
    assert f"about {total / 1e6:.3g} M operations" in text(found["arithmetic"].title)


def test_a_large_random_matrix_is_told_from_a_trained_one(findings):
    rng = np.random.default_rng(0)
    plain = rng.standard_normal((200, 300)).astype(np.float32)
    spiked = plain + 3 * np.outer(np.ones(200), np.ones(300)).astype(np.float32)
    found, run = findings({"layers.0.a.weight": plain, "layers.0.b.weight": spiked}, {})
    assert named(found["like-random"], run) == {"layers.0.a.weight"}


def test_without_spectra_nothing_is_judged(findings):
    found, _ = findings(random_model(), svd=False)
    assert claims(found) == set()
    assert "No singular values" in text(found["compressible"].title)
