"""A checkpoint in, a run's folder out: the whole way, on small checkpoints and the real model."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

import paramscope
from journals import wait_for_rows
from paramscope import pipeline
from paramscope.errors import CheckpointError, RunError, SourceError, UsageError
from paramscope.views.console import view

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "hidden_size": 16,
    "num_hidden_layers": 2,
}


def llama(layers: int = 2, hidden: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)

    def w(*shape):
        return rng.standard_normal(shape).astype(np.float16)

    tensors = {"model.embed_tokens.weight": w(40, hidden), "model.norm.weight": w(hidden)}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        tensors |= {
            at + "self_attn.q_proj.weight": w(hidden, hidden),
            at + "self_attn.k_proj.weight": w(hidden // 2, hidden),
            at + "mlp.down_proj.weight": w(hidden, 3 * hidden),
            at + "input_layernorm.weight": w(hidden),
        }
    return tensors


@pytest.fixture
def model(write_checkpoint) -> Path:
    return write_checkpoint(llama(), config=LLAMA)


def without_time(rows):
    return [{k: v for k, v in row.items() if k != "created_at"} for row in rows]


def analyze(model, tmp_path, name="run", **options):
    return paramscope.analyze(model, out=tmp_path / name, **options)


def test_real_model_equals_numpy_in_float64(real_model, tmp_path):
    """Every row: ranks and counts equal, singular values within the row's bound."""
    run = analyze(real_model, tmp_path)
    tensors = load_file(real_model / "model.safetensors")
    assert len(run.rows) == len(tensors) == 104
    assert (run.meta["coverage"]["parameters"], run.meta["coverage"]["buffers"]) == (22713216, 512)
    assert run.meta["coverage"]["complete"]
    for row in run.rows:
        W = tensors[row["param_name"]].astype(np.float64)
        assert row["status"] == "ok"
        check_statistics(row, W)
        if row["block_type"] != "buffer":
            check_spectrum(row, run.spectrum(row["param_name"]), W)


def check_statistics(row, W):
    spread = W.std()
    for name, truth in (("mean", W.mean()), ("std", spread), ("min", W.min()), ("max", W.max())):
        assert abs(row[name] - truth) <= 1e-12 * spread, (row["param_name"], name)
    assert abs(row["var"] - W.var()) <= 1e-12 * W.var()
    assert row["sparsity"] == np.mean(np.abs(W) <= 1e-8)
    assert (row["numel"], row["nan_count"], row["inf_count"]) == (W.size, 0, 0)


def check_spectrum(row, s, W):
    W = W.reshape(1, -1) if W.ndim == 1 else W
    truth = np.linalg.svd(W, compute_uv=False)
    assert np.abs(s - truth).max() <= row["sigma_error_bound"]
    assert row["sigma_error_bound"] <= 1e-8 * truth[0]
    if not W.any():
        assert (row["actual_rank"], row["svd_90_percent_rank"]) == (0, 0)
        return
    energy = np.cumsum(truth**2) / np.sum(truth**2)
    counts = {
        "actual_rank": np.sum(truth > 1e-6 * truth[0]),
        **{f"svd_{p}_percent_rank": np.searchsorted(energy, p / 100) + 1 for p in (90, 95, 99)},
    }
    assert {name: row[name] for name in counts} == counts
    assert row["frobenius_norm"] == pytest.approx(np.linalg.norm(W), rel=1e-12)
    assert row["spectral_norm"] == pytest.approx(truth[0], rel=1e-12)
    q = truth / truth.sum()
    q = q[q > 0]
    assert row["effective_rank"] == pytest.approx(np.exp(-(q * np.log(q)).sum()), rel=1e-9)


def test_the_folder_holds_what_is_promised(model, tmp_path):
    run = analyze(model, tmp_path, formats=("csv", "json", "jsonl"))
    assert {file.name for file in run.folder.iterdir()} == {
        "journal.sqlite",
        "params.csv",
        "params.json",
        "params.jsonl",
        "params.parquet",
        "run_meta.json",
        "spectra.parquet",
    }
    meta = run.meta
    assert meta["model"]["model_type"] == "llama"
    assert len(meta["files"][0]["sha256"]) == 64
    assert meta["rows"] == {"total": 10, "ok": 10, "failed": 0, "refused": 0}
    assert {"paramscope", "python", "numpy"} <= set(meta["versions"])
    assert meta["timing"]["wall_s"] > 0


