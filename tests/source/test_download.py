"""Downloads with the real client against the stand-in, in this process."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import pytest

from hub_server import Hub
from paramscope.errors import NoCheckpointError, SourceError, UsageError
from paramscope.source import download as download_module
from paramscope.source import fetch as fetch_module
from paramscope.source.download import DownloadResult, download
from paramscope.source.fetch import DownloadProgress
from paramscope.source.hub import HubId, open_hub
from paramscope.source.local import LocalSource
from paramscope.source.retries import Retries

QUICK = Retries(tries=3, first_wait_s=0.01, timeout_s=600.0)
MODEL = "org/name"
RANDOM = random.Random(1)
SHARDS = {f"model-0000{n}-of-00003.safetensors": RANDOM.randbytes(700_000) for n in (1, 2, 3)}
FILES = {
    **SHARDS,
    "model.safetensors.index.json": b'{"weight_map": {}}',
    "config.json": b'{"model_type": "none"}',
    "tokenizer.json": RANDOM.randbytes(300_000),
    "empty.model": b"",
    "README.md": b"# A model",
}
NOT_NEEDED = {"pytorch_model.bin": b"x" * 1000, "onnx/model.onnx": b"y" * 1000, "runs/log": b"z"}
FIRST = next(iter(SHARDS))


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the small files of the tests take several pieces each."""
    monkeypatch.setattr(fetch_module, "_PIECE_BYTES", 100_000)


@pytest.fixture
def model(hub: Hub) -> Hub:
    hub.add(MODEL, {**FILES, **NOT_NEEDED})
    return hub


@pytest.fixture
def get(hub: Hub, tmp_path: Path) -> Callable[..., DownloadResult]:
    def call(model: str = MODEL, **options: Any) -> DownloadResult:
        options = {"out": tmp_path / "out", "retries": QUICK, "endpoint": hub.url, **options}
        return download(model, **options)

    return call


def states(result: DownloadResult) -> dict[str, str]:
    return {file.path: file.state for file in result.files}


def visible(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and not file.name.startswith(".")
    }


def hidden(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.rglob(".*") if file.name != ".paramscope.lock")


@pytest.mark.parametrize("redirects", [False, True])
def test_a_download_brings_what_analysis_needs(
    model: Hub, get: Callable[..., DownloadResult], tmp_path: Path, redirects: bool
):
    model.redirects = redirects
    result = get()
    assert result.folder == tmp_path / "out" / "org" / "name"
    assert visible(result.folder) == FILES
    assert hidden(result.folder) == [".paramscope.json"]
    assert set(states(result).values()) == {"fetched"}
    assert result.revision == model.repos[MODEL].branches["main"]
    assert result.fetched_bytes == result.size_bytes == sum(map(len, FILES.values()))
    assert model.bytes_sent(".safetensors") == sum(map(len, SHARDS.values()))


def test_commit_and_hashes_are_recorded_for_the_run(model: Hub, get: Callable[..., DownloadResult]):
    result = get()
    record = json.loads((result.folder / ".paramscope.json").read_bytes())
    assert record["model_id"] == MODEL
    assert record["revision"] == result.revision
    assert record["complete"] is True
    source, read = LocalSource(result.folder), []
    assert (source.model_id, source.revision) == (MODEL, result.revision)
    for path, content in FILES.items():
        assert record["files"][path]["sha256"] == hashlib.sha256(content).hexdigest()
        assert record["files"][path]["size_bytes"] == len(content)
        assert source.sha256(path, read.append) == record["files"][path]["sha256"]
    assert not read  # the download's hash holds as long as the file is untouched


def test_a_second_download_fetches_nothing(model: Hub, get: Callable[..., DownloadResult]):
    get()
    model.behave()
    result = get()
    assert set(states(result).values()) == {"present"}
    assert result.fetched_bytes == 0
    assert len(model.log) == 2
    assert not model.requests("/resolve/")
    assert {request.path.split("/")[1] for request in model.log} == {"api"}


