"""Files of torch.save, both formats: what is read equals what torch itself loads, to the bit."""

from __future__ import annotations

import json
import pickle
import random
import zipfile
from collections import OrderedDict
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mutation import peak_bytes, survive
from paramscope.checkpoint import strided
from paramscope.checkpoint.open import open_checkpoint
from paramscope.errors import CheckpointError
from paramscope.pipeline import analyze
from paramscope.source.local import LocalSource

FORMATS = {"zip": True, "legacy": False}
V3_DTYPES = {torch.uint16, torch.uint32, torch.uint64}
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "C128": torch.complex128,
}
SOURCES: list[LocalSource] = []


@pytest.fixture(autouse=True)
def _close_sources():
    yield
    while SOURCES:
        SOURCES.pop().close()


@pytest.fixture(params=FORMATS)
def save(request, tmp_path):
    """Write a value with torch.save, in each of its formats; gives the file."""

    def write(value: object, file: str = "pytorch_model.bin", **options) -> Path:
        path = tmp_path / "model" / file
        path.parent.mkdir(exist_ok=True)
        zipped = FORMATS[request.param]
        torch.save(value, path, _use_new_zipfile_serialization=zipped, **options)
        return path

    return write


def opened(path: Path, source: type[LocalSource] = LocalSource):
    SOURCES.append(source(path))
    return open_checkpoint(SOURCES[-1])