def test_default_folder_is_named_after_the_model(write_checkpoint, tmp_path, monkeypatch):
    write_checkpoint(llama(), folder="models/org/name")
    monkeypatch.chdir(tmp_path)
    (run,) = paramscope.analyze_all("models")
    assert run.folder == Path("data/outputs/org--name")
    assert {row["model_id"] for row in run.rows} == {"org/name"}


def test_a_model_that_cannot_be_read_does_not_keep_the_others_from_it(write_checkpoint, tmp_path):
    for name in "abc":
        write_checkpoint({"w": np.eye(3)}, folder=f"models/{name}")
    (tmp_path / "models" / "b" / "model.safetensors").write_bytes(b"damaged!")
    runs = paramscope.analyze_all(tmp_path / "models", out=tmp_path / "out")
    for name in "ac":
        run = next(runs)
        assert run.folder == tmp_path / "out" / name
        assert run.meta["coverage"]["complete"]
    with pytest.raises(CheckpointError, match=r"1 of 3 models .*:\n  b: model\.safetensors: "):
        next(runs)


def test_several_models_are_all_analysed_or_the_one_named(write_checkpoint, tmp_path):
    write_checkpoint(llama(seed=1), folder="models/a/one")
    write_checkpoint(llama(seed=2), folder="models/b/two")
    runs = list(paramscope.analyze_all(tmp_path / "models", out=tmp_path / "out"))
    assert [run.folder.name for run in runs] == ["a--one", "b--two"]
    with pytest.raises(UsageError, match="found 2: a/one, b/two"):
        paramscope.analyze(tmp_path / "models")
    run = paramscope.analyze(tmp_path / "models", model_id="b/two", out=tmp_path / "two")
    assert run.rows[0]["model_id"] == "b/two"
    with pytest.raises(paramscope.ParamscopeError, match=r"'b/tow'.*found b/two"):
        paramscope.analyze(tmp_path / "models", model_id="b/tow")


def test_a_hidden_tensor_makes_the_check_fail(model, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "dissect", lambda tensors, config: original(tensors, config)[:-1])
    run = analyze(model, tmp_path)
    covered = run.meta["coverage"]
    assert not covered["complete"]
    assert covered["found"] < covered["expected"]
    assert len(covered["wrong"]) == 1


original = pipeline.dissect


def test_the_same_folder_again_does_nothing(model, tmp_path, monkeypatch):
    first = analyze(model, tmp_path)
    meta = (first.folder / "run_meta.json").read_bytes()
    monkeypatch.setattr(pipeline, "run_tasks", lambda todo, *a, **k: check_nothing(todo))
    second = analyze(model, tmp_path, formats=("csv", "json"))
    assert second.rows == first.rows
    assert (second.folder / "run_meta.json").read_bytes() == meta
    assert (second.folder / "params.json").is_file()


def check_nothing(todo):
    assert todo == []
    yield from ()


def test_other_settings_need_another_folder_or_fresh(model, tmp_path):
    analyze(model, tmp_path)
    with pytest.raises(RunError, match="differs in tolerance"):
        analyze(model, tmp_path, tolerance=1e-3)
    run = analyze(model, tmp_path, tolerance=0.5, fresh=True)
    assert any(row["actual_rank"] < row["design_rank"] for row in run.rows)


def test_a_changed_file_is_another_checkpoint(model, write_checkpoint, tmp_path):
    analyze(model, tmp_path)
    write_checkpoint(llama(layers=3), config=LLAMA)
    with pytest.raises(RunError, match=r"differs in the weights \(of another model, or changed"):
        analyze(model, tmp_path)


@pytest.mark.parametrize("same_time", [False, True])
def test_other_values_under_the_same_headers_are_another_checkpoint(
    write_checkpoint, tmp_path, same_time
):
    model = write_checkpoint({"w": np.ones((8, 8))})
    was = (model / "model.safetensors").stat()
    assert analyze(model, tmp_path).rows[0]["actual_rank"] == 1
    write_checkpoint({"w": np.eye(8)})
    if same_time:
        os.utime(model / "model.safetensors", ns=(was.st_atime_ns, was.st_mtime_ns))
    with pytest.raises(RunError, match="differs in the weights"):
        analyze(model, tmp_path)
    assert analyze(model, tmp_path, fresh=True).rows[0]["actual_rank"] == 8