def test_without_its_record_a_folder_is_checked_and_not_fetched(
    model: Hub, get: Callable[..., DownloadResult]
):
    result = get()
    (result.folder / ".paramscope.json").unlink()
    (result.folder / FIRST).write_bytes(bytes(len(SHARDS[FIRST])))
    assert {path for path, state in states(get()).items() if state == "fetched"} == {FIRST}
    assert visible(result.folder) == FILES


@pytest.mark.parametrize("path", [FIRST, "config.json"])
def test_a_file_that_was_damaged_since_is_fetched_again(
    model: Hub, get: Callable[..., DownloadResult], path: str
):
    result = get()
    file = result.folder / path
    file.write_bytes(file.read_bytes()[::-1])
    again = get()
    assert {path for path, state in states(again).items() if state == "fetched"} == {path}
    assert visible(result.folder) == FILES


@pytest.mark.parametrize("path", [FIRST, "config.json"])
def test_wrong_bytes_are_deleted_and_fetched_again(
    model: Hub, get: Callable[..., DownloadResult], path: str
):
    model.misbehave(file=path, method="GET", wrong_bytes=True, times=1)
    assert visible(get().folder) == FILES


@pytest.mark.parametrize("path", [FIRST, "config.json"])
def test_bytes_that_stay_wrong_are_an_error_that_keeps_the_rest(
    model: Hub, get: Callable[..., DownloadResult], tmp_path: Path, path: str
):
    model.misbehave(file=path, method="GET", wrong_bytes=True)
    with pytest.raises(SourceError, match=r"expected (SHA-256|git hash) .*3 times"):
        get()
    folder = tmp_path / "out" / MODEL
    assert path not in visible(folder)
    assert not [part for part in folder.glob(f".{path}*.part") if part.stat().st_size]
    model.behave()
    result = get()
    assert visible(result.folder) == FILES
    if path == FIRST:
        assert {p for p, state in states(result).items() if state == "fetched"} == {path}


@pytest.mark.parametrize("redirects", [False, True])
def test_an_unfinished_file_is_taken_up_where_it_broke_off(
    model: Hub, get: Callable[..., DownloadResult], tmp_path: Path, redirects: bool
):
    model.redirects = redirects
    model.misbehave(file=FIRST, method="GET", skip=3, status=503)
    with pytest.raises(SourceError, match="answered 503"):
        get(max_workers=1)
    (part,) = (tmp_path / "out" / MODEL).glob(f".{FIRST}.*.part")
    assert part.stat().st_size == 300_000
    model.behave()
    assert visible(get().folder) == FILES
    assert model.bytes_sent(FIRST) == 400_000
    assert hidden(tmp_path / "out" / MODEL) == [".paramscope.json"]


def test_what_another_version_left_unfinished_is_not_taken_up(
    model: Hub, get: Callable[..., DownloadResult], tmp_path: Path
):
    model.misbehave(file=FIRST, method="GET", skip=3, status=503)
    with pytest.raises(SourceError):
        get(max_workers=1)
    model.behave()
    changed = {**FILES, FIRST: SHARDS[FIRST][::-1]}
    model.add(MODEL, changed)
    assert visible(get().folder) == changed
    assert hidden(tmp_path / "out" / MODEL) == [".paramscope.json"]


def test_a_damaged_unfinished_file_is_replaced(
    model: Hub, get: Callable[..., DownloadResult], tmp_path: Path
):
    model.misbehave(file=FIRST, method="GET", skip=3, status=503)
    with pytest.raises(SourceError):
        get(max_workers=1)
    model.behave()
    (part,) = (tmp_path / "out" / MODEL).glob(f".{FIRST}.*.part")
    part.write_bytes(bytes(part.stat().st_size))
    assert visible(get().folder) == FILES


@pytest.mark.parametrize("status", [429, 503])
def test_passing_failures_do_not_disturb_a_download(
    model: Hub, get: Callable[..., DownloadResult], status: int
):
    for path in (*SHARDS, "config.json"):
        model.misbehave(file=path, status=status, times=2)
    model.misbehave(file=FIRST, method="GET", cut_after=50_000, times=2)
    assert visible(get().folder) == FILES


