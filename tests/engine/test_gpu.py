"""The GPU's route, on torch's CPU device where there is none: values, memory, who takes what."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import threading
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

import paramscope
from handmade import RATES
from paramscope import planning, structure
from paramscope.anatomy.dissect import dissect
from paramscope.checkpoint.dtypes import DTYPES
from paramscope.checkpoint.open import open_checkpoint
from paramscope.device import choose_gpus
from paramscope.engine import Crew, Settings, gpu, plan
from paramscope.engine.calibration import calibration_path
from paramscope.engine.gpu import Gpu, measure_gpu_rates
from paramscope.engine.gram import CPU, GpuError
from paramscope.engine.plan import Task
from paramscope.engine.schedule import Room, Schedule
from paramscope.errors import DeviceError, SourceError
from paramscope.measure.rank import actual_rank
from paramscope.measure.spectrum import spectrum_of_eigenvalues
from paramscope.source.local import LocalSource

torch = pytest.importorskip("torch")
DEVICE = "cuda:0" if torch.cuda.is_available() else "cpu"
SETTINGS_OF_A_TASK = {"matrices": (), "settings": None, "span": (0, 0), "streamed": False}
FAST = replace(RATES, gram_flops=1e15, eigen_s=((64, 1e-9), (256, 1e-8)))
BATCHED = replace(FAST, batch_s=((64, 1e-10), (256, 1e-9)))


@pytest.mark.parametrize("name", ["BF16", "F16", "F32", "F64", "I8"])
@pytest.mark.parametrize("transposed", [False, True])
def test_both_devices_agree_within_their_bounds(name, transposed, monkeypatch):
    monkeypatch.setattr(gpu, "_COPY_BYTES", 8 * 30 * 7)
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((90, 30)) * 3)
    kinds = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    stored = x.to({**kinds, "F64": torch.float64, "I8": torch.int8}[name])
    code = {1: np.uint8, 2: np.uint16, 4: np.float32, 8: np.float64}[stored.element_size()]
    views = {1: torch.uint8, 2: torch.uint16}
    codes = stored.view(views.get(stored.element_size(), stored.dtype)).numpy().view(code)
    if transposed:
        codes = np.ascontiguousarray(codes.T).T
    codes.flags.writeable = False
    spectra = []
    for device in (CPU, Gpu(DEVICE)):
        gram = device.empty(30)
        gram.add(codes[:50], DTYPES[name])
        gram.add(codes[50:], DTYPES[name])
        (eigenvalues,) = device.eigenvalues([gram])
        spectra.append(spectrum_of_eigenvalues(eigenvalues, long_side=90))
    a, b = spectra
    assert np.abs(a.s - b.s).max() <= a.error_bound + b.error_bound
    truth = np.linalg.svd(stored.to(torch.float64).numpy(), compute_uv=False)
    assert np.abs(b.s - truth).max() <= b.error_bound


def task(time_s: float, gpu_time_s: float | None, **changes) -> Task:
    return Task(
        **SETTINGS_OF_A_TASK,
        **{"block_elements": 1, "memory_bytes": 1, **changes},
        time_s=time_s,
        gpu_time_s=gpu_time_s,
    )


def schedule_of(tasks, *, gpu_bytes=100, budget_bytes=100, threads=1):
    return Schedule(tasks, Room(budget_bytes), {"cuda:0": Room(gpu_bytes)}, threads)


def test_the_gpu_takes_the_costliest_and_cores_what_it_would_not_come_to_sooner():
    tasks = [task(9.0, 1.0), task(8.0, 0.9), task(2.0, 0.5), task(0.1, 0.05), task(0.01, None)]
    schedule = schedule_of(tasks)
    assert schedule.take() == [tasks[4]]
    assert schedule.take("cuda:0") == [tasks[0]]
    assert schedule.take() == [tasks[3]]
    assert schedule.take("cuda:0") == [tasks[1]]
    assert schedule.take("cuda:0") == [tasks[2]]
    assert schedule.take("cuda:0") == []


def test_a_gpu_leaves_what_cores_do_faster():
    schedule = schedule_of([task(1.0, None)])
    assert schedule.take("cuda:0") == []
    assert len(schedule.take()) == 1


def test_alike_tasks_are_taken_together_as_far_as_memory_reaches():
    alike = [task(9.0, 1.0, batch=3, pattern=1, memory_bytes=30, gpu_bytes=5) for _ in "12345"]
    other = task(8.0, 1.0, batch=3, pattern=2, memory_bytes=30, gpu_bytes=5)
    schedule = schedule_of([*alike, other])
    first = schedule.take("cuda:0")
    assert [t.pattern for t in first] == [1] * 3
    schedule.give_back(first, "cuda:0")
    second = schedule.take("cuda:0")
    assert [t.pattern for t in second] == [1] * 2
    schedule.give_back(second, "cuda:0")
    assert schedule.take("cuda:0") == [other]
    assert len(schedule_of(alike, budget_bytes=65).take("cuda:0")) == 2


def test_every_thread_of_a_gpu_gets_its_share_of_those_alike():
    alike = [task(9.0, 1.0, batch=30, pattern=1) for _ in range(10)]
    schedule = schedule_of(alike, threads=4)
    assert [len(schedule.take("cuda:0")) for _ in range(4)] == [3, 2, 2, 1]


def test_cores_do_what_a_gpu_leaves_behind():
    schedule = schedule_of([task(9.0, 1.0), task(8.0, 1.0)], threads=2)
    taken = []
    waiting = threading.Thread(target=lambda: taken.extend(schedule.take()), daemon=True)
    waiting.start()
    schedule.leave("cuda:0")
    waiting.join(0.1)
    assert not taken
    schedule.leave("cuda:0")
    waiting.join()
    assert [t.time_s for t in taken] == [9.0]


def test_alike_tasks_stay_together_though_others_cost_the_same(write_checkpoint):
    shapes = [(64, 48), (48, 64)] * 6
    folder = write_checkpoint({str(i): np.ones(shape) for i, shape in enumerate(shapes)})
    with closing(LocalSource(folder)) as source:
        tasks = plan.plan(dissect(open_checkpoint(source).tensors, {}), Settings(), RATES)
    patterns = [t.pattern for t in tasks]
    assert len(set(patterns)) == 2
    assert patterns == sorted(patterns, key=patterns.index)


def test_a_gpu_starts_no_more_than_its_memory_holds():
    schedule = schedule_of([task(9.0, 1.0, gpu_bytes=80), task(8.0, 1.0, gpu_bytes=30)])
    (first,) = schedule.take("cuda:0")
    taken = []
    waiting = threading.Thread(target=lambda: taken.extend(schedule.take("cuda:0")), daemon=True)
    waiting.start()
    waiting.join(0.1)
    assert not taken
    schedule.give_back([first], "cuda:0")
    waiting.join()
    assert [t.gpu_bytes for t in taken] == [30]


@pytest.fixture
def small(monkeypatch):
    """So that measuring a device takes no time."""
    monkeypatch.setattr(gpu, "_GRAM_SIZE", 128)
    monkeypatch.setattr(gpu, "_EIGEN_SIZES", (16, 64, 128))
    monkeypatch.setattr(gpu, "_BATCH_SIZES", (16, 64))


def test_rates_of_a_device_are_positive(small):
    rates = measure_gpu_rates(DEVICE)
    assert min(rates.gram_flops, rates.decode_s) > 0
    assert all(time_s > 0 for _, time_s in (*rates.eigen_s, *rates.batch_s))


def test_a_device_is_measured_once_a_day(small, monkeypatch, tmp_path):
    monkeypatch.setenv("PARAMSCOPE_CACHE", str(tmp_path))
    measured = []
    monkeypatch.setattr(gpu, "measure_gpu_rates", lambda name: measured.append(name) or RATES)
    days = iter([(2026, 1, 1), (2026, 1, 1), (2026, 1, 2)])

    class Dates(datetime.date):
        @classmethod
        def today(cls):
            return cls(*next(days))

    monkeypatch.setattr(datetime, "date", Dates)
    for times in (1, 1, 2):
        assert gpu.gpu_rates(DEVICE) == RATES
        assert len(measured) == times
    assert len(json.loads(calibration_path().read_text())) == 1


@pytest.mark.parametrize("problem", [GpuError("no stream to give"), MemoryError("none left")])
def test_a_thread_that_fails_while_rates_are_measured_leaves_none_waiting(
    small, problem, monkeypatch
):
    streams = []

    @contextlib.contextmanager
    def only_some(self):
        streams.append(self)
        if len(streams) % gpu.GPU_THREADS == 0:
            raise problem
        yield

    monkeypatch.setattr(Gpu, "own_stream", only_some)
    with pytest.raises(type(problem), match=str(problem)):
        measure_gpu_rates(DEVICE)


def test_cuda_asked_for_and_absent_is_an_error_and_auto_is_not():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(DeviceError, match="❌ CUDA not available"):
        choose_gpus("cuda")
    assert choose_gpus("auto") == choose_gpus("cpu") == ()


def pretend_there_are_gpus(monkeypatch, *, working: int, broken: int = 0, **kinds: str):
    eye = torch.eye

    def eye_there(n, device=None, **kwargs):
        if int(device.partition(":")[2]) >= working:
            raise RuntimeError("CUDA error: all devices are busy\nsee the manual")
        return eye(n, **kwargs)

    monkeypatch.setattr("paramscope.device._driver_is_installed", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: working + broken)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda name: kinds.get(name, "a card"))
    monkeypatch.setattr(torch, "eye", eye_there)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda name: (2**30, 2**31))


def test_gpus_that_take_no_work_are_left_out(monkeypatch):
    pretend_there_are_gpus(monkeypatch, working=2, broken=1)
    assert choose_gpus("auto") == choose_gpus("cuda") == ("cuda:0", "cuda:1")
    pretend_there_are_gpus(monkeypatch, working=0, broken=1)
    assert choose_gpus("auto") == ()
    with pytest.raises(DeviceError, match=r"❌ CUDA not available: cuda:0: .* busy\. Use --device"):
        choose_gpus("cuda")


def test_gpus_of_another_kind_than_the_first_are_left_out(monkeypatch):
    pretend_there_are_gpus(monkeypatch, working=3, **{"cuda:1": "a small one"})
    assert choose_gpus("auto") == ("cuda:0", "cuda:2")


def test_a_gpu_that_was_not_asked_for_is_looked_for_where_it_pays(
    write_checkpoint, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(planning, "choose_gpus", lambda name: asked.append(name) or ())
    model = write_checkpoint({"w": np.ones((4, 3))})
    for number, device in enumerate(("auto", "cuda", "cpu")):
        paramscope.analyze(model, out=tmp_path / str(number), device=device)
    assert asked == ["cuda", "cpu"]
    monkeypatch.setattr(planning, "_WORTH_A_GPU_S", 0.0)
    paramscope.analyze(model, out=tmp_path / "again")
    assert asked[2:] == ["auto"]


ERRORS = {
    "OOM": torch.OutOfMemoryError("CUDA out of memory"),
    "OOM of a library": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling …"),
    "failed": torch.linalg.LinAlgError("cusolver error: CUSOLVER_STATUS_EXECUTION_FAILED\nmore"),
}


@pytest.fixture
def none_is_light(monkeypatch):
    """So that small matrices go to the device too."""
    monkeypatch.setattr(plan, "_LIGHT_S", 0.0)


@pytest.fixture
def alike(write_checkpoint, none_is_light):
    """Four matrices of one shape, as on a core; and the same with a device beside the core."""
    from test_local import results

    rng = np.random.default_rng(0)
    folder = write_checkpoint({n: rng.standard_normal((40, 24)) for n in "abcd"})

    def found(workers=1, **who):
        return results(folder, workers=workers, **who)

    return found


@pytest.mark.parametrize(
    ("call", "rates"), [("eigvalsh", FAST), ("zeros", FAST), ("zeros", BATCHED), ("stack", BATCHED)]
)
@pytest.mark.parametrize("error", ERRORS)
def test_what_a_device_cannot_do_falls_back_to_the_cpu(
    alike, call, error, rates, monkeypatch, caplog
):
    called = []
    solve = torch.linalg.eigvalsh

    def fail(*args, **kwargs):
        if call == "eigvalsh" and args[0].shape == (2, 2):  # a look whether the device works
            return solve(*args)
        called.append(args)
        raise ERRORS[error]

    reference = alike()
    monkeypatch.setattr(torch.linalg if call == "eigvalsh" else torch, call, fail)
    with caplog.at_level(logging.WARNING):
        found = alike(workers=0, gpus=(DEVICE,), gpu=rates)
    problem = "OOM"
    if error == "failed":
        problem = "failed (cusolver error: CUSOLVER_STATUS_EXECUTION_FAILED)"
    assert called
    texts = [record.getMessage() for record in caplog.records]
    one_by_one = call == "stack"  # together there was no room; one by one there was
    text = f"⚠️  GPU {problem}, falling back to CPU for matrix (40, 24)"
    assert texts == ([] if one_by_one else [text] * 4)
    for name, result in found.items():
        bound = result.spectrum.error_bound + reference[name].spectrum.error_bound
        assert np.abs(result.spectrum.s - reference[name].spectrum.s).max() <= bound
        assert result.stats == reference[name].stats


@pytest.mark.parametrize("rates", [FAST, BATCHED])
def test_a_device_and_cores_together_give_the_same_ranks(
    write_checkpoint, none_is_light, monkeypatch, rates
):
    from test_local import results

    solved = []
    solve = torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda A: solved.append(A.shape) or solve(A))

    rng = np.random.default_rng(0)
    tensors = {f"matrix{i}": rng.standard_normal((40, 30 + i // 5)) for i in range(20)}
    tensors["matrix7"][3, 3] = np.nan
    tensors["matrix8"][:, 20:] = 0.0
    folder = write_checkpoint(tensors)
    reference = results(folder)
    found = results(folder, workers=0, gpus=(DEVICE,), gpu=rates)
    assert set(found) == set(tensors)
    for name, result in found.items():
        assert result.stats == reference[name].stats or name == "matrix7"
        assert (result.status, result.reason) == (reference[name].status, reference[name].reason)
        if result.spectrum is not None:
            s, true = result.spectrum.s, reference[name].spectrum.s
            bound = result.spectrum.error_bound + reference[name].spectrum.error_bound
            assert np.abs(s - true).max() <= bound
            assert actual_rank(s) == actual_rank(true)
    assert found["matrix7"].status == "failed"
    together = [shape[0] for shape in solved if len(shape) == 3]
    assert bool(together) == (rates is BATCHED)
    assert max(together, default=5) == 5


def test_threads_that_serve_gpus_are_not_the_cores():
    assert Crew(16, 1).core_threads == 16
    assert Crew(16, 1, ("cuda:0", "cuda:1"), 4).core_threads == 8
    assert Crew(2, 1, ("cuda:0",), 4).core_threads == 1


def test_threads_that_have_served_a_gpu_help_the_cores(alike, monkeypatch):
    names = []
    solve = np.linalg.eigvalsh

    def noted(*args, **options):
        names.append(threading.get_ident())
        met.wait()  # two at a time, or this hangs
        return solve(*args, **options)

    met = threading.Barrier(2)
    monkeypatch.setattr(np.linalg, "eigvalsh", noted)
    slow = replace(RATES, eigen_s=((64, 1e3), (256, 1e4)))  # so that it takes nothing
    found = alike(workers=2, gpus=(DEVICE,), threads_per_gpu=4, gpu=slow)
    assert len(found) == 4
    assert len(set(names)) == 2


@pytest.mark.parametrize("breaks", ["at once", "a stream", "later"])
def test_cores_take_over_from_a_gpu_that_breaks(alike, breaks, monkeypatch, caplog):
    solve = torch.linalg.eigvalsh
    solved = []

    def broken(A):
        solved.append(A.shape)
        if breaks == "at once" or (breaks == "later" and len(solved) > 1):
            raise RuntimeError("CUDA error: unspecified launch failure\nmore")
        return solve(A)

    @contextlib.contextmanager
    def no_stream(self):
        raise GpuError("no stream to give")
        yield

    reference = alike()
    monkeypatch.setattr(torch.linalg, "eigvalsh", broken)
    if breaks == "a stream":
        monkeypatch.setattr(Gpu, "own_stream", no_stream)
    with caplog.at_level(logging.WARNING):
        found = alike(gpus=(DEVICE,), gpu=FAST)
    assert set(found) == set(reference)
    assert all(result.status == "ok" for result in found.values())
    texts = [record.getMessage() for record in caplog.records]
    telling = [text for text in texts if text.startswith(f"⚠️  GPU {DEVICE} takes no")]
    assert len(telling) == 1


def test_a_gpu_that_cannot_be_measured_is_left_out_or_an_error(
    write_checkpoint, tmp_path, monkeypatch, caplog
):
    def full(name):
        raise GpuError("CUDA out of memory")

    monkeypatch.setattr(planning, "_WORTH_A_GPU_S", 0.0)
    monkeypatch.setattr(planning, "choose_gpus", lambda name: ("cuda:0",))
    monkeypatch.setattr(planning, "gpu_rates", full)
    model = write_checkpoint({"w": np.ones((4, 3))})
    with caplog.at_level(logging.WARNING):
        run = paramscope.analyze(model, out=tmp_path / "run")
    assert run.meta["device"]["gpus"] == []
    assert caplog.messages == [
        "⚠️  GPU cuda:0 takes no work now (CUDA out of memory), going on without"
    ]
    with pytest.raises(DeviceError, match="❌ CUDA not available: cuda:0 takes no work now"):
        paramscope.analyze(model, out=tmp_path / "other", device="cuda")
    paramscope.analyze(model, out=tmp_path / "run")  # is whole: no GPU is asked for anything


def test_inspect_reckons_with_a_gpu_where_it_is_asked_to(write_checkpoint, monkeypatch):
    from paramscope.views.structure_view import structure_view

    monkeypatch.setattr(planning, "choose_gpus", lambda name: ("cuda:0",) if name != "cpu" else ())
    monkeypatch.setattr(planning, "rates", lambda largest_k: RATES)
    monkeypatch.setattr(planning, "gpu_rates", lambda name: FAST)
    monkeypatch.setattr(planning, "worker_count", lambda: 2)
    monkeypatch.setattr(Gpu, "prepare", lambda self: 2**40)
    monkeypatch.setattr(structure, "gpu_name", lambda name: "A Card")
    model = write_checkpoint({f"{n}": np.zeros((4000, 2000), np.float32) for n in range(8)})
    on_cores, with_gpu = (paramscope.inspect(model, device=name) for name in ("cpu", "cuda"))
    assert (on_cores.gpus, with_gpu.gpus) == ((), ("A Card",))
    assert with_gpu.time_s < on_cores.time_s
    assert with_gpu.memory_bytes > on_cores.memory_bytes
    lines = list(structure_view(with_gpu))
    assert "GPUs:       1 × A Card" in lines
    assert lines[-1].startswith("A full analysis on the GPUs and cores here takes about")


def test_an_error_of_reading_one_of_a_batch_ends_the_run(write_checkpoint, none_is_light):
    from test_local import results

    def broken(checkpoint):
        def read(tensor, start, stop):
            raise SourceError("the disk is gone")

        return replace(checkpoint, read_stored=read)

    folder = write_checkpoint({n: np.ones((40, 24)) for n in "abc"})
    with pytest.raises(SourceError, match="the disk is gone"):
        results(folder, change=broken, gpus=(DEVICE,), gpu=BATCHED)
