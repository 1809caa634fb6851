"""The commands as a user types them, in a process of their own."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import paramscope
from paramscope.views.words import bytes_text, count_text, duration_text, printable

SCRIPTS = Path(__file__).parents[1] / "scripts"
ENGLISH_ERROR = "Error: "


def run(*arguments, check: int | None = 0, **options) -> subprocess.CompletedProcess[str]:
    if str(arguments[0]).endswith(".py"):
        command = [sys.executable, *map(str, arguments)]
    else:
        command = [sys.executable, "-m", "paramscope", *map(str, arguments)]
    found = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", timeout=600, **options
    )
    if check is not None:
        assert found.returncode == check, found.stderr
    return found


@pytest.fixture
def model(write_checkpoint) -> Path:
    rng = np.random.default_rng(0)
    names = ("self_attn.q_proj", "mlp.up_proj", "input_layernorm")
    shapes = ((8, 8), (24, 8), (8,))
    tensors = {
        f"model.layers.{layer}.{name}.weight": rng.standard_normal(shape).astype(np.float32)
        for layer in (0, 1, 10)
        for name, shape in zip(names, shapes, strict=True)
    }
    tensors["model.embed_tokens.weight"] = rng.standard_normal((50, 8)).astype(np.float32)
    return write_checkpoint(tensors, config={"model_type": "llama"})


def test_the_view_shows_layers_in_order_with_ranks_and_statistics(model, tmp_path):
    shown = run("analyze", model, "--out", tmp_path / "run").stdout
    at = [shown.index(f"🔹 LAYER {layer}\n") for layer in (0, 1, 10)]
    assert at == sorted(at) and shown.index("embed_tokens") > at[-1]
    assert "self_attn.q_proj.weight" in shown
    assert "(8, 8)" in shown
    assert "Rank: 8/8 (100.0%)" in shown
    assert "SVD 90%: " in shown and "Sparsity: 0.00%" in shown and "μ: " in shown and "σ: " in shown
    assert "Coverage:   ✅" in shown
    assert "Failed:     0" in shown
    tables = [line for line in shown.splitlines() if not line.startswith(("Path:", "Results:"))]
    assert max(map(len, tables)) <= 80


def test_json_is_one_object_and_nothing_else(model, tmp_path):
    found = json.loads(run("analyze", model, "--out", tmp_path / "run", "--json").stdout)
    assert found["coverage"]["complete"]
    assert found["folder"] == str(tmp_path / "run")
    inspected = json.loads(run("inspect", model, "--json").stdout)
    assert inspected["totals"]["tensors"] == 10


def test_inspect_fits_a_narrow_terminal(model):
    shown = run("inspect", model).stdout
    assert max(map(len, shown.splitlines())) <= 80
    for word in (
        "attn.q",
        "mlp.up",
        "embed.token",
        "norm",
        "A full analysis on the cores here takes about",
    ):
        assert word in shown


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: p / "nothing", "found nothing"),
        (lambda p: p, "no weight file"),
        (lambda p: (p / "m.safetensors").write_bytes(b"x" * 4) and p / "m.safetensors", "4 bytes"),
        (
            lambda p: (p / "model.bin").write_bytes(b"x") and p,
            "model.bin: expected a file of torch",
        ),
        (lambda p: (p / "model.bin").write_bytes(b"\x80\2c") and p, "its pickle is cut short"),
    ],
)
@pytest.mark.parametrize("command", ["analyze", "inspect"])
def test_what_cannot_be_read_is_one_sentence_and_exit_2(tmp_path, command, make, says):
    place = tmp_path / "place"
    place.mkdir()
    found = run(command, make(place), check=2, cwd=tmp_path)
    assert found.stderr.startswith(ENGLISH_ERROR) and says in found.stderr
    assert "Traceback" not in found.stderr and found.stdout == ""
    assert sorted(tmp_path.iterdir()) == [place]


def test_debug_shows_the_traceback(tmp_path):
    assert "Traceback" in run("analyze", tmp_path / "x", "--debug", check=1).stderr


def test_wrong_use_is_exit_2(model):
    assert "No such command" in run("analyse", check=2).stderr
    assert "Missing argument" in run("analyze", check=2).stderr
    assert "unknown 'xls'" in run("analyze", model, "--format", "xls", check=2).stderr


def test_cuda_asked_for_and_absent_says_what_to_do(model, tmp_path):
    found = run("analyze", model, "--device", "cuda", "--out", tmp_path / "run", check=2)
    assert "❌ CUDA not available" in found.stderr
    assert not (tmp_path / "run").exists()
    run("analyze", model, "--no_gpu", "--out", tmp_path / "run")


def test_failed_matrices_are_exit_1_and_named(write_checkpoint, tmp_path):
    folder = write_checkpoint(
        {
            "model.layers.0.self_attn.q_proj.weight": np.full((4, 4), np.nan, np.float32),
            "model.layers.0.self_attn.k_proj.weight": np.eye(4, dtype=np.float32),
        }
    )
    shown = run("analyze", folder, "--out", tmp_path / "run", check=1).stdout
    assert "16 NaN" in shown and "Failed:     ⚠️  1" in shown


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_said_before_the_work(model, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert "cannot be written" in run("analyze", model, "--out", locked / "run", check=2).stderr


def test_a_file_where_the_folder_should_be_is_said_before_the_work(model, tmp_path):
    (tmp_path / "file").write_text("kept")
    found = run("analyze", model, "--out", tmp_path / "file", check=2)
    assert "cannot be written" in found.stderr
    assert (tmp_path / "file").read_text() == "kept"


def test_a_reader_that_leaves_is_no_crash(model, tmp_path):
    command = f"{sys.executable} -m paramscope analyze {model} --out {tmp_path / 'r'} | head -1"
    found = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert found.stderr == ""


def test_a_terminal_without_emoji_is_no_crash(model, tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    assert "LAYER 0" in run("analyze", model, "--out", tmp_path / "r", env=environment).stdout


def test_names_from_a_checkpoint_cannot_steer_the_terminal(write_checkpoint, tmp_path):
    folder = write_checkpoint({"model.layers.0.\x1b[31mred\r.weight": np.eye(3, dtype=np.float32)})
    for command in (("analyze", folder, "--out", tmp_path / "r"), ("inspect", folder)):
        assert "\x1b" not in run(*command).stdout


def test_analyze_script_writes_the_table_where_it_is_told(model, tmp_path):
    for name in ("csv", "json"):
        out = tmp_path / f"deep/table.{name}"
        found = run(SCRIPTS / "analyze.py", "--model_path", model, "--out", out, "--format", name)
        assert found.stdout.strip() == str(out)
    with (tmp_path / "deep/table.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 10 and rows[0]["layer_index"] == "0"
    assert len(json.loads((tmp_path / "deep/table.json").read_text("utf-8"))) == 10
    assert (tmp_path / "deep/table/run_meta.json").is_file()


def test_analyze_script_takes_a_folder_too(model, tmp_path):
    run(
        SCRIPTS / "analyze.py",
        "--model_path",
        model,
        "--out",
        tmp_path / "o",
        "--low_cpu_mem_usage",
    )
    assert (tmp_path / "o/params.csv").is_file()


def test_transformer_analysis_script_prints_the_view(model, tmp_path):
    found = run(
        *(SCRIPTS / "transformer_analysis.py", "--model_path", model, "--out", tmp_path / "o"),
        *("--model_id", "org/name", "--revision", "abc", "--rank_k", "64", "--no_gpu", "--verbose"),
    )
    assert "🔹 LAYER 0" in found.stdout
    rows = paramscope.Run(tmp_path / "o").rows
    assert {(row["model_id"], row["revision"]) for row in rows} == {("org/name", "abc")}


def test_help_and_import_load_nothing_heavy():
    script = "import sys, paramscope.cli; print(sorted({'numpy', 'torch', 'matplotlib', 'rich', "
    script += "'pyarrow'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
    for command in ("analyze", "inspect", "demo"):
        assert command in run("--help").stdout


def test_numbers_as_people_read_them():
    assert count_text(22_713_216) == "22,713,216 (22.7 M)"
    assert count_text(999) == "999"
    assert bytes_text(90_868_376) == "86.7 MiB"
    assert bytes_text(12) == "12 bytes"
    assert [duration_text(s) for s in (0.04, 9.96, 59.6, 3599.9, 7800)] == [
        "0.0 s",
        "10 s",
        "1 min 00 s",
        "1 h 00 min",
        "2 h 10 min",
    ]
    assert printable("a\x1bb\u202ec") == "a�b�c"
    assert printable("abcdefghij", 5) == "ab…ij"
