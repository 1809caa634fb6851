from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from handmade import RATES
from paramscope.anatomy import Matrix
from paramscope.anatomy.view import View
from paramscope.checkpoint import StoredTensor
from paramscope.checkpoint.dtypes import DTYPES
from paramscope.engine import Crew, Settings, calibration
from paramscope.engine import plan as engine_plan
from paramscope.engine.calibration import measure_rates
from paramscope.engine.plan import peak_bytes, plan, wall_time_s

TOGETHER = replace(RATES, cores=2, together_s=((1024, 1e-3), (4096, 1e-2)))


def stored(*shape: int, dtype: str = "BF16") -> StoredTensor:
    numel = int(np.prod(shape))
    return StoredTensor("w", DTYPES[dtype], shape, "f", 0, numel * 2, numel)


def matrix(tensor: StoredTensor, view: View, part: str = "") -> Matrix:
    return Matrix(tensor, part, "attn.q", "", None, None, view)


def test_pieces_that_interleave_are_read_once_and_those_apart_alone():
    tensor = stored(12, 4)
    whole = View.whole((12, 4))
    per_head = whole.split(0, 2, 3, 2)
    interleaved = [matrix(tensor, per_head.pick(1, i), "qkv"[i]) for i in range(3)]
    (task,) = plan(interleaved, Settings(), RATES)
    assert task.span == (0, 48)
    assert len(task.matrices) == 3
    apart = [matrix(tensor, whole.take(0, 4 * i, 4 * i + 4), "qkv"[i]) for i in range(3)]
    assert sorted(task.span for task in plan(apart, Settings(), RATES)) == [
        (0, 16),
        (16, 32),
        (32, 48),
    ]


def test_the_costliest_comes_first_and_cost_grows_with_the_work():
    matrices = [matrix(stored(n, n), View.whole((n, n))) for n in (8, 512, 64, 256)]
    tasks = plan(matrices, Settings(), RATES)
    assert [task.matrices[0].rows for task in tasks] == [512, 256, 64, 8]
    assert tasks[0].time_s > 6 * tasks[1].time_s
    without = plan(matrices, Settings(svd=False), RATES)
    assert sum(task.time_s for task in without) < 0.1 * sum(task.time_s for task in tasks)


def test_a_large_tall_matrix_is_streamed_in_little_memory():
    (task,) = plan([matrix(stored(200_000, 256), View.whole((200_000, 256)))], Settings(), RATES)
    assert task.streamed
    assert task.memory_bytes < 200_000 * 256 * 2


def test_rates_of_this_machine_are_positive():
    rates = measure_rates()
    assert min(rates.gram_flops, rates.element_s, rates.decode_s) > 0
    assert all(time_s > 0 for _, time_s in rates.eigen_s)


def test_eigenvalues_cost_more_for_more():
    times = [RATES.eigen_time_s(k) for k in (2, 64, 100, 256, 700, 1024, 4096)]
    assert times == sorted(set(times))


def test_rates_that_a_run_belies_are_measured_again(monkeypatch, tmp_path):
    monkeypatch.setenv("PARAMSCOPE_CACHE", str(tmp_path))
    measured = []
    monkeypatch.setattr(calibration, "measure_rates", lambda: measured.append(1) or RATES)
    other = calibration.remembered("a GPU", lambda: RATES)
    for estimated_s, took_s, times in [
        (10.0, 11.0, 1),
        (1.0, 9.0, 1),  # too short to tell
        (10.0, 13.0, 2),
        (10.0, 13.0, 2),  # measured again already: something else is slow
        (10.0, 10.0, 2),
        (10.0, 7.0, 3),
    ]:
        assert calibration.rates() == RATES
        calibration.compare(estimated_s, took_s)
        assert calibration.rates() == RATES
        assert len(measured) == times
    assert calibration.remembered("a GPU", lambda: pytest.fail("forgotten")) == other


def test_a_damaged_calibration_is_made_again(monkeypatch, tmp_path):
    monkeypatch.setenv("PARAMSCOPE_CACHE", str(tmp_path))
    for text in ("", "[]", "{", '{"here": 1}', '{"here": {"gram_flops": "x"}}'):
        calibration.calibration_path().write_text(text)
        assert calibration.remembered("here", lambda: RATES) == RATES


