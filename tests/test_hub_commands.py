"""Models on the Hub, through the commands: inspect, analyze, analyze --stream, download."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save

from handmade import header_of
from hub_server import Hub, Sparse, hub_server
from journals import wait_for_rows
from paramscope import Run

CONFIG = json.dumps({"model_type": "llama", "num_attention_heads": 4}).encode()
TOKEN = "hf_secretsecretsecret"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as server:
        yield server


def tensors(layers: int, hidden: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    named = {"model.embed_tokens.weight": rng.standard_normal((300, hidden)).astype(np.float16)}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        named[at + "self_attn.q_proj.weight"] = rng.standard_normal((hidden, hidden))
        named[at + "mlp.down_proj.weight"] = rng.standard_normal((hidden, 3 * hidden))
        named[at + "input_layernorm.weight"] = rng.standard_normal(hidden)
    return {name: tensor.astype(np.float16) for name, tensor in named.items()}


def sharded(layers: int = 8, hidden: int = 192) -> dict[str, bytes]:
    """A model in two shards with an index."""
    named = tensors(layers, hidden)
    names = list(named)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    files = {
        f"model-0000{i + 1}-of-00002.safetensors": save({name: named[name] for name in half})
        for i, half in enumerate(halves)
    }
    weight_map = {name: file for file, half in zip(files, halves, strict=True) for name in half}
    index = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    return {**files, "model.safetensors.index.json": index, "config.json": CONFIG}


def environment(hub: Hub, folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "hf_home"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def start(hub: Hub, folder: Path, *arguments) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "paramscope", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        command, cwd=folder, env=environment(hub, folder), encoding="utf-8", **pipes
    )


def run(hub: Hub, folder: Path, *arguments, check: int = 0) -> tuple[str, str]:
    process = start(hub, folder, *arguments)
    out, errors = process.communicate(timeout=600)
    assert process.returncode == check, errors
    assert TOKEN not in out + errors
    return out, errors


def table(folder: Path) -> list[dict]:
    aside = ("created_at", "model_path")
    return [{k: v for k, v in row.items() if k not in aside} for row in Run(folder).rows]


def weight_bytes(files: dict[str, bytes]) -> int:
    return sum(len(data) for name, data in files.items() if name.endswith(".safetensors"))


def served(hub: Hub, files: dict[str, bytes]) -> int:
    return sum(hub.bytes_sent(name) for name in files)


def test_stream_gives_the_table_of_the_local_files_and_stores_nothing(hub, tmp_path):
    files = sharded(layers=30)
    hub.add("org/name", files)
    run(hub, tmp_path, "download", "org/name")
    run(hub, tmp_path, "analyze", "data/models/org/name", "--out", "local")
    before = served(hub, files)
    run(hub, tmp_path, "analyze", "org/name", "--stream", "--out", "streamed")
    assert served(hub, files) - before <= 1.02 * weight_bytes(files)
    local, streamed = table(tmp_path / "local"), table(tmp_path / "streamed")
    assert streamed == local
    assert len({row["revision"] for row in streamed} - {""}) == 1
    spectra = [pq.read_table(tmp_path / name / "spectra.parquet") for name in ("local", "streamed")]
    assert spectra[0].equals(spectra[1])
    metas = [Run(tmp_path / name).meta for name in ("local", "streamed")]
    assert metas[0]["files"] == metas[1]["files"]
    assert {file.name for file in (tmp_path / "streamed").iterdir()} == {
        "journal.sqlite",
        "params.csv",
        "params.parquet",
        "run_meta.json",
        "spectra.parquet",
    }


def test_analyze_without_stream_downloads_first_and_only_once(hub, tmp_path):
    files = sharded()
    commit = hub.add("org/name", files)
    run(hub, tmp_path, "analyze", "org/name")
    assert (tmp_path / "data/models/org/name/config.json").read_bytes() == CONFIG
    rows = table(tmp_path / "data/outputs/org--name")
    assert {row["model_id"] for row in rows} == {"org/name"}
    assert {row["revision"] for row in rows} == {commit}
    before = served(hub, files)
    run(hub, tmp_path, "analyze", "hf://org/name", "--fresh")
    assert served(hub, files) == before


def test_run_of_a_model_on_the_hub_streams_its_embedding_too(hub, tmp_path):
    hub.add("org/name", sharded())
    run(hub, tmp_path, "run", "org/name@main", "--stream", "--out", "r", "--plots", "none")
    assert (tmp_path / "r/report.html").is_file()
    assert (tmp_path / "r/embedding/clusters.csv").is_file()
    assert not (tmp_path / "data").exists()


def test_a_local_path_of_that_name_wins(hub, tmp_path):
    place = tmp_path / "org" / "name"
    place.mkdir(parents=True)
    (place / "model.safetensors").write_bytes(save(tensors(1, 8)))
    out, _ = run(hub, tmp_path, "inspect", "org/name", "--json")
    assert json.loads(out)["model"]["model_path"] == "org/name"
    assert hub.log == []


def test_inspect_of_ninety_thousand_remote_tensors_fetches_headers_only(hub, tmp_path):
    numel, entries, offset = 100_000, {}, 0
    for i in range(90_000):
        name = f"model.layers.{i // 1500}.mlp.experts.{i % 1500}.down_proj.weight"
        span = [offset, offset + 2 * numel]
        entries[name] = {"dtype": "BF16", "shape": [1000, 100], "data_offsets": span}
        offset += 2 * numel
    head = header_of(entries)
    size_bytes = len(head) + offset
    hub.add("org/large", {"model.safetensors": Sparse(head, size_bytes), "config.json": CONFIG})
    out, _ = run(hub, tmp_path, "inspect", "org/large", "--json")
    assert json.loads(out)["totals"]["parameters"] == 90_000 * numel
    assert hub.bytes_sent("model.safetensors") < 0.01 * size_bytes
    assert hub.bytes_sent("model.safetensors") <= len(head) + 2**16


@pytest.mark.skipif(os.name == "nt", reason="kill -9")
def test_a_stream_killed_and_resumed_does_not_fetch_again_what_was_done(hub, tmp_path):
    files = sharded(layers=40, hidden=320)
    hub.add("org/name", files)
    hub.misbehave(file=".safetensors", skip=60, stall_after=0)
    arguments = ("analyze", "org/name", "--stream", "--out", "r")
    process = start(hub, tmp_path, *arguments, "--workers", "1")
    done = wait_for_rows(tmp_path / "r" / "journal.sqlite", 20, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 20 <= done < 121
    hub.behave()
    _, errors = run(hub, tmp_path, *arguments)
    assert re.search(r"goes on after \d+ of 121", errors)
    headers_bytes = 2**17
    rest = weight_bytes(files) - done_bytes(tmp_path / "r", done, files)
    assert served(hub, files) <= 1.02 * rest + headers_bytes
    run(hub, tmp_path, "analyze", "org/name", "--stream", "--out", "undisturbed")
    assert table(tmp_path / "r") == table(tmp_path / "undisturbed")


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to one process")
def test_ctrl_c_is_exit_130_and_keeps_finished_rows(hub, tmp_path):
    hub.add("org/name", sharded())
    hub.misbehave(file=".safetensors", skip=15, stall_after=0)
    arguments = ("analyze", "org/name", "--stream", "--out", "r")
    process = start(hub, tmp_path, *arguments)
    assert 0 < wait_for_rows(tmp_path / "r" / "journal.sqlite", 1, process) < 25
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "Interrupted. What is finished is kept" in errors
    assert "Traceback" not in errors
    hub.behave()
    _, errors = run(hub, tmp_path, *arguments)
    assert "goes on after" in errors
    _, errors = run(hub, tmp_path, *arguments)
    assert "nothing to do" in errors


def done_bytes(folder: Path, done: int, files: dict[str, bytes]) -> int:
    """At least this many bytes of weights were measured: the smallest `done` rows."""
    sizes = sorted(int(row["nbytes"]) for row in Run(folder).rows)
    return sum(sizes[:done])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_of_a_stream_stays_under_the_budget(hub, tmp_path):
    data = save({f"layers.{i}.up_proj.weight": np.ones((4096, 512), np.float16) for i in range(40)})
    hub.add("org/name", {"model.safetensors": data, "config.json": CONFIG})
    script = "import sys; from paramscope.cli import paramscope as c; "
    script += "c.main(sys.argv[1:], standalone_mode=False); print(open('/proc/self/status').read())"
    command = [sys.executable, "-c", script, "analyze", "org/name", "--stream", "--json"]
    command += ["--memory", "0.1", "--out", "r"]
    found = subprocess.run(
        command, cwd=tmp_path, env=environment(hub, tmp_path), capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    peak_mib = int(re.search(r"VmHWM:\s+(\d+) kB", found.stdout)[1]) / 1024
    assert len(data) > 160 * 2**20
    program_mib = 130  # the interpreter, numpy, pyarrow, the HTTP client
    assert peak_mib < program_mib + 102 + 40


def test_a_model_that_changes_while_it_is_read_is_an_error_not_a_mixture(hub, tmp_path):
    files = sharded()
    hub.add("org/name", files)
    hub.misbehave(file="model-00002-of-00002.safetensors", etag="another", skip=4)
    _, errors = run(hub, tmp_path, "analyze", "org/name", "--stream", "--out", "r", check=2)
    assert "changed" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("command", ["inspect", "analyze", "download"])
def test_what_is_not_there_says_the_next_step(hub, tmp_path, command):
    _, errors = run(hub, tmp_path, command, "org/missing", check=2)
    assert "org/missing" in errors
    assert "private" in errors
    hub.add("org/flax", {"flax_model.msgpack": b"x" * 2000, "config.json": CONFIG})
    _, errors = run(hub, tmp_path, command, "org/flax", check=2)
    assert "lax" in errors
    assert "Traceback" not in errors


def test_the_token_goes_to_the_endpoint_and_into_no_file(hub, tmp_path):
    hub.add("org/name", sharded())
    hub.redirects = True
    run(hub, tmp_path, "analyze", "org/name", "--stream", "--out", "r", "--verbose")
    run(hub, tmp_path, "download", "org/name")
    assert any(request.token for request in hub.requests(host="hub"))
    elsewhere = hub.requests(host="cdn")
    assert elsewhere
    assert not any(request.token for request in elsewhere)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("container", "file"), [("pytorch", "pytorch_model.bin"), ("gguf", "model-F16.gguf")]
)
def test_other_containers_are_read_by_ranges_too(hub, tmp_path, container, file):
    weights = tensors(layers=4, hidden=640)
    written = tmp_path / file
    if container == "pytorch":
        torch.save({name: torch.from_numpy(tensor) for name, tensor in weights.items()}, written)
    else:
        writer = gguf.GGUFWriter(str(written), "llama")
        writer.add_block_count(4)
        for name, tensor in weights.items():
            writer.add_tensor(name, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    files = {"model.safetensors": save(weights), file: written.read_bytes(), "config.json": CONFIG}
    hub.add("org/name", files)
    run(hub, tmp_path, "inspect", "org/name", "--format", container)
    assert hub.bytes_sent(file) < 0.3 * len(files[file])
    run(hub, tmp_path, "analyze", str(written), "--out", "local")
    formats = f"csv,{container}"
    run(hub, tmp_path, "analyze", "org/name", "--stream", "--format", formats, "--out", "streamed")
    assert hub.bytes_sent("model.safetensors") == 0
    local, streamed = (
        [
            {k: v for k, v in row.items() if k not in ("model_id", "revision")}
            for row in table(folder)
        ]
        for folder in (tmp_path / "local", tmp_path / "streamed")
    )
    assert streamed == local