def bits(tensor: torch.Tensor) -> bytes:
    """The elements' bytes in C order."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def check(path: Path, expected: dict[str, torch.Tensor]) -> None:
    """Names, shapes and bits are those expected, read whole and in parts."""
    checkpoint = opened(path)
    assert [t.name for t in checkpoint.tensors] == list(expected)
    rng = random.Random(0)
    for tensor in checkpoint.tensors:
        wanted = expected[tensor.name]
        assert tensor.shape == tuple(wanted.shape)
        assert tensor.nbytes == wanted.numel() * wanted.element_size()
        codes = checkpoint.read(tensor, 0, tensor.numel)
        assert codes.tobytes() == bits(wanted)
        for _ in range(5):
            start, stop = sorted(rng.choices(range(tensor.numel + 1), k=2))
            assert checkpoint.read(tensor, start, stop).tobytes() == codes[start:stop].tobytes()


def seeded(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def state(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"a.weight": seeded(4, 3), "a.bias": seeded(4), **more}


def odd_views() -> dict[str, torch.Tensor]:
    cube = seeded(4, 5, 6)
    return {
        "transposed": seeded(7, 5).t(),
        "permuted": cube.permute(2, 0, 1),
        "columns": cube[:, :, ::2],
        "part": cube[1:3, 2:, 1],
        "row": seeded(9, 8)[4],
        "expanded": seeded(3, 1).expand(3, 4),
        "all_one": torch.ones(()).expand(5, 5),
        "window": torch.arange(10.0).as_strided((4, 3), (2, 1)),
        "scalar": torch.tensor(2.5),
        "one": seeded(1, 1, 1),
        "empty": torch.zeros(0, 4),
        "empty_view": torch.zeros(4, 0).t(),
    }


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_is_read_to_the_bit(save, name):
    dtype = DTYPES[name]
    codes = torch.randint(0, 256, (6, 16), dtype=torch.uint8)
    tensor = (codes % 2).bool() if dtype is torch.bool else codes.view(dtype)
    path = save({"x": tensor})
    assert opened(path).tensors[0].dtype.name == name
    check(path, {"x": tensor})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_equals_what_torch_loads(save, protocol):
    path = save(
        OrderedDict(state(half=seeded(3, 3).half(), ids=torch.arange(5))), pickle_protocol=protocol
    )
    # torch's own restricted reader knows protocol 2 only
    check(path, torch.load(path, weights_only=protocol == 2))


def test_views_are_read_in_the_order_of_their_shape(save):
    path = save(odd_views())
    check(path, torch.load(path, weights_only=True))


def test_views_are_read_piece_by_piece_where_they_are_large(save, monkeypatch):
    monkeypatch.setattr(strided, "_READ_AT_ONCE_BYTES", 0)
    check(save(odd_views()), odd_views())


def test_parameters_and_modules_state_are_plain_tensors(save):
    parameter = torch.nn.Parameter(seeded(3, 2))
    marked = torch.nn.Parameter(seeded(2))
    marked.note = {"kept": "nowhere"}
    plain = seeded(2, 2)
    plain.note = 3
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    expected = {"p": parameter, "m": marked, "t": plain, **module.state_dict()}
    check(save(OrderedDict(expected)), expected)
    check(save(module.state_dict()), module.state_dict())


def test_buffers_are_plain_tensors(save):
    module = torch.nn.BatchNorm1d(3)
    module.extra = torch.nn.Buffer(seeded(3))
    check(save(dict(module.named_buffers())), dict(module.named_buffers()))


def test_parts_of_a_storage_and_dicts_as_pytorch_0_4_wrote_them_under_python_2(tmp_path):
    weight = seeded(6)
    storage = b"(U\7storagectorch\nFloatStorage\nU\0010U\3cpuK\6(U\1vK\2K\3ttQ"
    tensor = b"ctorch._utils\n_rebuild_tensor\n(" + storage + b"K\1K\2\x85K\1\x85tR"
    program = b"\x80\2ccollections\nOrderedDict\n](](U\1w" + tensor + b"ee\x85R."
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}, ["0"])]
    parts.insert(3, program)
    path = tmp_path / "old.pth"
    path.write_bytes(b"".join(parts) + (6).to_bytes(8, "little") + weight.numpy().tobytes())
    check(path, {"w": weight[3:5]})


def test_tied_weights_are_listed_twice_and_told(save):
    weight = seeded(6, 4)
    path = save({"embed": weight, "head": weight, "half": weight[:3], "free": seeded(3)})
    check(path, {"embed": weight, "head": weight, "half": weight[:3], "free": seeded(3)})
    assert opened(path).notes == (
        "3 tensors share bytes with others (tied weights): embed, head, half. "
        "Each is listed, measured and counted under its own name.",
    )


OPTIMIZER = {"state": {0: {"exp_avg": seeded(4, 3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}


@pytest.mark.parametrize(
    ("wrap", "told"),
    [
        (lambda s: {"state_dict": s, "epoch": 3}, "epoch"),
        (lambda s: {"epoch": 3, "model": s, "optimizer": OPTIMIZER}, "epoch, optimizer"),
        (lambda s: {"model": {"module": {f"module.{k}": v for k, v in s.items()}}}, "'module.'"),
        (lambda s: {f"module.module.{k}": v for k, v in s.items()}, "'module.module.'"),
        (lambda s: {f"_orig_mod.{k}": v for k, v in s.items()}, "'_orig_mod.'"),
        (lambda s: {"a": {"weight": s["a.weight"], "bias": s["a.bias"]}}, ""),
        (lambda s: {"model": s, "ema": {k: v + 1 for k, v in s.items()}}, "moving average.*ema"),
        (lambda s: {"ema": s, "opt": OPTIMIZER}, "opt"),
        (lambda s: {"state_dict": s, "hyper_parameters": {"lr": 1e-3, "layers": (1, 2)}}, "hyper_"),
        (lambda s: {**s, "_extra_state": None}, "_extra_state"),
    ],
)
def test_wrappers_are_taken_off_and_what_is_left_out_is_told(save, wrap, told):
    path = save(wrap(state()))
    check(path, state())
    notes = " ".join(opened(path).notes)
    if told:
        import re

        assert re.search(told, notes)
    else:
        assert notes == ""


def test_siblings_of_a_wrapper_that_hold_weights_are_kept(save):
    path = save({"model": state(), "text_encoder": {"w": seeded(2)}, "logit_scale": seeded(1)})
    expected = {"text_encoder.w": seeded(2), "logit_scale": seeded(1), **state()}
    check(path, expected)


def test_what_a_training_run_saves_beside_the_weights_is_left_out_and_not_refused(save):
    import argparse
    from collections import Counter, defaultdict

    counts = defaultdict(int)
    counts["x"] += 1
    beside = {
        "args": argparse.Namespace(lr=0.1, out=Path("/tmp/x"), layers={1, 2}),
        "best": np.float64(0.5),
        "device": torch.device("cpu"),
        "size": torch.Size([3]),
        "dtype": torch.float32,
        "bytes": b"abc",
        "counts": Counter("aab"),
        "more": counts,
        "history": [1, 2.5, None, True, 2**70, -1, "x" * 300],
        "pairs": {(1, "a"): 2.0},
        "array": np.arange(3),
    }
    path = save({"model": state(), **beside}, pickle_protocol=4)
    check(path, state())
    assert "args, best, device, size, dtype and 6 more" in opened(path).notes[0]


def test_bytes_that_no_weight_owns_are_told(save):
    path = save({"model": state(), "optimizer": OPTIMIZER})
    assert "48 bytes of it belong to what is left out" in opened(path).notes[1]


def test_bare_tensors_are_numbered(save):
    check(save(seeded(2, 3)), {"0": seeded(2, 3)})
    check(save([seeded(2), seeded(3)]), {"0": seeded(2), "1": seeded(3)})


@pytest.mark.filterwarnings("ignore:Sparse", "ignore:torch.quantize", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"epoch": 3, "args": {"lr": 0.1}}, "holds no tensor.*epoch, args"),
        ({}, "holds no tensor"),
        ("text", "holds no tensor"),
        ({"opt": OPTIMIZER}, "holds no tensor.*opt"),
        ({"w": torch.eye(3).to_sparse()}, "'w' is sparse"),
        ({"w": torch.empty(3, device="meta")}, "'w' is on the meta device"),
        (torch.nn.Linear(2, 2), r"wants torch\.nn\.modules\.linear\.Linear, which is no tensor"),
        ({"a.b": seeded(2), "a": {"b": seeded(2)}}, "two tensors are called 'a.b'"),
    ],
)
def test_what_holds_no_plain_weights_is_refused_by_name(save, value, says):
    with pytest.raises(CheckpointError, match=f"^pytorch_model.bin: .*{says}"):
        opened(save(value))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_quantised_codes_are_listed_and_refused(save):
    codes = torch.quantize_per_tensor(seeded(3, 4), 0.1, 0, torch.qint8)
    checkpoint = opened(save({"q": codes, "w": seeded(2)}))
    assert [t.refusal for t in checkpoint.tensors] == ["the dtype QINT8 is not read", ""]
    assert checkpoint.tensors[0].nbytes == 12


def truncated(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"x", "expected a file of torch.save, found one that begins with b'x'"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS.*git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"GGUF\3\0\0\0", "GGUF file"),
        ((9).to_bytes(8, "little") + b'{"w":{}}', "safetensors file"),
        (bytes(200), "all zeros"),
        (b"PK\3\4" + bytes(100), "cut short"),
        (b"\x80\x02}q\x00.", "not one of torch.save"),
        (b"\x80\x02", "cut short"),
        (b"\x80\x04\x95", "cut short"),
        (bytes(257) + b"ustar" + bytes(300), "tar archive"),
        (b"\x80\xff\xff\xff", "no operation has the code 255"),
    ],
)
def test_what_is_no_file_of_torch_says_what_it_is(tmp_path, content, says):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"^pytorch_model.bin: .*{says}"):
        opened(path)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.999])
def test_a_file_that_was_cut_short_is_refused(save, share):
    path = save(state(more=seeded(50, 50)))
    truncated(path, int(path.stat().st_size * share))
    with pytest.raises(CheckpointError, match="cut short"):
        opened(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_other_zip_archives_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(CheckpointError, match="TorchScript"):
        opened(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights.txt", "1 2 3")
    with pytest.raises(CheckpointError, match=r"no data\.pkl, but 'weights\.txt'"):
        opened(path)


def test_another_byte_order_is_refused(tmp_path):
    good, path = tmp_path / "good.bin", tmp_path / "model.bin"
    torch.save(state(), good)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(path, "w") as archive:
        for entry in source.infolist():
            content = b"big" if entry.filename.endswith("byteorder") else source.read(entry)
            archive.writestr(entry.filename, content)
    with pytest.raises(CheckpointError, match="little-endian"):
        opened(path)


def test_archives_of_another_zip_writer_are_read(tmp_path):
    good, path = tmp_path / "good.bin", tmp_path / "model.bin"
    torch.save(state(), good)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(path, "w") as archive:
        for entry in source.infolist():
            with archive.open(entry.filename, "w", force_zip64=True) as target:
                target.write(source.read(entry))
        archive.comment = b"PK\5\6 a comment"
    check(path, state())


def test_archives_beyond_four_gigabytes_are_read(tmp_path):
    """A hole of 4 GiB before the storages: their places stand in the extra field."""
    good, path = tmp_path / "good.bin", tmp_path / "model.bin"
    torch.save(state(), good)
    with zipfile.ZipFile(good) as source, path.open("wb") as file:
        archive = zipfile.ZipFile(file, "w")
        entries = source.infolist()
        archive.writestr(entries[0].filename, source.read(entries[0]))
        archive.fp.seek(2**32 + 12_345)
        archive.start_dir = archive.fp.tell()
        for entry in entries[1:]:
            archive.writestr(entry.filename, source.read(entry))
        archive.close()
    assert path.stat().st_size > 2**32
    check(path, torch.load(path, weights_only=True, mmap=True))


def sharded(tmp_path: Path, weight_map: dict[str, str]) -> Path:
    """Files as save_pretrained of transformers 4 laid them out, written by hand."""
    folder = tmp_path / "model"
    folder.mkdir()
    torch.save({"a": seeded(3)}, folder / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": seeded(2, 2)}, folder / "pytorch_model-00002-of-00002.bin")
    index = {"metadata": {"total_size": 28}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


FIRST, SECOND = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"


def test_shards_are_read_through_their_index(tmp_path):
    folder = sharded(tmp_path, {"a": FIRST, "b": SECOND})
    check(folder, {"a": seeded(3), "b": seeded(2, 2)})
    (folder / "pytorch_model.bin.index.json").unlink()
    check(folder, {"a": seeded(3), "b": seeded(2, 2)})


@pytest.mark.parametrize(
    ("weight_map", "says"),
    [
        ({"a": FIRST, "b": "three.bin"}, "missing: three.bin"),
        ({"a": SECOND, "b": SECOND}, "'a' in pytorch_model-00002"),
        ({"a": FIRST, "c": SECOND}, "nowhere"),
        ({"a": "../x.bin"}, "outside"),
        (5, "weight_map"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(tmp_path, weight_map, says):
    with pytest.raises(CheckpointError, match=says):
        opened(sharded(tmp_path, weight_map))


def test_one_tensor_in_two_shards_is_refused(tmp_path):
    folder = sharded(tmp_path, {"a": FIRST, "b": SECOND})
    torch.save({"a": seeded(3)}, folder / SECOND)
    with pytest.raises(CheckpointError, match="'a' is also in"):
        opened(folder)


class CountingSource(LocalSource):
    """Counts what is read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.read_bytes = self.reads = 0

    def read(self, file: str, offset: int, size_bytes: int) -> bytes:
        self.read_bytes += size_bytes
        self.reads += 1
        return super().read(file, offset, size_bytes)


