"""The GPU's route, its logic on torch's CPU device: values, lack of memory, who takes what."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from handmade import RATES
from paramscope.checkpoint.dtypes import DTYPES
from paramscope.device import choose_gpus
from paramscope.engine import gpu
from paramscope.engine.gpu import GpuGram, measure_gpu_rates
from paramscope.engine.gram import CpuGram
from paramscope.engine.local import _Schedule
from paramscope.engine.plan import Task
from paramscope.errors import DeviceError

torch = pytest.importorskip("torch")
SETTINGS_OF_A_TASK = {"matrices": (), "settings": None, "span": (0, 0), "streamed": False}


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
    for gram in (CpuGram(30), GpuGram(30, "cpu")):
        gram.add(codes[:50], DTYPES[name])
        gram.add(codes[50:], DTYPES[name])
        spectra.append(gram.spectrum(long_side=90))
    a, b = spectra
    assert np.abs(a.s - b.s).max() <= a.error_bound + b.error_bound
    truth = np.linalg.svd(stored.to(torch.float64).numpy(), compute_uv=False)
    assert np.abs(b.s - truth).max() <= b.error_bound


def task(time_s: float, gpu_time_s: float | None) -> Task:
    return Task(
        **SETTINGS_OF_A_TASK, block_elements=1, memory_bytes=1, time_s=time_s, gpu_time_s=gpu_time_s
    )


def test_the_gpu_takes_the_costliest_and_cores_what_it_would_not_come_to_sooner():
    tasks = [task(9.0, 1.0), task(8.0, 0.9), task(2.0, 0.5), task(0.1, 0.05), task(0.01, None)]
    schedule = _Schedule(list(tasks), 100, gpus=1)
    assert schedule.take() is tasks[4]
    assert schedule.take(on_gpu=True) is tasks[0]
    assert schedule.take() is tasks[3]
    assert schedule.take(on_gpu=True) is tasks[1]
    assert schedule.take(on_gpu=True) is tasks[2]
    assert schedule.take(on_gpu=True) is None


def test_a_gpu_leaves_what_cores_do_faster():
    schedule = _Schedule([task(1.0, None)], 100, gpus=1)
    assert schedule.take(on_gpu=True) is None
    assert schedule.take() is not None


def test_rates_of_a_device_are_positive():
    rates = measure_gpu_rates("cpu")
    assert rates.gram_flops > 0
    assert all(time_s > 0 for _, time_s in rates.eigen_s)


def test_cuda_asked_for_and_absent_is_an_error_and_auto_is_not():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(DeviceError, match="❌ CUDA not available"):
        choose_gpus("cuda")
    assert choose_gpus("auto") == choose_gpus("cpu") == ()


def full(*args, **kwargs):
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("call", ["eigvalsh", "zeros"])
def test_out_of_memory_falls_back_to_the_cpu_for_that_matrix(
    write_checkpoint, call, monkeypatch, caplog
):
    from test_local import results

    rng = np.random.default_rng(0)
    names = ("a", "b", "c")
    folder = write_checkpoint({n: rng.standard_normal((40, 24)) for n in names})
    reference = results(folder)
    fast = replace(RATES, gram_flops=1e15, eigen_s=((64, 1e-9), (256, 1e-8)))
    monkeypatch.setattr(torch if call == "zeros" else torch.linalg, call, full)
    with caplog.at_level(logging.WARNING):
        found = results(folder, gpus=("cpu",), gpu=fast)
    if caplog.records:  # a core may have been quicker than the device
        text = "⚠️  GPU OOM, falling back to CPU for matrix (40, 24)"
        assert {record.getMessage() for record in caplog.records} == {text}
    for name in names:
        assert found[name].spectrum.s.tolist() == reference[name].spectrum.s.tolist()


def test_a_device_and_cores_together_give_the_same_ranks(write_checkpoint):
    from test_local import results

    rng = np.random.default_rng(0)
    folder = write_checkpoint({f"matrix{i}": rng.standard_normal((40, 30 + i)) for i in range(20)})
    reference = results(folder)
    fast = replace(RATES, gram_flops=1e15, eigen_s=((64, 1e-9), (256, 1e-8)))
    for name, result in results(folder, gpus=("cpu",), gpu=fast).items():
        bound = result.spectrum.error_bound + reference[name].spectrum.error_bound
        assert np.abs(result.spectrum.s - reference[name].spectrum.s).max() <= bound
