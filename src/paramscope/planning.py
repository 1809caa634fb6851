"""Who does a run's work, and how long it takes them: the cores, and GPUs where that is sooner."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from paramscope.anatomy import Matrix
from paramscope.device import choose_gpus
from paramscope.engine import Crew, Settings
from paramscope.engine.calibration import Rates, rates
from paramscope.engine.cores import worker_count
from paramscope.engine.gpu import Gpu, gpu_rates
from paramscope.engine.gram import GpuError
from paramscope.engine.local import memory_budget_bytes
from paramscope.engine.plan import Task, largest_short_side, peak_bytes, plan, wall_time_s
from paramscope.errors import DeviceError

_log = logging.getLogger(__name__)

_WORTH_A_GPU_S = 10.0  # PyTorch takes seconds to load, and the device to be measured
_START_S = 0.5  # of the program, and to write the tables
_START_GPU_S = 5.0  # of PyTorch, CUDA and its libraries


@dataclass(frozen=True, slots=True)
class Planned:
    """What there is to do, who does it, and how fast this machine is."""

    tasks: list[Task]
    crew: Crew
    machine: Rates

    @property
    def start_s(self) -> float:
        """Estimated time around the tasks."""
        return _START_S + (_START_GPU_S if self.crew.gpus else 0.0)

    def time_s(self, hashing_s: float) -> float:
        """Estimated wall time of all tasks, and of so much hashing beside them."""
        return wall_time_s(self.tasks, self.crew, hashing_s)

    @property
    def memory_bytes(self) -> int:
        """At most what they hold of the main memory at one time, besides the program."""
        return peak_bytes(self.tasks, self.crew)


def plan_run(
    matrices: Sequence[Matrix],
    settings: Settings,
    *,
    device: str,
    workers: int | None = None,
    memory_bytes: int | None = None,
    remote: bool = False,
    finished: bool = False,
) -> Planned:
    """Plan a run; a GPU that was not asked for is used where the cores would be busy for long.

    Args:
        device: "auto", "cpu" or "cuda".
        workers: by default one per core.
        memory_bytes: by default a share of the free memory.
        remote: the bytes come over the network.
        finished: an earlier run left little or nothing to do.

    Raises:
        DeviceError: CUDA was asked for and is not there.
        UsageError: no such device.
    """
    machine = rates(largest_short_side(matrices))
    crew = Crew(workers or worker_count(), memory_bytes or memory_budget_bytes())
    on_cores = plan(matrices, settings, machine, remote=remote)
    spectral = settings.svd and settings.method == "exact" and not finished
    pays = spectral and wall_time_s(on_cores, crew) > _WORTH_A_GPU_S
    gpus = choose_gpus(device) if device != "auto" or pays else ()
    if gpus and spectral and (found := _measured(gpus, device)):
        gpu, room_bytes = found
        tasks = plan(matrices, settings, machine, remote=remote, gpu=gpu, gpu_room_bytes=room_bytes)
        if any(task.gpu_time_s is not None for task in tasks):
            return Planned(tasks, replace(crew, gpus=gpus), machine)
    return Planned(on_cores, crew, machine)


def _measured(gpus: Sequence[str], device: str) -> tuple[Rates, int] | None:
    """Their rates, and the memory that each has; None where that cannot be had now.

    Raises:
        DeviceError: it cannot be had, and was asked for.
    """
    try:
        return gpu_rates(gpus[0]), min(Gpu(name).prepare() for name in gpus)
    except GpuError as error:
        problem = f"{gpus[0]} takes no work now ({error})"
    if device == "cuda":
        raise DeviceError(f"❌ CUDA not available: {problem}. Wait, or use --device cpu.")
    _log.warning("⚠️  GPU %s, going on without", problem)
    return None
