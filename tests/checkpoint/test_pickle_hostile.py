"""Files made to do harm: nothing of them runs, and each is an error, in little memory."""

from __future__ import annotations

import io
import os
import pickle
import random
import re
import subprocess
import sys
import zipfile
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
import torch

from effort import lines_run
from mutation import read_all
from paramscope.checkpoint.open import open_checkpoint
from paramscope.errors import CheckpointError, ParamscopeError
from paramscope.source.local import LocalSource

MOST_RSS_BYTES = 500 * 2**20
MOST_STEPS = 1_000_000  # of a small file
MAGIC = 0x1950A86A20F9469CFC6C


def as_zip(program: bytes, storage: bytes = bytes(16), **options) -> bytes:
    """An archive of torch's layout around a pickle, with one storage, of key 0."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", storage)
    return file.getvalue()


def as_legacy(program: bytes, storage: bytes = bytes(16)) -> bytes:
    """A file of the old format around a pickle, with one storage of float32, of key 0."""
    keys = ["0"] if b"FloatStorage" in program else []
    start = b"".join(pickle.dumps(part, 2) for part in (MAGIC, 1001, {"little_endian": True}))
    count = (len(storage) // 4).to_bytes(8, "little")
    return start + program + pickle.dumps(keys, 2) + count + storage


FORMATS = {"zip": as_zip, "legacy": as_legacy}


def fails(path: Path, content: bytes) -> str:
    """The error that a file ends in."""
    path.write_bytes(content)
    with closing(LocalSource(path)) as source, pytest.raises(CheckpointError) as caught:
        open_checkpoint(source)
    message = str(caught.value)
    assert message.startswith(f"{path.name}: ")
    assert len(message) < 600 and message.isprintable()
    return message


@pytest.fixture
def mark(tmp_path) -> Path:
    """The file that a payload would make."""
    return tmp_path / "ran"


class Calls:
    """Pickled, it is a call of a function."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> object:
        return self.call


class SetsState:
    """Pickled, it has a state that its class would take."""

    def __getstate__(self) -> object:
        return {"path": "x"}

    def __setstate__(self, state: object) -> None:
        raise AssertionError("its state was set")


def touch(mark: Path) -> str:
    return f"open({str(mark)!r}, 'w').close()"


PAYLOADS = {
    "posix.system": lambda mark: Calls(os.system, f"touch {mark}"),
    "builtins.eval": lambda mark: Calls(eval, touch(mark)),
    "builtins.exec": lambda mark: Calls(exec, touch(mark)),
    "builtins.getattr": lambda mark: Calls(getattr, Calls(eval, touch(mark)), "x"),
    "posix.mkdir": lambda mark: Calls(os.mkdir, str(mark)),
    "io.open": lambda mark: Calls(open, str(mark), "w"),
    "torch.serialization.load": lambda mark: Calls(torch.load, str(mark)),
}


@pytest.mark.skipif(os.name == "nt", reason="posix.system")
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("wanted", PAYLOADS)
def test_a_call_is_refused_by_name_and_never_made(tmp_path, mark, wanted, form, protocol):
    payload = PAYLOADS[wanted](mark)
    program = pickle.dumps({"epoch": payload, "w": 1}, protocol)
    message = fails(tmp_path / "pytorch_model.bin", FORMATS[form](program))
    if protocol == 2:  # pickle writes the name that Python 2 had
        wanted = wanted.replace("builtins", "__builtin__")
    assert f"refused: its pickle wants {wanted}, which is no tensor" in message
    assert "Nothing of it was run" in message
    assert not mark.exists()


@pytest.mark.skipif(os.name == "nt", reason="posix.system")
def test_the_payloads_are_live(mark):
    """Pickle itself runs them: the other tests would see it."""
    pickle.loads(pickle.dumps(PAYLOADS["posix.system"](mark)))  # noqa: S301
    assert mark.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_payload_that_torch_saved_beside_weights_is_refused(tmp_path, mark, zipped):
    path = tmp_path / "model.bin"
    value = {"state_dict": {"w": torch.ones(3)}, "hook": PAYLOADS["builtins.eval"](mark)}
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    assert "wants __builtin__.eval" in fails(path, path.read_bytes())
    assert not mark.exists()


@pytest.mark.parametrize("form", FORMATS)
def test_an_object_with_a_state_is_refused_by_its_class(tmp_path, form):
    program = pickle.dumps({"x": SetsState()}, 2)
    assert "SetsState, which is no tensor" in fails(tmp_path / "m.bin", FORMATS[form](program))


