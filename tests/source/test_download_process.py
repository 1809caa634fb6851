"""Downloads as users start them: a process of its own, set up by variables, killed at will."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hub_server import Hub, hub_server

SCRIPT = Path(__file__).parents[2] / "scripts" / "download.py"
MODEL = "org/name"
RANDOM = random.Random(2)
FIRST, SECOND = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
FILES = {
    FIRST: RANDOM.randbytes(40_000_000),  # more than one piece
    SECOND: RANDOM.randbytes(1_000_000),
    "config.json": b"{}",
}


@pytest.fixture
def started(tmp_path: Path):
    """Start the script against a Hub, with the variables of a clean user."""

    def start(hub: Hub | None, *options: str, **variables: str) -> subprocess.Popen[str]:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("HF_")
        }
        environment |= {
            "HF_HOME": str(tmp_path / "hf_home"),
            "HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **variables,
        }
        command = [sys.executable, "-W", "error", str(SCRIPT), "--model_id", MODEL]
        command += ["--out", str(tmp_path / "out"), *options]
        return subprocess.Popen(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    return start


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=600)
    return process.returncode, output, errors


def visible(tmp_path: Path) -> dict[str, bytes]:
    folder = tmp_path / "out" / "org" / "name"
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and not file.name.startswith(".")
    }


def test_the_script_downloads_from_the_mirror_and_says_where(tmp_path: Path, started):
    with hub_server() as hub:
        commit = hub.add(MODEL, FILES)
        hub.add(MODEL, {"model.safetensors": b"newer"})
        code, output, errors = ended(started(hub, "--revision", commit, "--low_cpu_mem_usage"))
    assert (code, errors) == (0, "")
    assert output.strip() == str(tmp_path / "out" / "org" / "name")
    assert visible(tmp_path) == FILES


def test_killed_inside_a_file_it_goes_on_inside_it(tmp_path: Path, started):
    with hub_server() as hub:
        hub.add(MODEL, FILES)
        hub.misbehave(file=FIRST, method="GET", beyond=1, stall_after=1_000_000)
        process = started(hub)
        assert hub.stalled.wait()
        part = None
        while part is None or part.stat().st_size == 0:
            part = next((tmp_path / "out").rglob(f".{FIRST}.*.part"), None)
            time.sleep(0.01)
        process.kill()
        assert ended(process)[0] != 0
        assert FIRST not in visible(tmp_path)
        kept_bytes = part.stat().st_size
        hub.behave()
        assert ended(started(hub))[0] == 0
        assert visible(tmp_path) == FILES
        assert hub.bytes_sent(FIRST) == len(FILES[FIRST]) - kept_bytes
        assert kept_bytes > 0


def test_killed_between_files_it_fetches_only_the_others(tmp_path: Path, started):
    with hub_server() as hub:
        hub.add(MODEL, FILES)
        hub.misbehave(file=SECOND, method="GET", stall_after=10)
        process = started(hub)
        assert hub.stalled.wait()
        record = tmp_path / "out" / MODEL / ".paramscope.json"
        while FIRST not in (json.loads(record.read_bytes())["files"] if record.is_file() else {}):
            time.sleep(0.01)
        process.kill()
        assert ended(process)[0] != 0
        assert visible(tmp_path).keys() == {"config.json", FIRST}
        assert json.loads(record.read_bytes())["complete"] is False
        hub.behave()
        assert ended(started(hub))[0] == 0
        assert visible(tmp_path) == FILES
        assert not hub.requests(FIRST)
        assert json.loads(record.read_bytes())["complete"] is True


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal there")
def test_an_interrupt_ends_it(tmp_path: Path, started):
    with hub_server() as hub:
        hub.add(MODEL, FILES)
        hub.misbehave(file=".safetensors", status=503)
        process = started(hub)
        while not hub.requests(FIRST):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        code, _, errors = ended(process)
    assert code != 0
    assert code == 130
    assert "Interrupted" in errors


@pytest.mark.parametrize("redirects", [False, True])
def test_the_token_is_in_no_file_and_in_no_output(tmp_path: Path, started, redirects: bool):
    with hub_server() as hub:
        hub.redirects = redirects
        hub.add(MODEL, FILES, private=True, gated=True)
        hub.misbehave(file=SECOND, status=500, times=1)
        good = ended(started(hub, "--verbose", HF_TOKEN=hub.token))
        hub.misbehave(file=SECOND, status=403)
        (tmp_path / "out" / MODEL / SECOND).unlink()
        bad = ended(started(hub, "--verbose", HF_TOKEN=hub.token))
        assert {request.token for request in hub.requests(host="cdn")} <= {None}
        assert bool(hub.requests(host="cdn")) == redirects
    assert (good[0], bad[0]) == (0, 2)
    assert "500; asking again" in good[2]
    assert hub.token not in "".join(map(str, good + bad))
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or hub.token.encode() not in file.read_bytes()


def test_a_saved_login_is_used(tmp_path: Path, started):
    with hub_server() as hub:
        hub.add(MODEL, FILES, private=True)
        (tmp_path / "hf_home").mkdir()
        (tmp_path / "hf_home" / "token").write_text(hub.token)
        assert ended(started(hub))[0] == 0


def test_no_network_is_one_sentence(started):
    code, output, errors = ended(started(None))
    assert (code, output) == (2, "")
    assert "http://127.0.0.1:9 cannot be reached" in errors
    assert "HF_ENDPOINT" in errors
    assert "Traceback" not in errors


def test_offline_is_one_sentence(started):
    code, _, errors = ended(started(None, HF_HUB_OFFLINE="1"))
    assert code == 2
    assert "HF_HUB_OFFLINE is set" in errors
    assert "holds nothing of it" in errors
