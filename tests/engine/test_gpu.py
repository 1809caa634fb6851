"""The GPU's route, its logic on torch's CPU device: values, lack of memory, who takes what."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

import numpy as np
import pytest

import paramscope
from handmade import RATES
from paramscope import pipeline
from paramscope.checkpoint.dtypes import DTYPES
from paramscope.device import choose_gpus
from paramscope.engine import gpu, plan
from paramscope.engine.gpu import Gpu, measure_gpu_rates
from paramscope.engine.gram import CPU
from paramscope.engine.local import _Room, _Schedule
from paramscope.engine.plan import Task
from paramscope.errors import DeviceError
from paramscope.measure.rank import actual_rank
from paramscope.measure.spectrum import spectrum_of_eigenvalues

torch = pytest.importorskip("torch")
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
    for device in (CPU, Gpu("cpu")):
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


def schedule_of(tasks, *, gpu_bytes=100, budget_bytes=100):
    return _Schedule(list(tasks), _Room(budget_bytes), {"cuda:0": _Room(gpu_bytes)})


def test_the_gpu_takes_the_costliest_and_cores_what_it_would_not_come_to_sooner(monkeypatch):
    monkeypatch.setattr("paramscope.engine.local.THREADS", 1)
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
    alike = [task(9.0, 1.0, batch=3, pattern=("a",), memory_bytes=30, gpu_bytes=5) for _ in "12345"]
    other = task(8.0, 1.0, batch=3, pattern=("b",), memory_bytes=30, gpu_bytes=5)
    schedule = schedule_of([*alike, other])
    first = schedule.take("cuda:0")
    assert [t.pattern for t in first] == [("a",)] * 3
    schedule.give_back(first, "cuda:0")
    second = schedule.take("cuda:0")
    assert [t.pattern for t in second] == [("a",)] * 2
    schedule.give_back(second, "cuda:0")
    assert schedule.take("cuda:0") == [other]
    assert len(schedule_of(alike, budget_bytes=65).take("cuda:0")) == 2


def test_a_gpu_starts_no_more_than_its_memory_holds():
    schedule = schedule_of([task(9.0, 1.0, gpu_bytes=80), task(8.0, 1.0, gpu_bytes=30)])
    (first,) = schedule.take("cuda:0")
    taken = []
    waiting = threading.Thread(target=lambda: taken.extend(schedule.take("cuda:0")), daemon=True)
    waiting.start()
    waiting.join(0.1)
    assert not taken
    schedule.give_back([first], "cuda:0")
    waiting.join(5)
    assert [t.gpu_bytes for t in taken] == [30]


def test_rates_of_a_device_are_positive():
    rates = measure_gpu_rates("cpu")
    assert rates.gram_flops > 0
    assert all(time_s > 0 for _, time_s in (*rates.eigen_s, *rates.batch_s))


def test_cuda_asked_for_and_absent_is_an_error_and_auto_is_not():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(DeviceError, match="❌ CUDA not available"):
        choose_gpus("cuda")
    assert choose_gpus("auto") == choose_gpus("cpu") == ()


def pretend_there_are_gpus(monkeypatch, *, working: int, broken: int = 0):
    ones = torch.ones

    def ones_there(*size, device=None, **kwargs):
        if int(device.partition(":")[2]) >= working:
            raise RuntimeError("CUDA error: all devices are busy\nsee the manual")
        return ones(*size, **kwargs)

    monkeypatch.setattr("paramscope.device._driver_is_installed", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: working + broken)
    monkeypatch.setattr(torch, "ones", ones_there)


def test_gpus_that_take_no_work_are_left_out(monkeypatch):
    pretend_there_are_gpus(monkeypatch, working=2, broken=1)
    assert choose_gpus("auto") == choose_gpus("cuda") == ("cuda:0", "cuda:1")
    pretend_there_are_gpus(monkeypatch, working=0, broken=1)
    assert choose_gpus("auto") == ()
    with pytest.raises(DeviceError, match=r"❌ CUDA not available: cuda:0: .* busy\. Use --device"):
        choose_gpus("cuda")


def test_a_gpu_that_was_not_asked_for_is_looked_for_where_it_pays(
    write_checkpoint, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(pipeline, "choose_gpus", lambda name: asked.append(name) or ())
    model = write_checkpoint({"w": np.ones((4, 3))})
    for number, device in enumerate(("auto", "cuda", "cpu")):
        paramscope.analyze(model, out=tmp_path / str(number), device=device)
    assert asked == ["cuda", "cpu"]
    monkeypatch.setattr(pipeline, "_WORTH_A_GPU_S", 0.0)
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
    """Three matrices of one shape, as on a core; and the same with a device beside the core."""
    from test_local import results

    rng = np.random.default_rng(0)
    folder = write_checkpoint({n: rng.standard_normal((40, 24)) for n in "abc"})

    def found(**who):
        return results(folder, workers=1, **who)

    return found


@pytest.mark.parametrize("call", ["eigvalsh", "zeros", "stack"])
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("rates", [FAST, BATCHED])
def test_what_a_device_cannot_do_falls_back_to_the_cpu(
    alike, call, error, rates, monkeypatch, caplog
):
    def fail(*args, **kwargs):
        raise ERRORS[error]

    reference = alike()
    monkeypatch.setattr(torch.linalg if call == "eigvalsh" else torch, call, fail)
    with caplog.at_level(logging.WARNING):
        found = alike(gpus=("cpu",), gpu=rates)
    problem = "OOM"
    if error == "failed":
        problem = "failed (cusolver error: CUSOLVER_STATUS_EXECUTION_FAILED)"
    texts = [record.getMessage() for record in caplog.records]
    one_by_one = call == "stack"  # together there was no room; one by one there was
    text = f"⚠️  GPU {problem}, falling back to CPU for matrix (40, 24)"
    assert texts == ([] if one_by_one else [text] * 3)
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
    found = results(folder, gpus=("cpu",), gpu=rates)
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
