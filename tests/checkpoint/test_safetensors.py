from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from effort import lines_run
from handmade import header_of
from mutation import survive
from paramscope.checkpoint.open import open_checkpoint
from paramscope.errors import CheckpointError, NoCheckpointError
from paramscope.source.local import LocalSource

SOURCES: list[LocalSource] = []


def opened(path: Path):
    SOURCES.append(LocalSource(path))
    return open_checkpoint(SOURCES[-1])


@pytest.fixture(autouse=True)
def _close_sources():
    yield
    while SOURCES:
        SOURCES.pop().close()


def one_file(tmp_path: Path, entries: dict, data: bytes = b"") -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(header_of(entries) + data)
    return path


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_reads_what_the_reference_library_wrote(write_checkpoint):
    rng = np.random.default_rng(0)
    tensors = {
        "a": rng.standard_normal((3, 5)).astype(np.float32),
        "b": rng.standard_normal(7).astype(np.float16),
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 4), np.float32),
        "ids": np.arange(6).reshape(1, 6),
    }
    checkpoint = opened(write_checkpoint(tensors))
    assert {tensor.name for tensor in checkpoint.tensors} == set(tensors)
    for tensor in checkpoint.tensors:
        codes = checkpoint.read(tensor, 0, tensor.numel)
        assert tensor.shape == tensors[tensor.name].shape
        assert codes.tobytes() == tensors[tensor.name].tobytes()
        if tensor.numel > 3:
            assert checkpoint.read(tensor, 1, 3).tobytes() == codes[1:3].tobytes()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "found 0 bytes"),
        (b"\x05\0\0", "found 3 bytes"),
        ((2**60).to_bytes(8, "little") + b"{}", "more than the format allows"),
        ((2**63).to_bytes(8, "little") + b"{}", "more than the format allows"),
        ((1000).to_bytes(8, "little") + b"{}", "cut short"),
        ((4).to_bytes(8, "little") + b"nope", "expected JSON"),
        ((4).to_bytes(8, "little") + b"\xff\xfe\xfd\xfc", "expected JSON"),
        ((2).to_bytes(8, "little") + b"[]", "expected a JSON object"),
        ((30_000).to_bytes(8, "little") + b"[" * 30_000, "expected JSON"),
    ],
)
def test_a_broken_header_is_an_error_that_says_what_is_wrong(tmp_path, content, says):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=says) as caught:
        opened(path)
    assert "model.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("entries", "data", "says"),
    [
        ({"w": entry([2, 2], 0, 16)}, b"x" * 8, "cut short"),
        ({"w": entry([2, 2], 0, 16)}, b"x" * 20, "no tensor owns"),
        ({"w": entry([2, 2], 0, 12)}, b"x" * 12, "16 bytes for F32"),
        ({"w": entry([2, 2], -4, 12)}, b"x" * 12, "data_offsets"),
        ({"w": entry([2, 2], 16, 0)}, b"x" * 16, "data_offsets"),
        ({"w": entry([2**40, 2**40], 0, 16)}, b"x" * 16, "bytes for F32"),
        ({"w": entry([-2, -2], 0, 16)}, b"x" * 16, "shape"),
        ({"w": entry([2.0, 2], 0, 16)}, b"x" * 16, "shape"),
        ({"w": entry([True, 4], 0, 16)}, b"x" * 16, "shape"),
        ({"w": entry("22", 0, 16)}, b"x" * 16, "shape"),
        ({"w": entry([4], 0, 16, "F128")}, b"x" * 16, "not known"),
        ({"w": entry([4], 0, 16, None)}, b"x" * 16, "not known"),
        ({"w": [1, 2]}, b"x" * 16, "an object"),
        ({"w": entry([4], 0, 16), "v": entry([4], 8, 24)}, b"x" * 24, "overlaps"),
        ({"w": entry([4], 0, 16), "v": entry([4], 20, 36)}, b"x" * 36, "leaves a gap"),
    ],
)
def test_a_header_that_does_not_add_up_is_refused(tmp_path, entries, data, says):
    with pytest.raises(CheckpointError, match=says) as caught:
        opened(one_file(tmp_path, entries, data))
    assert "model.safetensors" in str(caught.value)


def test_a_name_given_twice_is_refused(tmp_path):
    text = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' * 1
    text += b'"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"x" * 8)
    with pytest.raises(CheckpointError, match="'w' twice"):
        opened(path)