class RemoteSource(CountingSource):
    @property
    def remote(self) -> bool:
        return True


@pytest.mark.parametrize("kind", [CountingSource, RemoteSource])
def test_opening_reads_little_and_a_window_reads_its_own_bytes(save, kind):
    layers = {f"layers.{i}.w": seeded(400, 500) for i in range(30)}
    norms = {f"layers.{i}.norm": seeded(16) for i in range(300)}
    path = save({**layers, **norms})
    with closing(kind(path)) as source:
        checkpoint = open_checkpoint(source)
        assert source.read_bytes < path.stat().st_size / 10
        if source.remote:
            assert source.reads < 60
        before = source.read_bytes
        assert checkpoint.read(checkpoint.tensors[3], 1_000, 3_000).shape == (2_000,)
        assert source.read_bytes - before == 8_000


def test_no_more_than_one_tensor_is_in_memory(save):
    path = save(
        {f"w{i}": torch.zeros(1_000, 1_000) for i in range(16)} | {"t": seeded(900, 80).t()}
    )
    with closing(LocalSource(path)) as source:
        assert peak_bytes(lambda: open_checkpoint(source)) < 4_000_000
        checkpoint = open_checkpoint(source)
        tensor, transposed = checkpoint.tensors[5], checkpoint.tensors[-1]
        assert peak_bytes(lambda: checkpoint.read(tensor, 0, tensor.numel)) < 1.1 * tensor.nbytes
        assert peak_bytes(lambda: checkpoint.read(tensor, 0, 10_000)) < 100_000
        whole = peak_bytes(lambda: checkpoint.read(transposed, 0, transposed.numel))
        assert whole < 2.2 * transposed.nbytes