def on_a_gpu(tasks, share):
    """The same tasks, each `share` of its time on one of a GPU's threads."""
    return [replace(task, gpu_time_s=share * task.time_s) for task in tasks]


def test_the_estimate_shares_the_work_between_gpus_and_cores():
    matrices = [matrix(stored(n, n), View.whole((n, n))) for n in (2000, *[500] * 40)]
    tasks = plan(matrices, Settings(), RATES)
    cores, both = Crew(6, 2**40), Crew(6, 2**40, ("cuda:0",), 4)
    assert (cores.core_threads, both.core_threads) == (6, 2)
    assert wall_time_s(on_a_gpu(tasks, 0.5), cores) == wall_time_s(tasks, cores)  # no GPU, no help
    work_s = sum(task.time_s for task in tasks)
    together_s = wall_time_s(on_a_gpu(tasks, 0.25), both)
    assert together_s == pytest.approx(work_s / (2 + 4 / 0.25), rel=0.2)
    assert wall_time_s(on_a_gpu(tasks, 0.25), both, hashing_s=5.0) >= 5.0
    slow_cores_s = wall_time_s(on_a_gpu(tasks[:1], 0.01), Crew(1, 2**40, ("cuda:0",), 1))
    assert slow_cores_s == pytest.approx(0.01 * tasks[0].time_s)


def test_the_memory_counts_batches_for_gpus_alone_and_ends_at_the_budget():
    matrices = [matrix(stored(n, n), View.whole((n, n))) for n in (2000, 500)]
    large, small = plan(matrices, Settings(), RATES)
    small = replace(small, gpu_time_s=0.1, batch=10)
    crew = Crew(3, 2**40, ("cuda:0",), 2)
    # One thread is the cores' own, and two take ten small ones each.
    assert peak_bytes([large, small], crew) == large.memory_bytes + 20 * small.memory_bytes
    assert peak_bytes([large, small], replace(crew, budget_bytes=10)) == large.memory_bytes
    both_bytes = large.memory_bytes + small.memory_bytes
    assert peak_bytes([large, replace(small, gpu_time_s=None)], Crew(3, 2**40)) == both_bytes


def test_beside_a_gpu_nothing_has_all_cores():
    (alone,) = plan([matrix(stored(4096, 4096), View.whole((4096, 4096)))], Settings(), TOGETHER)
    assert alone.alone
    slow_gpu = replace(TOGETHER, eigen_s=((64, 1e3), (256, 1e4)))
    (beside,) = plan(alone.matrices, Settings(), TOGETHER, gpu=slow_gpu)
    assert not beside.alone
    assert beside.gpu_time_s is None
    assert beside.time_s > alone.time_s


def test_matrices_without_elements_need_no_gpu(monkeypatch):
    monkeypatch.setattr(engine_plan, "_LIGHT_S", 0.0)  # or none is looked at
    tensor = stored(6, 0)
    whole = View.whole((6, 0))
    empty = [matrix(tensor, whole.take(0, i, i + 1), str(i)) for i in range(6)]
    for task in plan(empty, Settings(), RATES, gpu=RATES):
        assert task.gpu_time_s is None


def test_a_gpu_takes_as_many_at_a_time_as_it_has_room_for(caplog):
    matrices = [matrix(stored(1000, 1000), View.whole((1000, 1000)))]
    fast = replace(RATES, gram_flops=1e15, eigen_s=((64, 1e-9), (256, 1e-8)))
    batching = replace(fast, batch_s=((64, 1e-10), (1024, 1e-9)))

    def planned(room_bytes):
        (task,) = plan(matrices, Settings(), RATES, gpu=batching, gpu_room_bytes=room_bytes)
        return task

    most = planned(2**40)
    assert most.batch > 10
    fewer = planned(most.gpu_bytes // 2)
    assert 1 < fewer.batch < most.batch
    assert fewer.gpu_bytes <= most.gpu_bytes // 2
    assert not caplog.messages
    assert planned(1000).gpu_time_s is None
    assert caplog.messages == ["⚠️  GPU has no room for matrix (1000, 1000), left to the CPU"]