def test_an_absurd_header_allocates_nothing(tmp_path):
    import tracemalloc

    path = tmp_path / "model.safetensors"
    path.write_bytes((99_999_999).to_bytes(8, "little") + b"{}")
    tracemalloc.start()
    with pytest.raises(CheckpointError):
        opened(path)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def sharded(write_checkpoint, weight_map: dict[str, str]) -> Path:
    folder = write_checkpoint({"a": np.ones(3, np.float32)}, file="one.safetensors")
    write_checkpoint({"b": np.ones((2, 2), np.float32)}, file="two.safetensors")
    index = {"metadata": {"total_size": 28}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_shards_are_read_through_their_index(write_checkpoint):
    folder = sharded(write_checkpoint, {"a": "one.safetensors", "b": "two.safetensors"})
    checkpoint = opened(folder)
    assert [(t.name, t.file) for t in checkpoint.tensors] == [
        ("a", "one.safetensors"),
        ("b", "two.safetensors"),
    ]


@pytest.mark.parametrize(
    ("weight_map", "says"),
    [
        ({"a": "one.safetensors", "b": "three.safetensors"}, "missing: three.safetensors"),
        ({"a": "one.safetensors", "c": "two.safetensors"}, "'c' in two.safetensors.*nowhere"),
        ({"a": "two.safetensors", "b": "two.safetensors"}, "'a' in two.safetensors"),
        ({"a": "../one.safetensors"}, "outside"),
        ({"a": "/etc/one.safetensors"}, "outside"),
        ({"a": "C:\\one.safetensors"}, "outside"),
        ({"a": "..\\one.safetensors"}, "outside"),
        ({"a": 5}, "weight_map"),
        ([], "weight_map"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(write_checkpoint, weight_map, says):
    with pytest.raises(CheckpointError, match=says):
        opened(sharded(write_checkpoint, weight_map))


def test_tensors_that_the_index_forgot_are_read_and_told(write_checkpoint):
    folder = sharded(write_checkpoint, {"b": "two.safetensors"})
    write_checkpoint(
        {"b": np.ones(2, np.float32), "c": np.ones(2, np.float32)}, file="two.safetensors"
    )
    checkpoint = opened(folder)
    assert [t.name for t in checkpoint.tensors] == ["b", "c"]
    assert "1 tensors are in the shards" in checkpoint.notes[0]


def test_one_tensor_in_two_shards_is_refused(write_checkpoint):
    folder = write_checkpoint(
        {"a": np.ones(3, np.float32)}, file="model-00001-of-00002.safetensors"
    )
    write_checkpoint({"a": np.ones(3, np.float32)}, file="model-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="'a' is also in"):
        opened(folder)


def test_a_series_without_index_must_be_complete(write_checkpoint):
    folder = write_checkpoint(
        {"a": np.ones(3, np.float32)}, file="model-00002-of-00003.safetensors"
    )
    with pytest.raises(CheckpointError, match=r"2 are missing: model-00001-of-00003"):
        opened(folder)
    assert len(opened(folder / "model-00002-of-00003.safetensors").tensors) == 1


def test_other_formats_and_empty_folders_are_named(tmp_path):
    with pytest.raises(NoCheckpointError, match="it is empty"):
        opened(tmp_path)
    (tmp_path / "tf_model.h5").write_bytes(b"x")
    (tmp_path / "flax_model.msgpack").write_bytes(b"x")
    with pytest.raises(NoCheckpointError, match=r"not read: Flax, Keras.*Supported: safetensors"):
        opened(tmp_path)


def test_the_work_grows_with_the_tensors_and_no_faster(tmp_path):
    entries = {f"model.layers.{i}.w": entry([2], 8 * i, 8 * i + 8) for i in range(90_000)}
    path = one_file(tmp_path, entries, bytes(8 * 90_000))

    def opens():
        assert len(opened(path).tensors) == 90_000

    assert lines_run(opens) < 300 * 90_000


def fuzz(tmp_path: Path, times: int) -> None:
    entries = {
        "a": entry([2, 3], 0, 24),
        "b.weight": entry([4], 24, 32, "BF16"),
        "c": entry([], 32, 40, "I64"),
    }
    good = header_of({"__metadata__": {"format": "pt"}, **entries}) + bytes(40)
    outcome = survive(tmp_path, {"model.safetensors": good}, times=times)
    assert min(outcome.values()) > times / 100


def test_mutated_files_are_errors_and_never_crashes(tmp_path):
    fuzz(tmp_path, 1_000)


@pytest.mark.slow
def test_mutated_files_are_errors_and_never_crashes_long(tmp_path):
    fuzz(tmp_path, 20_000)
