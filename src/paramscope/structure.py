"""What is in a checkpoint, from its headers alone, and what a full analysis would take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paramscope.anatomy import Matrix
from paramscope.anatomy.dissect import dissect
from paramscope.checkpoint.open import open_checkpoint
from paramscope.engine import Settings
from paramscope.engine.gpu import gpu_name
from paramscope.planning import plan_run
from paramscope.run_meta import model_facts
from paramscope.several import each_model
from paramscope.source import Source
from paramscope.source.find import find_source, find_sources


@dataclass(frozen=True, slots=True)
class Structure:
    """The matrices of one checkpoint, unread.

    Attributes:
        model: what names the model.
        matrices: every matrix, vector and buffer, in the order of the files.
        nbytes: bytes of all stored tensors.
        tensors: stored tensors.
        gpus: the names of those that the estimate reckons with, beside this machine's cores.
        time_s: estimated wall time of a full analysis.
        memory_bytes: at most what such an analysis holds at one time, besides the program.
        notes: what to know about the files.
    """

    model: dict[str, Any]
    matrices: tuple[Matrix, ...]
    nbytes: int
    tensors: int
    gpus: tuple[str, ...]
    time_s: float
    memory_bytes: int
    notes: tuple[str, ...]

    @property
    def buffers(self) -> int:
        return sum(matrix.numel for matrix in self.matrices if matrix.is_buffer)

    @property
    def parameters(self) -> int:
        return sum(matrix.numel for matrix in self.matrices) - self.buffers

    def to_dict(self) -> dict[str, Any]:
        """The object that `paramscope inspect --json` prints."""
        return {
            "model": self.model,
            "matrices": [_matrix_facts(matrix) for matrix in self.matrices],
            "totals": {
                "parameters": self.parameters,
                "buffers": self.buffers,
                "bytes": self.nbytes,
                "tensors": self.tensors,
            },
            "estimate": {
                "gpus": list(self.gpus),
                "time_s": round(self.time_s, 3),
                "memory_bytes": self.memory_bytes,
            },
            "notes": list(self.notes),
        }


def _matrix_facts(matrix: Matrix) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "param_name": matrix.tensor.name,
        "part": matrix.part,
        "block_type": matrix.block_type,
        "role": matrix.role,
        "tower": matrix.tower,
        "layer_index": matrix.layer,
        "expert_index": matrix.expert,
        "shape": list(matrix.shape),
        "dtype": matrix.tensor.stored_dtype,
        "numel": matrix.numel,
    }
    if matrix.tensor.scheme:
        stored = [part.name for part in matrix.tensor.stored]
        facts |= {"scheme": matrix.tensor.scheme, "stored_tensors": stored}
    return facts


def inspect(
    model: str | Path,
    *,
    model_id: str | None = None,
    revision: str | None = None,
    container: str | None = None,
    device: str = "cpu",
) -> Structure:
    """The structure of one checkpoint, from headers only; on the Hub, nothing else is fetched.

    Args:
        model: a folder, a file, or org/name on the Hub.
        model_id: which model, where the folder holds several.
        revision: branch, tag or commit.
        container: which copy of the weights, as in `Options`.
        device: what the estimate reckons with: "cpu", or "auto" or "cuda" as `analyze` takes them;
            a GPU takes seconds to start, and is measured the first time.

    Raises:
        DeviceError: CUDA was asked for and is not there.
        UsageError: the folder holds several models and none was chosen.
        ParamscopeError: there is no checkpoint, or its headers are damaged.
    """
    source = find_source(model, model_id=model_id, revision=revision, stored=False)
    return inspect_source(source, container, device)


def inspect_all(
    model: str | Path,
    *,
    model_id: str | None = None,
    revision: str | None = None,
    container: str | None = None,
    device: str = "cpu",
) -> Iterator[Structure]:
    """As `inspect`, for each checkpoint in a folder that holds several."""
    sources = find_sources(model, model_id=model_id, revision=revision, stored=False)
    yield from each_model(
        sources, None, lambda source, _: inspect_source(source, container, device)
    )


def inspect_source(source: Source, container: str | None = None, device: str = "cpu") -> Structure:
    """The structure of the checkpoint that a source holds."""
    with closing(source):
        checkpoint = open_checkpoint(source, container)
        matrices = dissect(checkpoint.tensors, checkpoint.config)
        planned = plan_run(matrices, Settings(), device=device)
        hashed = () if source.remote else checkpoint.weight_files  # the Hub vouches for its own
        hashing_s = planned.machine.hash_s * sum(source.files()[file] for file in hashed)
        return Structure(
            model=model_facts(checkpoint),
            matrices=tuple(matrices),
            nbytes=sum(tensor.nbytes for tensor in checkpoint.stored),
            tensors=len(checkpoint.stored),
            gpus=tuple(gpu_name(gpu) for gpu in planned.crew.gpus),
            time_s=planned.start_s + planned.time_s(hashing_s),
            memory_bytes=planned.memory_bytes,
            notes=checkpoint.notes,
        )