def test_analysis_equals_that_of_the_same_weights_as_safetensors(save, tmp_path):
    tensors = {
        "model.embed_tokens.weight": seeded(60, 16).half(),
        "model.layers.0.self_attn.q_proj.weight": seeded(16, 24).t(),
        "model.layers.0.mlp.up_proj.weight": seeded(16, 48)[:, ::2].bfloat16().t(),
        "model.layers.0.input_layernorm.weight": seeded(16),
    }
    path = save({"state_dict": {f"module.{k}": v for k, v in tensors.items()}, "epoch": 1})
    twin = tmp_path / "twin"
    twin.mkdir()
    save_file({name: t.contiguous() for name, t in tensors.items()}, twin / "model.safetensors")
    run = analyze(path.parent, out=tmp_path / "out")
    expected = analyze(twin, out=tmp_path / "expected")
    assert run.meta["coverage"]["complete"] and expected.meta["coverage"]["complete"]
    columns = ("param_name", "shape", "numel", "nbytes", "dtype", "std", "actual_rank")
    columns += ("svd_90_percent_rank", "block_type", "layer_index", "status")
    assert len(run.rows) == len(expected.rows)
    by_name = {row["param_name"]: row for row in expected.rows}
    for ours in run.rows:
        theirs = by_name[ours["param_name"]]
        assert [ours[c] for c in columns] == [theirs[c] for c in columns]
        if min(int(ours["rows"]), int(ours["cols"])) > 1:
            name, bound = str(ours["param_name"]), float(ours["sigma_error_bound"])
            np.testing.assert_allclose(run.spectrum(name), expected.spectrum(name), atol=2 * bound)


def fuzz(save, times: int) -> None:
    path = save({"model": state(t=seeded(4, 6).t(), h=seeded(3).half()), "epoch": 1})
    good = {path.name: path.read_bytes()}
    outcome = survive(path.parent / "fuzz", good, times=times)
    assert min(outcome.values()) > times / 100


def test_mutated_files_are_errors_and_never_crashes(save):
    fuzz(save, 1_000)


@pytest.mark.slow
def test_mutated_files_are_errors_and_never_crashes_long(save):
    fuzz(save, 20_000)
