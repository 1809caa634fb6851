"""Reading from the Hub, with the real client, against the stand-in."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import threading
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import numpy as np
import pytest

from hub_server import Hub, Sparse
from paramscope.checkpoint.open import open_checkpoint
from paramscope.errors import SourceError
from paramscope.source.hub import HubId, HubSource, open_hub, parse_hub_id
from paramscope.source.local import LocalSource
from paramscope.source.retries import Retries

QUICK = Retries(tries=4, first_wait_s=0.01, timeout_s=600.0)
MODEL = "org/name"
DATA = random.Random(0).randbytes(3_000_000)
WEIGHTS = "model.safetensors"


@pytest.fixture(params=[False, True], ids=["direct", "redirected"])
def either(hub: Hub, request: pytest.FixtureRequest) -> Hub:
    """Large files served by the Hub itself, and by another host that it redirects to."""
    hub.redirects = request.param
    hub.add(MODEL, {WEIGHTS: DATA, "config.json": b'{"a": 1}', "empty.txt": b""})
    return hub


def opened(
    hub: Hub, model: str = MODEL, retries: Retries = QUICK, token: str | bool | None = None
) -> HubSource:
    hub_id = parse_hub_id(model, single=True)
    assert hub_id is not None
    return open_hub(hub_id, endpoint=hub.url, retries=retries, token=token)


def test_files_have_sizes_hashes_and_the_commit(either: Hub):
    source = opened(either)
    assert source.files() == {"config.json": 8, "empty.txt": 0, WEIGHTS: len(DATA)}
    assert source.revision == either.repos[MODEL].branches["main"]
    assert (source.model_id, source.location) == (MODEL, MODEL)
    read: list[int] = []
    assert source.sha256(WEIGHTS, read.append) == hashlib.sha256(DATA).hexdigest()
    assert read == either.requests(WEIGHTS) == []
    assert source.sha256("config.json", read.append) == hashlib.sha256(b'{"a": 1}').hexdigest()
    assert source.sha256("empty.txt", read.append) == hashlib.sha256(b"").hexdigest()
    assert sum(read) == 8


@pytest.mark.parametrize(
    ("offset", "size_bytes"),
    [
        (0, 8),
        (8, 100_000),
        (0, 3_000_000),
        (32_760, 16),
        (2_999_999, 1),
        (1_234_567, 0),
        (5, 40_000),
    ],
)
def test_reads_give_the_very_bytes(either: Hub, offset: int, size_bytes: int):
    source = opened(either)
    for _ in range(2):
        assert source.read(WEIGHTS, offset, size_bytes) == DATA[offset : offset + size_bytes]


def test_a_read_past_the_end_is_an_error(either: Hub):
    source = opened(either)
    for offset, size_bytes in [(2_999_999, 2), (3_000_001, 0), (0, 3_000_001)]:
        with pytest.raises(SourceError, match="expected a range within 3,000,000 bytes"):
            source.read(WEIGHTS, offset, size_bytes)


def test_a_file_that_is_not_listed_is_an_error(either: Hub):
    source = opened(either)
    with pytest.raises(SourceError, match="expected a file 'other'"):
        source.read("other", 0, 1)


def test_many_threads_read_at_once(either: Hub):
    source = opened(either)
    wrong: list[int] = []

    def read(offset: int) -> None:
        if source.read(WEIGHTS, offset, 50_000) != DATA[offset : offset + 50_000]:
            wrong.append(offset)

    threads = [threading.Thread(target=read, args=(n * 100_000,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(either.requests(WEIGHTS, method="HEAD")) == 1


def test_the_first_bytes_and_small_texts_are_fetched_once(either: Hub):
    source = opened(either)
    for _ in range(3):
        source.read(WEIGHTS, 0, 8)
        source.read(WEIGHTS, 8, 10_000)
        source.read("config.json", 0, 8)
    assert len(either.requests(WEIGHTS, method="GET")) == 1
    assert len(either.requests("config.json")) == 1
    assert either.bytes_sent(WEIGHTS) == 2**15


def test_a_small_file_is_never_read_beyond_its_size(hub: Hub):
    hub.add(MODEL, {WEIGHTS: DATA[:1000]})
    source = opened(hub)
    assert source.read(WEIGHTS, 0, 8) + source.read(WEIGHTS, 8, 992) == DATA[:1000]
    assert hub.bytes_sent(WEIGHTS) == 1000


def test_the_headers_of_90000_tensors_are_below_one_percent(hub: Hub):
    entries = {
        f"model.layers.{n // 300}.mlp.experts.{n % 300}.down_proj.weight": {
            "dtype": "BF16",
            "shape": [512, 256],
            "data_offsets": [n * 2**18, (n + 1) * 2**18],
        }
        for n in range(90_000)
    }
    header = json.dumps(entries).encode()
    total_bytes = 8 + len(header) + 90_000 * 2**18
    hub.add(MODEL, {WEIGHTS: Sparse(len(header).to_bytes(8, "little") + header, total_bytes)})
    source = opened(hub)
    length = int.from_bytes(source.read(WEIGHTS, 0, 8), "little")
    assert source.read(WEIGHTS, 8, length) == header
    assert hub.bytes_sent(WEIGHTS) == 8 + len(header) < total_bytes / 100
    assert len(hub.requests(WEIGHTS, method="GET")) == 2


def test_the_listing_follows_all_pages(hub: Hub):
    files = {f"part/{n:04d}.txt": b"x" for n in range(55)}
    hub.add(MODEL, files)
    hub.page_size = 10
    assert opened(hub).files().keys() == files.keys()


def test_a_revision_is_resolved_once_and_kept(hub: Hub):
    old = hub.add(MODEL, {WEIGHTS: DATA})
    source = opened(hub)
    hub.add(MODEL, {WEIGHTS: DATA[::-1]})
    assert source.read(WEIGHTS, 100_000, 100) == DATA[100_000:100_100]
    assert source.revision == old != opened(hub).revision
    assert opened(hub, f"{MODEL}@{old}").read(WEIGHTS, 0, 8) == DATA[:8]


def test_branches_with_slashes_and_names_without_an_organisation(hub: Hub):
    hub.add("gpt2", {WEIGHTS: DATA}, branch="refs/pr/1")
    assert opened(hub, "gpt2@refs/pr/1").read(WEIGHTS, 0, 8) == DATA[:8]


def test_ignored_ranges_are_an_error(either: Hub):
    either.misbehave(file=WEIGHTS, ignore_range=True)
    with pytest.raises(SourceError, match="answered 200 to a range, expected 206"):
        opened(either).read(WEIGHTS, 0, 8)


def test_another_range_than_asked_for_is_an_error(either: Hub):
    either.misbehave(file=WEIGHTS, method="GET", shift_range=1)
    with pytest.raises(SourceError, match="expected 0-32767"):
        opened(either).read(WEIGHTS, 0, 8)


def test_a_changed_etag_is_an_error(either: Hub):
    source = opened(either)
    source.read(WEIGHTS, 0, 8)
    either.misbehave(file=WEIGHTS, etag="another")
    with pytest.raises(SourceError, match="the file changed on the server"):
        source.read(WEIGHTS, 500_000, 8)


def test_an_etag_that_changes_after_a_cut_is_an_error(either: Hub):
    either.misbehave(file=WEIGHTS, method="GET", cut_after=70_000, times=1)
    either.misbehave(file=WEIGHTS, method="GET", etag="another")
    with pytest.raises(SourceError, match="the file changed on the server"):
        opened(either).read(WEIGHTS, 100_000, 2_000_000)


def test_another_content_than_listed_is_an_error(either: Hub):
    either.misbehave(file=WEIGHTS, host="hub", etag="0" * 64)
    with pytest.raises(SourceError, match=r"expected SHA-256 .* found 000000000000"):
        opened(either).read(WEIGHTS, 0, 8)


def test_another_commit_than_asked_for_is_an_error(either: Hub):
    either.misbehave(file=WEIGHTS, host="hub", commit="f" * 40)
    with pytest.raises(SourceError, match=r"expected commit .* found ffffffffffff"):
        opened(either).read(WEIGHTS, 0, 8)


def test_wrong_bytes_of_a_small_file_are_seen(hub: Hub):
    hub.add(MODEL, {"config.json": b'{"a": 1}'})
    hub.misbehave(file="config.json", wrong_bytes=True, times=1)
    assert opened(hub).read("config.json", 0, 8) == b'{"a": 1}'
    hub.misbehave(file="config.json", wrong_bytes=True)
    with pytest.raises(SourceError, match="expected git hash"):
        opened(hub).read("config.json", 0, 8)


def test_a_cut_connection_is_taken_up_where_it_broke_off(either: Hub):
    either.misbehave(file=WEIGHTS, method="GET", cut_after=600_000, times=2)
    assert opened(either).read(WEIGHTS, 100_000, 2_000_000) == DATA[100_000:2_100_000]
    ranges = [request.range for request in either.requests(WEIGHTS, method="GET")]
    assert ranges == [f"bytes={100_000 + 600_000 * n}-2099999" for n in range(3)]
    assert either.bytes_sent(WEIGHTS) == 2_000_000


def test_connections_that_bring_nothing_end_in_an_error(either: Hub):
    either.misbehave(file=WEIGHTS, method="GET", cut_after=0)
    with pytest.raises(
        SourceError, match=r"model\.safetensors: the connection was cut, 4 times in a row"
    ):
        opened(either).read(WEIGHTS, 0, 8)
    assert len(either.requests(WEIGHTS, method="GET")) == 4


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_passing_failures_are_asked_again(either: Hub, status: int):
    either.misbehave(file="main", status=status, times=1)
    either.misbehave(file=MODEL, status=status, times=1)
    either.misbehave(file="config.json", status=status, times=2)
    either.misbehave(file=WEIGHTS, method="HEAD", status=status, times=1)
    either.misbehave(file=WEIGHTS, method="GET", status=status, times=2)
    source = opened(either)
    assert source.read("config.json", 0, 8) == b'{"a": 1}'
    assert source.read(WEIGHTS, 0, 8) == DATA[:8]
    assert not [fault for fault in either.faults[1:] if fault.times]


def test_lasting_failures_say_what_was_answered(either: Hub):
    either.misbehave(file=WEIGHTS, status=503)
    with pytest.raises(SourceError, match=r"127.0.0.1 answered 503, 4 times in a row"):
        opened(either).read(WEIGHTS, 0, 8)


def test_retry_after_is_waited_for(either: Hub):
    either.misbehave(file=WEIGHTS, method="GET", status=429, retry_after="1", times=1)
    assert opened(either).read(WEIGHTS, 0, 8) == DATA[:8]
    first, second = either.requests(WEIGHTS, method="GET")
    assert second.at_s - first.at_s >= 1.0


def test_too_long_a_retry_after_is_not_waited_for(either: Hub):
    either.misbehave(file=WEIGHTS, status=429, retry_after="3600")
    with pytest.raises(SourceError, match="the server asks to wait 3,600 seconds"):
        opened(either).read(WEIGHTS, 0, 8)


def test_a_silent_server_is_asked_again(either: Hub):
    impatient = dataclasses.replace(QUICK, timeout_s=1.0)
    source = opened(either, retries=impatient)
    either.misbehave(file=WEIGHTS, method="GET", delay_s=3_600.0, times=1)
    assert source.read(WEIGHTS, 0, 8) == DATA[:8]
    either.misbehave(file=WEIGHTS, method="GET", delay_s=3_600.0)
    with pytest.raises(SourceError, match="the server stayed silent, 4 times"):
        source.read(WEIGHTS, 500_000, 8)


def test_an_expired_address_is_asked_for_again(hub: Hub):
    hub.redirects = True
    hub.add(MODEL, {WEIGHTS: DATA})
    source = opened(hub)
    source.read(WEIGHTS, 0, 8)
    hub.expire_signatures()
    assert source.read(WEIGHTS, 1_000_000, 8) == DATA[1_000_000:1_000_008]
    assert len(hub.requests(WEIGHTS, method="HEAD")) == 2


def test_the_token_goes_to_the_endpoint_alone(hub: Hub):
    hub.redirects = True
    hub.add(MODEL, {WEIGHTS: DATA, "config.json": b"{}"}, gated=True, private=True)
    source = opened(hub, token=hub.token)
    source.read("config.json", 0, 2)
    assert source.read(WEIGHTS, 1_000_000, 8) == DATA[1_000_000:1_000_008]
    assert {request.token for request in hub.requests(host="hub")} == {hub.token}
    assert {request.token for request in hub.requests(host="cdn")} == {None}
    assert hub.token not in repr(vars(source)) + repr(vars(source.reader))


@pytest.mark.parametrize("file", ["config.json", WEIGHTS, MODEL])
def test_the_token_does_not_follow_a_redirect(hub: Hub, file: str):
    hub.add(MODEL, {WEIGHTS: DATA, "config.json": b"{}"})
    hub.misbehave(file=file, redirect_to=f"{hub.cdn_url}/elsewhere")
    with pytest.raises(SourceError) as caught:
        opened(hub, token=hub.token).read(file, 0, 2)
    assert hub.requests("elsewhere", host="cdn")
    assert {request.token for request in hub.requests(host="cdn")} == {None}
    assert hub.token not in str(caught.value)


def test_redirects_in_a_circle_end(hub: Hub):
    hub.add(MODEL, {WEIGHTS: DATA})
    hub.misbehave(file=WEIGHTS, redirect_to=f"{hub.url}/circle")
    hub.misbehave(file="circle", redirect_to=f"{hub.url}/{WEIGHTS}")
    with pytest.raises(SourceError, match="redirects more than 8 times"):
        opened(hub).read(WEIGHTS, 0, 8)


def test_the_token_of_the_environment_is_used(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.add(MODEL, {WEIGHTS: DATA}, private=True)
    assert opened(hub).read(WEIGHTS, 0, 8) == DATA[:8]


def test_a_missing_model_says_so(hub: Hub):
    with pytest.raises(SourceError, match=r"no such model, or it is private.*hf auth login"):
        opened(hub)
    with pytest.raises(SourceError, match="or it is private and your token may not see it"):
        opened(hub, token="hf_other")


def test_a_gated_model_names_the_page_of_its_licence(hub: Hub):
    hub.add(MODEL, {WEIGHTS: DATA, "config.json": b"{}"}, gated=True)
    for file in (WEIGHTS, "config.json"):
        with pytest.raises(
            SourceError, match=rf"gated.*https://huggingface.co/{MODEL}.*hf auth login"
        ):
            opened(hub).read(file, 0, 2)
    with pytest.raises(SourceError, match="with the account of your token") as caught:
        opened(hub, token="hf_other").read(WEIGHTS, 0, 2)
    assert "hf_other" not in str(caught.value)


def test_a_missing_revision_names_those_there_are(hub: Hub):
    hub.add(MODEL, {WEIGHTS: DATA})
    hub.add(MODEL, {WEIGHTS: DATA}, branch="v1.0")
    with pytest.raises(SourceError, match=r"has no revision 'v1' of it. It has: v1.0, main"):
        opened(hub, f"{MODEL}@v1")


def test_a_file_that_vanished_says_so(either: Hub):
    source = opened(either)
    for files in either.repos[MODEL].commits.values():
        files.pop(WEIGHTS)
    with pytest.raises(SourceError, match="no longer has a file that it listed"):
        source.read(WEIGHTS, 0, 8)


def test_an_unreachable_endpoint_says_what_can_be_done(hub: Hub):
    with pytest.raises(SourceError, match=r"cannot be reached.*HF_ENDPOINT.*holds nothing of it"):
        open_hub(HubId(MODEL), endpoint="http://127.0.0.1:9", retries=QUICK)


def test_an_answer_that_is_not_the_hubs_says_so(hub: Hub):
    hub.add(MODEL, {WEIGHTS: DATA})
    hub.misbehave(file=MODEL, redirect_to=f"{hub.url}/{MODEL}/resolve/main/{WEIGHTS}")
    with pytest.raises(SourceError, match=r"does not answer as the Hub does. Check HF_ENDPOINT"):
        opened(hub)


def test_offline_names_the_variable_and_what_the_cache_holds(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
):
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    hub.add(MODEL, {"config.json": b"{}", **dict.fromkeys(names, DATA)})
    for file in ("config.json", names[0]):
        huggingface_hub.hf_hub_download(MODEL, file, endpoint=hub.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        SourceError, match=f"HF_HUB_OFFLINE is set.*holds 2 of its files.*lacks {names[1]}"
    ):
        opened(hub)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.hf_hub_download(MODEL, names[1], endpoint=hub.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match=r"The cache holds its weights: give /.* as MODEL"):
        opened(hub)


def test_closing_ends_what_is_waited_for(either: Hub):
    source = opened(either, retries=Retries(tries=9, first_wait_s=3_600.0))
    either.misbehave(file=WEIGHTS, status=503)
    threading.Timer(0.3, source.close).start()
    with pytest.raises(SourceError, match="the reading was stopped"):
        source.read(WEIGHTS, 0, 8)


def test_a_checkpoint_reads_the_same_from_the_hub_as_from_the_disk(
    hub: Hub, write_checkpoint: Callable[..., Path]
):
    random_numbers = np.random.default_rng(0)
    tensors = {
        f"layers.{n}.weight": random_numbers.normal(size=(200, 100)).astype(np.float32)
        for n in range(5)
    }
    folder = write_checkpoint(tensors, config={"model_type": "none"})
    hub.add(MODEL, {file.name: file.read_bytes() for file in folder.iterdir()})
    here, there = open_checkpoint(LocalSource(folder)), open_checkpoint(opened(hub))
    assert there.tensors == here.tensors
    assert there.config == here.config
    for tensor in here.tensors:
        same = there.read(tensor, 0, tensor.numel) == here.read(tensor, 0, tensor.numel)
        assert same.all()
    assert hub.bytes_sent(WEIGHTS) == (folder / WEIGHTS).stat().st_size
    here.source.close()