def command(mark: Path) -> bytes:
    text = f"touch {mark}".encode()
    return b"X" + len(text).to_bytes(4, "little") + text


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\4tQ"
TENSOR = REBUILD + b"(" + STORAGE + b"K\0K\4\x85K\1\x85\x89}tR"
FROM_TYPE = b"ctorch._tensor\n_rebuild_from_type_v2\n"


def test_the_handmade_tensor_is_a_tensor(tmp_path):
    path = tmp_path / "model.bin"
    for form in FORMATS.values():
        path.write_bytes(form(b"\x80\2}" + text("w") + TENSOR + b"s."))
        with closing(LocalSource(path)) as source:
            assert [t.name for t in open_checkpoint(source).tensors] == ["w"]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("program", "says"),
    [
        (lambda c: b"cposix\nsystem\n" + c + b"\x85R", r"wants posix.system"),
        (lambda c: text("posix") + text("system") + b"\x93" + c + b"\x85R", "wants posix.system"),
        (lambda c: text("os") + text("sys\ntem") + b"\x93", r"wants os.sys\ntem"),
        (lambda c: b"N" + text("system") + b"\x93", "a name that is no text"),
        (lambda c: b"(" + c + b"iposix\nsystem\n", "the operation INST"),
        (lambda c: b"(cposix\nsystem\n" + c + b"o", "wants posix.system"),
        (lambda c: b"(" + c + b"o", "the operation OBJ"),
        (lambda c: b"cposix\nsystem\n" + c + b"\x85}\x92", "wants posix.system"),
        (lambda c: c + b"\x85}\x92", "the operation NEWOBJ_EX"),
        (lambda c: b"\x82\1", "the operation EXT1"),
        (lambda c: b"Pposix.system\n", "the operation PERSID"),
        (lambda c: c + b"Q", "no storage of a tensor"),
        (lambda c: text("module") + b"N" + c + b"\x87Q", "no storage of a tensor"),
        (lambda c: STORAGE.replace(b"K\4t", b"J\xff\xff\xff\xfft") + b"Q", "no storage"),
        (lambda c: b"c__builtin__\neval\n" + c + b"\x85R", "wants __builtin__.eval"),
        (lambda c: FROM_TYPE + b"(cposix\nsystem\nN" + c + b"\x85NtR", "wants posix.system"),
        (lambda c: FROM_TYPE + b"(" + FROM_TYPE + b"N)NtR", "other arguments"),
        (lambda c: REBUILD + c + b"\x85R", "other arguments"),
        (lambda c: c + b")R", "no function"),
        (lambda c: REBUILD + c + b"R", "no function"),
        (lambda c: c + b"}b", "attributes for something that has none"),
        (lambda c: TENSOR + b"}b", "attributes for something that has none"),
        (lambda c: c + c + b"a", "no list"),
        (lambda c: c + c + c + b"s", "no dict"),
        (lambda c: b"}(Nu", "a key without a value"),
        (lambda c: b"h\5", "has not made"),
        (lambda c: b"0", "an empty stack"),
        (lambda c: b"t", "an empty stack"),
        (lambda c: b"\x87", "an empty stack"),
        (lambda c: b"\x8b\xff\xff\xff\x7f", "a number of 2,147,483,647 bytes"),
        (lambda c: b"\x8e" + b"\xff" * 8, "cut short"),
        (lambda c: b"X\xff\xff\xff\xff", "cut short"),
        (lambda c: b"c" + b"a" * 2_000, "a name without an end"),
    ],
)
def test_a_program_that_torch_does_not_write_is_refused(tmp_path, mark, form, program, says):
    content = FORMATS[form](b"\x80\2" + program(command(mark)) + b".")
    assert says in fails(tmp_path / "pytorch_model.bin", content)
    assert not mark.exists()


def tensor(shape: bytes, strides: bytes, offset: bytes = b"K\0", count: bytes = b"K\4") -> bytes:
    storage = STORAGE.replace(b"K\4t", count + b"t")
    rebuilt = REBUILD + b"(" + storage + offset + shape + strides + b"\x89}tR"
    return b"\x80\2}" + text("layers.w") + rebuilt + b"s."


