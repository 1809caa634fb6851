"""The time to go: from the work done, matrices and hashing together."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from paramscope.engine.plan import Task
from paramscope.monitor import HashWork, Monitor
from paramscope.progress import Progress


def task(time_s: float, gpu_time_s: float | None = None) -> Task:
    return Task((), None, (0, 0), False, 1, 1, time_s, gpu_time_s)


@pytest.fixture
def clock(monkeypatch):
    """Stands at 0 s until it is set."""
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: now.s)
    return now


def test_hashing_is_part_of_the_work_once_a_task_is_done(clock):
    told = []
    hashing = SimpleNamespace(read_bytes=0, left_bytes=400)
    tasks = [task(4.0) for _ in range(4)]
    begun = Progress("model", 0, 4, 0.0, 0.0, 0.0)
    monitor = Monitor(begun, tasks, tasks, 1, HashWork(hashing, 0.01), told.append)
    hashing.read_bytes, hashing.left_bytes = 300, 100
    clock.s = 3.0
    monitor.advance((), 0)
    assert [now.eta_s for now in told] == [None, None]
    clock.s = 7.0
    monitor.advance(tasks[:1], 1)
    work_left_s = 12.0 + 1.0 - 2.0  # half of the next one is likely done
    assert told[-1].eta_s == pytest.approx(work_left_s * 7.0 / 9.0)
    assert (told[-1].work_total, monitor.hashing_s) == pytest.approx((20.0, 4.0))


def test_a_resumed_run_counts_its_own_work_only(clock):
    told = []
    tasks = [task(4.0), task(2.0), task(2.0, gpu_time_s=1.0)]
    begun = Progress("model", 1, 3, 0.0, 0.0, 0.0)
    monitor = Monitor(begun, tasks, tasks[1:], 1, HashWork(None, 0.01), told.append)
    clock.s = 4.0
    monitor.advance(tasks[1:2], 1)
    last = replace(told[-1], work_under_way=0.0)
    assert (last.done, last.work_done, last.work_total) == (2, 6.0, 7.0)
    assert last.eta_s == pytest.approx(2.0)
