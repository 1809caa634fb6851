"""From a model to a report: what is written, from what, and that a kill changes nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import paramscope
from made_up_run import transformer
from paramscope.errors import RunError, SourceError
from paramscope.report_run import report, run, run_all

CONFIG = {"model_type": "llama", "num_attention_heads": 2, "hidden_size": 32}


def small_model(embedding=True):
    rng = np.random.default_rng(0)
    names = {"model.embed_tokens.weight": (120, 32)} if embedding else {}
    for layer in range(6):
        names |= {
            f"model.layers.{layer}.self_attn.q_proj.weight": (32, 32),
            f"model.layers.{layer}.mlp.up_proj.weight": (64, 32),
        }
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in names.items()}


@pytest.fixture
def model(write_checkpoint) -> Path:
    return write_checkpoint(small_model(), config=CONFIG)


def files(folder):
    return {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}


def test_one_call_writes_all_that_is_promised(model, tmp_path):
    told = []
    finished = run(model, out=tmp_path / "run", tell=told.append)
    assert isinstance(finished, paramscope.Run)
    assert {
        "params.csv",
        "params.parquet",
        "spectra.parquet",
        "run_meta.json",
        "embedding/clusters.csv",
        "plots/heat_svd_90_percent_ratio.png",
        "report.html",
        "report.md",
    } <= set(files(finished.folder))
    assert told == ["Drawing the report of model."]
    text = (finished.folder / "report.md").read_text("utf-8")
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        assert (finished.folder / picture).is_file()
    assert "What the embedding holds" in text


def test_a_model_without_an_embedding_gets_a_sentence_and_a_report(write_checkpoint, tmp_path):
    told = []
    model = write_checkpoint(small_model(embedding=False), config=CONFIG)
    finished = run(model, out=tmp_path / "run", plots=(), tell=told.append)
    assert told[0].startswith("No analysis of an embedding: ")
    assert "expected a token embedding, found none" in told[0]
    assert not (finished.folder / "embedding").exists()
    assert "What the embedding holds" not in (finished.folder / "report.md").read_text("utf-8")


def test_the_report_is_drawn_again_from_the_tables_alone(model, tmp_path):
    folder = run(model, out=tmp_path / "run").folder
    drawn = ("report.html", "report.md", *(f"plots/{p.name}" for p in (folder / "plots").iterdir()))
    before = {name: (folder / name).read_bytes() for name in drawn}
    shutil.rmtree(model)
    (folder / "journal.sqlite").unlink()
    for name in drawn:
        (folder / name).unlink()
    assert report(folder) == folder / "report.html"
    assert {name: (folder / name).read_bytes() for name in drawn} == before


def test_without_a_finished_run_there_is_no_report(tmp_path):
    with pytest.raises(RunError, match="expected a finished run"):
        report(tmp_path)
    with pytest.raises(SourceError):
        run(tmp_path / "nothing", out=tmp_path / "run")


def test_several_models_get_a_report_each(write_checkpoint, tmp_path):
    for name in ("a/one", "b/two"):
        write_checkpoint(small_model(embedding=False), folder=f"models/{name}", config=CONFIG)
    runs = list(run_all(tmp_path / "models", out=tmp_path / "out", plots=()))
    assert [one.folder.name for one in runs] == ["a--one", "b--two"]
    assert all((one.folder / "report.html").is_file() for one in runs)


STAGES = {
    "after the first rows": "paramscope.table.journal:Journal.add:2",
    "before the tables": "paramscope.pipeline:write_meta:1",
    "inside the embedding": "paramscope.table.embedding_files:write_curve:1",
    "inside the plots": "paramscope.views.plots:_save:3",
    "before the document": "paramscope.report_run:write_whole:1",
    "before the page": "paramscope.report_run:write_whole:2",
}

DYING = """
    import importlib, os, sys
    from pathlib import Path
    from paramscope.engine import local
    gather = local._drain
    local._drain = lambda finished, at_most: gather(finished, at_most=1)  # a row a transaction
    model, out, where = sys.argv[1:]
    if where:
        module, name, calls = where.split(":")
        holder = importlib.import_module(module)
        *path, name = name.split(".")
        for part in path:
            holder = getattr(holder, part)
        original, left = getattr(holder, name), int(calls)
        def dying(*args, **kwargs):
            global left
            left -= 1
            if left == 0:
                os._exit(9)
            return original(*args, **kwargs)
        setattr(holder, name, dying)
    from paramscope.report_run import run
    run(Path(model), out=Path(out), workers=1, memory_bytes=1)
"""


def stage(model, out, where=""):
    command = [sys.executable, "-c", textwrap.dedent(DYING), str(model), str(out), where]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def without_times(text):
    """Without the lines on when, how long and where to, and without the packed data."""
    text = re.sub(r'<script type="text/plain".*?</script>', "", text, flags=re.DOTALL)
    return [line for line in text.splitlines() if not re.search(r"Time\b|\bout\b", line)]


def test_killed_in_every_stage_and_run_again_the_report_is_the_same(model, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert stage(model, whole).returncode == 0
    for where in STAGES.values():
        died = stage(model, broken, where)
        assert died.returncode == 9, (where, died.stderr)
    assert stage(model, broken).returncode == 0
    same = ("embedding/clusters.csv", "embedding/curve.csv")
    for name in (*same, *(f"plots/{p.name}" for p in (whole / "plots").iterdir())):
        assert (whole / name).read_bytes() == (broken / name).read_bytes(), name
    for name in ("spectra.parquet", "embedding/tokens.parquet"):
        assert pq.read_table(whole / name).equals(pq.read_table(broken / name))
    tables = [pq.read_table(f / "params.parquet").drop(["created_at"]) for f in (whole, broken)]
    assert tables[0].equals(tables[1])
    for name in ("report.md", "report.html"):
        texts = [without_times((folder / name).read_text("utf-8")) for folder in (whole, broken)]
        assert texts[0] == texts[1], name


def test_a_run_shows_itself_in_a_notebook(tmp_path):
    made = transformer(layers=2)
    folder = made.write(tmp_path / "run", model={"model_id": "<script>x</script>"})
    shown = paramscope.Run(folder)._repr_html_()
    assert "<table" in shown and "<script>" not in shown
    assert "13 rows" in shown


def test_a_run_is_saved_in_the_format_of_the_files_name(tmp_path):
    folder = transformer(layers=2).write(tmp_path / "run")
    one = paramscope.Run(folder)
    one.save(tmp_path / "copy.csv")
    assert (tmp_path / "copy.csv").read_bytes() == (folder / "params.csv").read_bytes()
    one.save(tmp_path / "copy.parquet")
    assert pq.read_table(tmp_path / "copy.parquet").to_pylist() == one.rows
    with pytest.raises(paramscope.ParamscopeError, match=r"\.xls.*csv, json, jsonl, parquet"):
        one.save(tmp_path / "copy.xls")