def number(value: int) -> bytes:
    return b"\x8a\x0c" + value.to_bytes(12, "little", signed=True)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("program", "says"),
    [
        (tensor(b"K\5\x85", b"K\1\x85"), "reaches to byte 20"),
        (tensor(b"K\2\x85", b"K\4\x85"), "reaches to byte 20"),
        (tensor(b"K\4\x85", b"K\1\x85", offset=b"K\1"), "reaches to byte 20"),
        (tensor(b"K\4\x85", b"J\xff\xff\xff\xff\x85"), "non-negative"),
        (tensor(b"J\xff\xff\xff\xff\x85", b"K\1\x85"), "non-negative"),
        (tensor(b"K\4\x85", b"K\1\x85", offset=b"J\xff\xff\xff\xff"), "non-negative"),
        (tensor(b"K\4\x85", b")"), "as many"),
        (tensor(b"N\x85", b"K\1\x85"), "as many"),
        (tensor(b"(" + b"K\1" * 40 + b"t", b"(" + b"K\1" * 40 + b"t"), "at most 32"),
        (tensor(number(2**70) + b"\x85", b"K\0\x85"), "non-negative"),
        (tensor(number(2**50) + b"\x85", b"K\0\x85"), "is expanded to"),
        (tensor((number(2**60) * 3) + b"\x87", b"K\0K\0K\0\x87"), "is expanded to"),
        (tensor(b"K\4\x85", b"K\1\x85", count=number(2**60)), ("storage of", "cut short")),
        (tensor(b"K\4\x85", b"K\1\x85", count=b"K\3"), ("storage of", "elements")),
        (tensor(b"K\4\x85", b"K\1\x85").replace(b"\x010", b"\x017"), ("not in", "no tensor uses")),
    ],
)
def test_a_tensor_outside_its_storage_is_refused_by_name(tmp_path, form, program, says):
    message = fails(tmp_path / "pytorch_model.bin", FORMATS[form](program))
    expected = says if isinstance(says, str) else says[list(FORMATS).index(form)]
    assert expected in message
    if form == "zip":
        assert "'layers.w'" in message


def doubling(pair: bytes, times: int) -> bytes:
    """A thing that holds the one before it twice, and so on: 2**times things in few bytes."""
    steps = (
        b"h" + bytes([i]) + b"h" + bytes([i]) + pair + b"q" + bytes([i + 1]) for i in range(times)
    )
    return b"".join(steps)


