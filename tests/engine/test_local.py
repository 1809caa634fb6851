from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from handmade import RATES
from paramscope.anatomy.dissect import dissect
from paramscope.checkpoint.open import open_checkpoint
from paramscope.engine import Crew, Settings, gram, local, plan
from paramscope.engine.local import run_tasks
from paramscope.errors import SourceError
from paramscope.measure.rank import actual_rank
from paramscope.source.local import LocalSource

SETTINGS = Settings()


def results(
    folder,
    *,
    workers=2,
    budget_bytes=2**30,
    settings=SETTINGS,
    change=lambda c: c,
    gpus=(),
    threads_per_gpu=1,
    gpu=None,
):
    with closing(LocalSource(folder)) as source:
        checkpoint = change(open_checkpoint(source))
        tasks = plan.plan(dissect(checkpoint.tensors, {}), settings, RATES, gpu=gpu)
        batches = run_tasks(tasks, checkpoint, Crew(workers, budget_bytes, gpus, threads_per_gpu))
        finished = [item for batch in batches for item in batch]
    return {r.matrix.tensor.name: r for item in finished for r in item.results}


@pytest.fixture
def folder(write_checkpoint):
    rng = np.random.default_rng(3)
    tall = rng.standard_normal((90, 20)).astype(np.float32)
    return write_checkpoint(
        {
            "tall": tall,
            "wide": tall.T.copy(),
            "half": (tall * 0.02).astype(np.float16),
            "zero": np.zeros((6, 5), np.float32),
            "vector": np.arange(5, dtype=np.float32),
            "scalar": np.array(3.0, np.float32),
            "empty": np.zeros((0, 3), np.float32),
            "nan": np.where(np.arange(12).reshape(3, 4) == 5, np.nan, 1.0).astype(np.float32),
            "huge": np.full((3, 3), 1e200),
            "conv": rng.standard_normal((8, 3, 2, 2)).astype(np.float32),
            "deficient": (tall @ np.ones((20, 30), np.float32)).astype(np.float64),
        }
    )


def same(a, b):
    assert a.stats == b.stats
    assert (a.status, a.reason, a.spectrum is None) == (b.status, b.reason, b.spectrum is None)
    if a.spectrum is not None:
        bound = a.spectrum.error_bound + b.spectrum.error_bound
        assert np.abs(a.spectrum.s - b.spectrum.s).max(initial=0.0) <= bound
        assert actual_rank(a.spectrum.s) == actual_rank(b.spectrum.s)


def test_every_kind_of_tensor_gets_a_result(folder):
    found = results(folder)
    assert len(found) == 11
    svd = {n: r.spectrum.s for n, r in found.items() if r.spectrum is not None}
    assert set(found) - set(svd) == {"empty", "nan", "huge"}
    np.testing.assert_allclose(svd["tall"], svd["wide"], rtol=1e-12)
    assert svd["zero"].tolist() == [0.0] * 5
    assert svd["vector"] == pytest.approx([np.sqrt(30)])
    assert svd["scalar"].tolist() == [3.0]
    assert len(svd["conv"]) == 8
    assert actual_rank(svd["deficient"]) == 1
    assert (found["empty"].status, found["empty"].stats.numel) == ("ok", 0)
    assert found["nan"].status == "failed"
    assert found["nan"].reason == "no spectrum: 1 NaN and 0 Inf among 12 elements"
    assert found["nan"].stats.mean == 1.0
    assert "overflow" in found["huge"].reason


def test_reading_ahead_changes_no_result(folder, monkeypatch):
    reference = results(folder)
    monkeypatch.setattr(LocalSource, "remote", True)
    for budget_bytes in (1, 2**30):
        found = results(folder, workers=3, budget_bytes=budget_bytes)
        assert set(found) == set(reference)
        for name, result in found.items():
            same(result, reference[name])


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("budget_bytes", [1, 2**30])
def test_workers_and_memory_change_no_result(folder, workers, budget_bytes):
    reference = results(folder)
    for name, result in results(folder, workers=workers, budget_bytes=budget_bytes).items():
        same(result, reference[name])


def test_blocks_change_no_result(folder, monkeypatch):
    reference = results(folder)
    monkeypatch.setattr(plan, "_READ_AT_ONCE_BYTES", 64)
    monkeypatch.setattr(plan, "_BLOCK_ELEMENTS", 100)
    for name, result in results(folder).items():
        if name in ("tall", "wide", "deficient", "conv"):
            assert result.stats.mean == pytest.approx(reference[name].stats.mean, abs=1e-15)
        same(replace(result, stats=reference[name].stats), reference[name])


def test_without_spectra_only_statistics(folder):
    found = results(folder, settings=Settings(svd=False))
    assert all(result.spectrum is None for result in found.values())
    assert found["nan"].stats.nan_count == 1


def test_memory_in_flight_stays_within_the_budget(folder, monkeypatch):
    peak = in_flight = 0
    lock = threading.Lock()
    original = local.measure_task

    def watched(task, *rest):
        nonlocal peak, in_flight
        with lock:
            in_flight += task.memory_bytes
            peak = max(peak, in_flight)
        try:
            return original(task, *rest)
        finally:
            with lock:
                in_flight -= task.memory_bytes

    monkeypatch.setattr(local, "measure_task", watched)
    results(folder, workers=4, budget_bytes=150_000)
    assert 0 < peak <= 150_000


def test_an_unreadable_source_ends_the_run_with_its_error(folder):
    def broken(checkpoint):
        def read(tensor, start, stop):
            raise SourceError("the disk is gone")

        return replace(checkpoint, read_stored=read)

    with pytest.raises(SourceError, match="the disk is gone"):
        results(folder, change=broken)


def test_too_little_memory_for_one_matrix_fails_that_matrix_alone(folder, monkeypatch):
    original = gram.eigenvalues_of_gram

    def short(matrix):
        if matrix.shape[0] == 8:
            raise MemoryError
        return original(matrix)

    monkeypatch.setattr(gram, "eigenvalues_of_gram", short)
    reference = results(folder, settings=Settings(svd=False))
    found = results(folder)
    assert (found["conv"].status, found["conv"].spectrum) == ("failed", None)
    assert found["conv"].reason == "not enough memory for this matrix"
    assert found["conv"].stats == reference["conv"].stats
    assert found["tall"].status == "ok"
