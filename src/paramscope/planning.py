"""Who does a run's work, and how long it takes them: the cores, and GPUs where that is sooner."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from paramscope.anatomy import Matrix
from paramscope.device import choose_gpus
from paramscope.engine import Crew, Settings
from paramscope.engine.calibration import Rates, rates
from paramscope.engine.cores import worker_count
from paramscope.engine.gpu import gpu_rates
from paramscope.engine.gram import GpuError
from paramscope.engine.local import memory_budget_bytes
from paramscope.engine.plan import Task, largest_short_side, peak_bytes, plan, wall_time_s
from paramscope.errors import DeviceError

_log = logging.getLogger(__name__)

_WORTH_A_GPU_S = 10.0  # PyTorch takes seconds to load, and the device to be measured


@dataclass(frozen=True, slots=True)
class Planned:
    """What there is to do, who does it, and how fast this machine is."""

    tasks: list[Task]
    crew: Crew
    machine: Rates

    def time_s(self, hashing_s: float) -> float:
        """Estimated wall time of all tasks, and of so much hashing beside them."""
        return wall_time_s(self.tasks, self.crew.cores, hashing_s, self.crew.gpu_threads)

    @property
    def memory_bytes(self) -> int:
        """At most what they hold of the main memory at one time, besides the program."""
        return peak_bytes(self.tasks, self.crew.cores, self.crew.gpu_threads)


def plan_run(
    matrices: Sequence[Matrix],
    settings: Settings,
    *,
    device: str,
    workers: int | None = None,
    memory_bytes: int | None = None,
    remote: bool = False,
    is_new: bool = True,
) -> Planned:
    """Plan a run; a GPU that was not asked for is used where the cores would be busy for long.

    Args:
        device: "auto", "cpu" or "cuda".
        workers: by default one per core.
        memory_bytes: by default a share of the free memory.
        remote: the bytes come over the network.
        is_new: nothing of it is done yet.

    Raises:
        DeviceError: CUDA was asked for and is not there.
        UsageError: no such device.
    """
    machine = rates(largest_short_side(matrices))
    workers = workers or worker_count()
    tasks = plan(matrices, settings, machine, remote=remote)
    gpus: tuple[str, ...] = ()
    exact = settings.svd and settings.method == "exact"
    pays = is_new and exact and wall_time_s(tasks, workers) > _WORTH_A_GPU_S
    if device != "auto" or pays:
        gpus = choose_gpus(device)
    if gpus and (gpu := _rates_of(gpus[0], device)) is not None:
        tasks = plan(matrices, settings, machine, remote=remote, gpu=gpu)
    if all(task.gpu_time_s is None for task in tasks):
        gpus = ()
    return Planned(tasks, Crew(workers, memory_bytes or memory_budget_bytes(), gpus), machine)


def _rates_of(gpu: str, device: str) -> Rates | None:
    """None where the GPU cannot be measured now, and was not asked for."""
    try:
        return gpu_rates(gpu)
    except GpuError as error:
        problem = f"{gpu} takes no work now ({error})"
    if device == "cuda":
        raise DeviceError(f"❌ CUDA not available: {problem}. Wait, or use --device cpu.")
    _log.warning("⚠️  GPU %s, going on without", problem)
    return None