LEAF = b"\x80\2" + TENSOR + b"q\0"
BOMBS = {
    "tuples as keys": (
        b"\x80\2Nq\0" + doubling(b"\x86", 200) + b"q\xff}h\xffK\1s.",
        "holds no tensor",
    ),
    "tuples of tensors": (LEAF + doubling(b"\x86", 200) + b".", "its pickle names more than"),
    "dicts of tensors": (
        LEAF
        + b"".join(
            b"}"
            + text("a")
            + b"h"
            + bytes([i])
            + b"s"
            + text("b")
            + b"h"
            + bytes([i])
            + b"sq"
            + bytes([i + 1])
            for i in range(100)
        )
        + b".",
        "its pickle names more than",
    ),
    "a dict in itself": (
        b"\x80\2}q\0" + text("w") + TENSOR + b"s" + text("self") + b"h\0s.",
        "its pickle names more than",
    ),
    "a list in itself": (b"\x80\2]q\0h\0a.", "holds no tensor"),
    "wrapped in itself": (
        b"\x80\2}q\0" + text("w") + TENSOR + b"s" + text("model") + b"h\0s.",
        "two tensors are called 'w'",
    ),
    "a memo of 2**31": (b"\x80\2Nr\xff\xff\xff\x7f.", "holds no tensor"),
    "long names": (
        LEAF
        + b"".join(
            b"}X\0\4\0\0"
            + b"k" * 1024
            + b"h"
            + bytes([i])
            + b"s"
            + text("b")
            + b"h"
            + bytes([i])
            + b"sq"
            + bytes([i + 1])
            for i in range(100)
        )
        + b".",
        "at too great length",
    ),
    "colliding keys": (
        b"\x80\2}(" + b"".join(number(i * (2**61 - 1)) + b"N" for i in range(50_000)) + b"u.",
        "holds no tensor",
    ),
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_bomb_is_an_error(tmp_path, form, bomb):
    program, says = BOMBS[bomb]
    assert says in fails(tmp_path / "model.bin", FORMATS[form](program))


def full(body: bytes, each: int) -> bytes:
    """As many of these operations as are read at all."""
    return b"\x80\2" + body * (MOST_STEPS // each - 30) + b"."


LARGE = {
    "marks": lambda: b"\x80\2" + b"(" * 100_000_000,
    "nested lists": lambda: b"\x80\2" + b"(" * 50_000_000 + b"l" * 50_000_000,
    "nested tuples": lambda: b"\x80\2N" + b"\x85" * (MOST_STEPS - 30) + b".",
    "too many operations": lambda: b"\x80\2" + b"N0" * 30_000_000,
    "empty lists": lambda: full(b"]\x94", 2),
    "empty dicts": lambda: full(b"}\x94", 2),
    "filled dicts": lambda: full(b"}NNs", 4),
    "texts": lambda: full(text("a text of some length"), 2),
    "wide texts": lambda: full(b"\x8c\x0a\xf0\x9f\x98\x80abcdef", 2),
    "one wide text": lambda: (
        b"\x80\2X"
        + (60 * 2**20).to_bytes(4, "little")
        + b"\xf0\x9f\x98\x80".ljust(60 * 2**20, b"a")
    ),
    "storages": lambda: b"\x80\2" + STORAGE[:-1] + b"q\0" + full(b"h\0Q", 6)[2:],
    "tensors": lambda: (
        b"\x80\2("
        + STORAGE
        + b"K\0K\4\x85K\1\x85\x89}tq\0"
        + REBUILD
        + b"q\1("
        + b"h\1h\0R" * (MOST_STEPS // 7 - 20)
        + b"l."
    ),
    "tensors by name": lambda: LEAF + b"(" + b"h\0" * (MOST_STEPS - 60) + b"l.",
    "colliding keys": lambda: (
        b"\x80\2}("
        + b"".join(number(i * (2**61 - 1)) + b"N" for i in range(MOST_STEPS // 2 - 20))
        + b"u."
    ),
    "one long call": lambda: (
        b"\x80\2("
        + STORAGE
        + b"K\0K\4\x85K\1\x85"
        + b"N" * 500_000
        + b"tq\0"
        + REBUILD
        + b"q\1("
        + b"h\1h\0R" * 50_000
        + b"l."
    ),
    "one long call within": lambda: (
        b"\x80\2("
        + STORAGE
        + b"K\0K\4\x85K\1\x85"
        + b"N" * 500_000
        + b"tq\0"
        + REBUILD
        + b"q\1"
        + FROM_TYPE
        + b"q\2(h\1Nh\0Ntq\3("
        + b"h\2h\3R" * 50_000
        + b"l."
    ),
    "one long storage": lambda: (
        b"\x80\2(" + STORAGE[1:-2] + b"N" * 500_000 + b"tq\0(" + b"h\0Q" * 50_000 + b"l."
    ),
    "one long shape": lambda: (
        b"\x80\2("
        + STORAGE
        + b"K\0("
        + b"K\1" * 250_000
        + b"tq\0h\0\x89}tq\1"
        + REBUILD
        + b"q\2("
        + b"h\2h\1R" * 50_000
        + b"l."
    ),
    "long metadata": lambda: (
        b"\x80\2("
        + STORAGE
        + b"K\0K\4\x85K\1\x85\x89}}("
        + b"NN" * 250_000
        + b"utq\1"
        + REBUILD
        + b"q\2("
        + b"h\2h\1R" * 50_000
        + b"l."
    ),
    "bytes that are no text": lambda: (
        b"\x80\2X" + (60 * 2**20).to_bytes(4, "little") + b"\xff" * (60 * 2**20) + b"."
    ),
    "pairs": lambda: (
        b"\x80\2]("
        + b"NN\x86" * 290_000
        + b"eq\0ccollections\nOrderedDict\nq\1"
        + b"h\1h\0\x85R" * 10_000
        + b"."
    ),
}
OPEN = """
import sys, time
from pathlib import Path
from paramscope.checkpoint.open import open_checkpoint
from paramscope.errors import ParamscopeError
from paramscope.source.local import LocalSource
try:
    open_checkpoint(LocalSource(Path(sys.argv[1])))
except ParamscopeError as error:
    status = Path("/proc/self/status").read_text()
    print(status.split("VmHWM:")[1].split()[0], error)
"""


def peak_rss_bytes(path: Path, content: bytes) -> int:
    """The most memory that a process of its own took until the error."""
    path.write_bytes(content)
    found = subprocess.run(
        [sys.executable, "-c", OPEN, path], capture_output=True, text=True, check=True
    )
    kilobytes, *message = found.stdout.split(" ", 1)
    assert message[0].startswith(path.name), found.stderr
    return int(kilobytes) * 1024


QUICK = ("marks", "too many operations", "tensors by name")


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "bomb",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in LARGE],
)
def test_a_large_bomb_is_an_error_within_500_mb(tmp_path, form, bomb):
    content = FORMATS[form](LARGE[bomb]())
    assert peak_rss_bytes(tmp_path / "model.bin", content) < MOST_RSS_BYTES


def random_programs(tmp_path: Path, times: int) -> None:
    """Pieces of good programs in any order, a few bytes of them changed."""
    rng = random.Random(1)
    pieces = [TENSOR, STORAGE, REBUILD, FROM_TYPE, text("w"), text("model"), b"h\0", b"q\0"]
    pieces += [bytes([code]) for code in b"(}]).tNuseal0\x85\x86\x87\x93\x94RQb"]
    pieces += [b"ccollections\nOrderedDict\n)R", b"K\1", number(2**62), b"\x80\2"]
    path = tmp_path / "model.bin"
    outcomes: Counter[str] = Counter()
    for index in range(times):
        body = bytearray(b"".join(rng.choices(pieces, k=rng.randint(1, 25))))
        for _ in range(rng.choice((0, 0, 1, 3))):
            body[rng.randrange(len(body))] = rng.randrange(256)
        program = b"\x80\2}" + text("model") + bytes(body) + rng.choice((b"s.", b"."))
        path.write_bytes((as_zip, as_legacy)[index % 2](program))
        try:
            read_all(path)
        except ParamscopeError as error:
            outcomes[re.sub(r"[^a-z ].*", "", str(error)[11:])] += 1
        else:
            outcomes["read"] += 1
    assert outcomes["read"] and len(outcomes) > 5


def test_random_programs_are_errors_and_never_crashes(tmp_path):
    random_programs(tmp_path, 2_000)


@pytest.mark.slow
def test_random_programs_are_errors_and_never_crashes_long(tmp_path):
    random_programs(tmp_path, 50_000)


def test_a_compressed_archive_is_refused_unread(tmp_path):
    bomb = as_zip(b"(" * 100_000_000, compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 200_000
    assert "compressed" in fails(tmp_path / "model.bin", bomb)
    packed = as_zip(tensor(b"K\4\x85", b"K\1\x85"), compression=zipfile.ZIP_DEFLATED)
    assert "compressed" in fails(tmp_path / "model.bin", packed)


def directory_at(archive: bytes) -> int:
    return archive.index(b"PK\1\2")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda z, d: z[: d + 24] + b"\xff\xff\xff\x7f" + z[d + 28 :], "compressed"),
        (lambda z, d: z[: d + 20] + b"\xff\xff\xff\x7f" * 2 + z[d + 28 :], "overlaps"),
        (lambda z, d: z[: d + 42] + b"\xff\xff\xff\x7f" + z[d + 46 :], "overlaps"),
        (lambda z, d: z[: d + 42] + b"\1\0\0\0" + z[d + 46 :], "overlaps"),
        (lambda z, d: z[: d + 8] + b"\1\0" + z[d + 10 :], "encrypted"),
        (lambda z, d: z[:d] + b"XX" + z[d + 2 :], "damaged"),
        (lambda z, d: z[:-6] + b"\xff\xff\xff\x7f\0\0", "longer than the file"),
        (lambda z, d: z[:-1], "cut short"),
        (lambda z, d: z.replace(b"data/0", b"byteor").replace(b"byteorder", b"byteorxxx"), ""),
    ],
)
def test_a_damaged_directory_is_refused(tmp_path, damage, says):
    good = as_zip(tensor(b"K\4\x85", b"K\1\x85"))
    assert says in fails(tmp_path / "model.bin", damage(good, directory_at(good)))


def test_long_names_that_are_no_text_are_refused(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for index in range(200):
            archive.writestr(f"{index:03}" + "z" * 60_000, b"")
    content = file.getvalue().replace(b"z" * 60_000, b"\xff" * 60_000)
    assert "no data.pkl" in fails(tmp_path / "model.bin", content)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_entries_of_one_name_are_refused(tmp_path):
    file = io.BytesIO(as_zip(tensor(b"K\4\x85", b"K\1\x85")))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("archive/data/0", bytes(16))
    assert "twice" in fails(tmp_path / "model.bin", file.getvalue())


def test_the_work_grows_with_the_entries_and_no_faster(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\2}.")
        for index in range(40_000):
            archive.writestr(f"archive/data/{index}", b"")
    content = file.getvalue()

    def refused():
        assert "holds no tensor" in fails(tmp_path / "model.bin", content)

    assert lines_run(refused) < 200 * 40_000