def test_one_value_changed_anywhere_is_another_checkpoint(write_checkpoint, tmp_path):
    weights = np.ones((1000, 1000))
    model = write_checkpoint({"w": weights})
    analyze(model, tmp_path)
    weights[123, 456] = 2.0
    write_checkpoint({"w": weights})
    with pytest.raises(RunError, match="differs in the weights"):
        analyze(model, tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be deleted there")
def test_a_file_that_vanishes_while_it_is_measured_is_an_error(model, tmp_path):
    def remove(progress):
        if progress.done == progress.total:
            (model / "model.safetensors").unlink(missing_ok=True)

    with pytest.raises(SourceError, match="cannot be read"):
        analyze(model, tmp_path, progress=remove, hash_files=False)


def test_a_file_that_changes_while_it_is_measured_ends_in_an_error(model, tmp_path):
    def rewrite(progress):
        if progress.done == progress.total:
            path = model / "model.safetensors"
            path.write_bytes(path.read_bytes()[:-1] + b"x")

    with pytest.raises(SourceError, match="changed while it was measured"):
        analyze(model, tmp_path, progress=rewrite)
    assert not (tmp_path / "run" / "params.csv").exists()


def test_workers_change_nothing_in_the_table(model, tmp_path):
    one = analyze(model, tmp_path, "one", workers=1)
    many = analyze(model, tmp_path, "many", workers=4, memory_bytes=1)
    assert without_time(one.rows) == without_time(many.rows)


def test_without_spectra(model, tmp_path):
    run = analyze(model, tmp_path, svd=False)
    assert all(row["actual_rank"] is None and row["std"] is not None for row in run.rows)
    assert pq.read_table(run.folder / "spectra.parquet").num_rows == 0


def test_truncated_rows_say_that_their_ranks_are_lower_bounds(write_checkpoint, tmp_path):
    rng = np.random.default_rng(0)
    thin = rng.standard_normal((200, 4)) @ rng.standard_normal((4, 90))
    flat = rng.standard_normal((200, 90))
    folder = write_checkpoint({"a.q_proj.weight": thin, "b.q_proj.weight": flat})
    rows = analyze(folder, tmp_path, method="truncated", rank_k=8).rows
    by_name = {row["param_name"][0]: row for row in rows}
    assert by_name["a"]["svd_90_percent_rank"] <= 4
    assert "reach 90 %" in by_name["a"]["reason"]
    assert (by_name["b"]["actual_rank"], by_name["b"]["svd_90_percent_rank"]) == (8, 8)
    assert "leading 8 of 90" in by_name["b"]["reason"]
    assert "do not reach 90 %" in by_name["b"]["reason"]
    assert by_name["b"]["effective_rank"] is None
    assert by_name["b"]["frobenius_norm"] == pytest.approx(np.linalg.norm(flat))
    assert {row["method"] for row in rows} == {"krylov"}
    assert {row["status"] for row in rows} == {"ok"}


def test_nan_is_counted_refused_and_the_run_goes_on(write_checkpoint, tmp_path):
    tensors = llama()
    tensors["model.layers.0.self_attn.q_proj.weight"][3, 3] = np.nan
    run = analyze(write_checkpoint(tensors, config=LLAMA), tmp_path)
    (bad,) = [row for row in run.rows if row["status"] != "ok"]
    assert (bad["status"], bad["nan_count"], bad["actual_rank"]) == ("failed", 1, None)
    assert "1 NaN" in bad["reason"]
    assert run.meta["rows"]["failed"] == 1


def test_codes_without_scales_are_refused_not_cast(tmp_path, write_checkpoint):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    folder = write_checkpoint({})
    save_file({"w": torch.ones(4, 4).to(torch.float8_e4m3fn)}, folder / "model.safetensors")
    (row,) = analyze(folder, tmp_path).rows
    assert (row["status"], row["mean"]) == ("refused", None)
    assert "scales" in row["reason"]
    assert (row["numel"], row["nbytes"]) == (16, 16)


def test_a_truncated_shard_is_an_error_before_any_work(model, tmp_path):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"header says .* bytes, the file has"):
        analyze(model, tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_resumed_the_table_is_the_same(
    write_checkpoint, tmp_path, kills
):
    model = write_checkpoint(llama(layers=30, hidden=192), config=LLAMA)
    assert cli("analyze", model, "--out", tmp_path / "undisturbed").wait() == 0
    random_ = random.Random(5)
    journal = tmp_path / "disturbed" / "journal.sqlite"
    killed, done = 0, 0
    while killed < kills:
        process = cli("analyze", model, "--out", journal.parent, "--workers", "2")
        done = wait_for_rows(journal, done + random_.randint(1, 200 // kills), process)
        process.kill()
        if process.wait() == -signal.SIGKILL:
            killed += 1
        else:  # it ended before it could be killed: again
            shutil.rmtree(journal.parent)
            killed, done = 0, 0
    assert cli("analyze", model, "--out", tmp_path / "disturbed").wait() == 0
    whole = paramscope.Run(tmp_path / "undisturbed")
    resumed = paramscope.Run(tmp_path / "disturbed")
    assert without_time(resumed.rows) == without_time(whole.rows)
    spectra = [pq.read_table(run.folder / "spectra.parquet") for run in (whole, resumed)]
    assert spectra[0].equals(spectra[1])


def cli(*arguments) -> subprocess.Popen:
    command = [sys.executable, "-m", "paramscope", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_progress_tells_work_and_ends_complete(model, tmp_path):
    told = []
    analyze(model, tmp_path, progress=told.append)
    assert told[0].eta_s is None
    assert told[-1].done == told[-1].total == 10
    assert told[-1].work_done == pytest.approx(told[-1].work_total)
    assert told[-1].eta_s == pytest.approx(0.0, abs=1e-9)


def test_a_run_is_read_back_and_a_wrong_name_lists_the_nearest(model, tmp_path):
    run = paramscope.Run(analyze(model, tmp_path).folder)
    s = run.spectrum("model.layers.0.self_attn.q_proj.weight")
    assert s.shape == (16,)
    with pytest.raises(UsageError, match=r"Nearest: model\.layers\.0\.self_attn\.q_proj\.weight"):
        run.spectrum("model.layers.0.self_attn.q_proj.weigth")
    with pytest.raises(RunError, match="expected a finished run"):
        _ = paramscope.Run(tmp_path)


def test_inspect_needs_no_weights(model):
    structure = paramscope.inspect(model).to_dict()
    assert json.loads(json.dumps(structure)) == structure
    parameters = sum(tensor.size for tensor in llama().values())
    assert structure["totals"] == {
        "parameters": parameters,
        "buffers": 0,
        "bytes": 2 * parameters,
        "tensors": 10,
    }
    first = structure["matrices"][0]
    assert list(first) == [
        "param_name",
        "part",
        "block_type",
        "role",
        "tower",
        "layer_index",
        "expert_index",
        "shape",
        "dtype",
        "numel",
    ]
    assert structure["estimate"]["time_s"] > 0


def test_bad_options_are_named():
    for options, says in (
        ({"formats": ("xls",)}, "unknown 'xls'"),
        ({"tolerance": 1.5}, "0 <= tolerance < 1"),
        ({"zero_threshold": -1.0}, "expected >= 0"),
        ({"zero_threshold": float("nan")}, "expected >= 0"),
        ({"workers": 0}, "1 or more"),
    ):
        with pytest.raises(UsageError, match=says):
            paramscope.Options(**options)


@pytest.mark.parametrize("size", [1e-310, 1e-200, 1e-163, 1e-120, 1e-82, 1e140, 1e149, 1e300])
def test_values_of_every_size_end_in_a_right_row_or_a_reason(write_checkpoint, tmp_path, size):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 40))
    model = write_checkpoint({"w": x * size, "constant": np.full((3, 3), size)})
    run = analyze(model, tmp_path)
    row = next(row for row in run.rows if row["param_name"] == "w")
    if row["status"] == "ok":
        s = np.linalg.svd(x, compute_uv=False) * size
        assert row["spectral_norm"] == pytest.approx(s[0], rel=1e-9)
        assert (row["actual_rank"], row["status"]) == (40, "ok")
        assert row["std"] == pytest.approx((x / x.std()).std() * x.std() * size, rel=1e-9)
    else:
        assert "no spectrum" in row["reason"]
    assert (row["status"] == "ok") == (1e-140 < size < 1e150)
    assert list(view(run.rows, run.meta))