def test_retry_after_is_waited_for(model: Hub, get: Callable[..., DownloadResult]):
    model.misbehave(file="config.json", status=429, retry_after="1", times=1)
    get()
    first, second = model.requests("config.json")
    assert second.at_s - first.at_s >= 1.0


def test_a_new_revision_fetches_what_changed_and_removes_what_is_gone(
    model: Hub, get: Callable[..., DownloadResult]
):
    old = get()
    single = {"model.safetensors": SHARDS[FIRST], "config.json": FILES["config.json"]}
    model.add(MODEL, single)
    (old.folder / "notes.txt").write_text("mine")
    (old.folder / "README.md").write_text("mine too")
    result = get()
    assert states(result) == {"config.json": "present", "model.safetensors": "fetched"}
    assert visible(result.folder) == {**single, "notes.txt": b"mine", "README.md": b"mine too"}
    assert LocalSource(result.folder).revision == result.revision != old.revision


def test_a_revision_may_be_a_branch_or_a_commit(model: Hub, get: Callable[..., DownloadResult]):
    old = model.repos[MODEL].branches["main"]
    model.add(MODEL, {"model.safetensors": b"new"})
    assert get(f"{MODEL}@{old}").revision == old
    assert get(revision=old).revision == old
    assert get(f"{MODEL}@{old}", revision=old).revision == old
    assert get(revision="main").revision != old
    with pytest.raises(UsageError, match="names one revision"):
        get(f"{MODEL}@{old}", revision="main")


def test_a_dry_run_writes_nothing(model: Hub, get: Callable[..., DownloadResult], tmp_path: Path):
    result = get(dry_run=True)
    assert set(states(result).values()) == {"wanted"}
    assert states(result).keys() == FILES.keys()
    assert result.fetched_bytes == 0
    assert not (tmp_path / "out").exists()
    assert not model.requests("/resolve/")
    get()
    assert set(states(get(dry_run=True)).values()) == {"present"}


def test_everything_and_patterns_choose_files(model: Hub, get: Callable[..., DownloadResult]):
    assert visible(get(include=["onnx/"]).folder).keys() == {"onnx/model.onnx"}
    assert visible(get(everything=True).folder) == {**FILES, **NOT_NEEDED}
    with pytest.raises(NoCheckpointError, match=r"no file is left by --include and --exclude"):
        get(include=["*.nothing"])


def test_a_repository_without_weights_says_what_it_has(
    hub: Hub, get: Callable[..., DownloadResult]
):
    hub.add("org/keras", {"tf_model.h5": b"1", "model.onnx": b"2"})
    with pytest.raises(NoCheckpointError, match=r"a format that is not read: Keras, ONNX.*--all"):
        get("org/keras")
    hub.add("org/card", {"README.md": b"# hi"})
    with pytest.raises(NoCheckpointError, match=r"found none; it has README\.md"):
        get("org/card")
    hub.add("org/nothing", {})
    with pytest.raises(NoCheckpointError, match="it has no file at all"):
        get("org/nothing")


@pytest.mark.parametrize("name", ["../evil.safetensors", "/evil.safetensors", "a\\b.safetensors"])
def test_no_file_leaves_the_folder(
    hub: Hub, get: Callable[..., DownloadResult], tmp_path: Path, name: str
):
    hub.add(MODEL, {name: b"evil"})
    with pytest.raises(SourceError, match="cannot be written safely"):
        get()
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


def test_too_small_a_disk_is_said_before_the_first_byte(
    model: Hub, get: Callable[..., DownloadResult], monkeypatch: pytest.MonkeyPatch
):
    usage = SimpleNamespace(total=10**7, used=9 * 10**6, free=10**6)
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SourceError, match=r"0\.0024 GB .* 0\.0010 GB free.*--stream"):
        get()
    assert not model.requests("/resolve/")


def test_what_is_there_needs_no_room(
    model: Hub, get: Callable[..., DownloadResult], monkeypatch: pytest.MonkeyPatch
):
    get()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    get()


def test_a_folder_that_cannot_be_written_is_an_error(
    model: Hub, get: Callable[..., DownloadResult], tmp_path: Path
):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(SourceError, match="cannot be written"):
        get()


def test_two_downloads_do_not_write_into_one_folder(model: Hub, get: Callable[..., DownloadResult]):
    model.misbehave(file=FIRST, method="GET", stall_after=10, times=1)
    thread = threading.Thread(target=get)
    thread.start()
    model.stalled.wait()
    with pytest.raises(SourceError, match="another download is writing here"):
        get()
    model.behave()
    thread.join()
    assert set(states(get()).values()) == {"present"}


def test_the_cache_of_huggingface_hub_is_used(model: Hub, get: Callable[..., DownloadResult]):
    for path in (FIRST, "config.json"):
        huggingface_hub.hf_hub_download(MODEL, path, endpoint=model.url)
    model.behave()
    result = get()
    assert visible(result.folder) == FILES
    copied = {path for path, state in states(result).items() if state == "copied"}
    assert copied == {FIRST, "config.json"}
    assert not model.requests(FIRST)


def test_a_damaged_file_of_the_cache_is_fetched(model: Hub, get: Callable[..., DownloadResult]):
    cached = Path(huggingface_hub.hf_hub_download(MODEL, FIRST, endpoint=model.url)).resolve()
    cached.write_bytes(bytes(len(SHARDS[FIRST])))
    result = get()
    assert states(result)[FIRST] == "fetched"
    assert visible(result.folder) == FILES


def test_offline_a_whole_cache_is_enough(
    model: Hub, get: Callable[..., DownloadResult], monkeypatch: pytest.MonkeyPatch
):
    huggingface_hub.snapshot_download(MODEL, endpoint=model.url, allow_patterns=list(FILES))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    model.behave()
    result = get()
    assert visible(result.folder) == FILES
    assert set(states(result).values()) == {"copied"}
    assert set(states(get()).values()) == {"present"}
    assert model.log == []


def test_gated_files_end_the_download(hub: Hub, get: Callable[..., DownloadResult]):
    hub.add(MODEL, FILES, gated=True)
    with pytest.raises(SourceError, match=r"gated.*https://huggingface.co/org/name.*hf auth login"):
        get()
    assert visible(get(token=hub.token).folder) == FILES


def test_no_token_is_written(hub: Hub, get: Callable[..., DownloadResult], tmp_path: Path):
    hub.add(MODEL, FILES, private=True)
    get(token=hub.token)
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or hub.token.encode() not in file.read_bytes()


def test_progress_goes_up_to_the_total(model: Hub, get: Callable[..., DownloadResult]):
    told: list[DownloadProgress] = []
    get(progress=told.append)
    done = [progress.done_bytes for progress in told if progress.step == "fetch"]
    assert done == sorted(done)
    assert done[-1] == told[-1].total_bytes == sum(map(len, FILES.values()))
    told.clear()
    get(progress=told.append)
    assert {progress.step for progress in told} == {"check"}


def test_what_is_no_hub_id_is_wrong_use(get: Callable[..., DownloadResult]):
    with pytest.raises(UsageError, match="expected a model on the Hub"):
        get("a/b/c")


def test_a_missing_model_writes_nothing(get: Callable[..., DownloadResult], tmp_path: Path):
    with pytest.raises(SourceError, match="no such model"):
        get("org/missing")
    assert not (tmp_path / "out").exists()


def test_a_downloaded_file_is_known_as_the_one_on_the_hub(
    model: Hub, get: Callable[..., DownloadResult]
):
    local = LocalSource(get().folder)
    remote = open_hub(HubId(MODEL), endpoint=model.url)
    assert local.state(FIRST) == remote.state(FIRST)
    (local.folder / FIRST).write_bytes(bytes(len(SHARDS[FIRST])))
    assert local.state(FIRST) != remote.state(FIRST)
    remote.close()
