"""The structure of a checkpoint as a table on the console: roles, shapes, parameters."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from paramscope.anatomy import Matrix
from paramscope.anatomy.roles import role_order
from paramscope.structure import Structure
from paramscope.views.words import bytes_text, count_text, duration_text, printable

_SHAPES_SHOWN = 2


def structure_view(structure: Structure) -> Iterator[str]:
    """Lines of at most 80 columns: the model, a row per role, totals, the estimate."""
    model = structure.model
    yield f"Model:      {printable(model['model_id'], 66)}"
    if model["revision"]:
        yield f"Revision:   {printable(model['revision'], 66)}"
    family = [model["model_type"] or "", *map(str, model["architectures"])]
    if any(family):
        yield f"Family:     {printable(', '.join(filter(None, family)), 66)}"
    yield f"Format:     {model['format']}, {_files(model['files'])}, {bytes_text(structure.nbytes)}"
    for tower, layers in _layers(structure.matrices).items():
        name = f" ({printable(tower)})" if tower else ""
        yield f"Layers:     {len(layers)}{name}"
    yield ""
    yield f"{'role':<20}{'block type':<11}{'count':>7}  {'shape':<20}{'parameters':>15}"
    for (tower, role, block_type), group in _by_role(structure):
        label = f"{tower}:{role}" if tower else role
        count = sum(matrix.numel for matrix in group)
        yield (
            f"{printable(label, 19):<20}{block_type:<11}{len(group):>7}  "
            f"{_shapes(group):<20}{count:>15,}"
        )
    yield ""
    yield f"Parameters: {count_text(structure.parameters)}"
    if structure.buffers:
        yield f"Buffers:    {count_text(structure.buffers)}"
    yield f"Tensors:    {structure.tensors:,} stored, {len(structure.matrices):,} after splitting"
    dtypes = sorted({matrix.tensor.stored_dtype for matrix in structure.matrices})
    yield f"Dtypes:     {', '.join(dtypes)}"
    for scheme, group in _by_scheme(structure).items():
        weights, nbytes = sum(m.numel for m in group), sum(m.nbytes for m in group)
        bits = 8 * nbytes / max(1, weights)
        yield f"Packed:     {len(group):,} × {printable(scheme, 40)}, {bits:.2f} bits per weight"
    refused = [matrix for matrix in structure.matrices if matrix.refusal]
    if refused:
        yield f"Refused:    {len(refused):,}, such as {printable(refused[0].tensor.name, 50)}:"
        yield f"            {printable(refused[0].refusal, 66)}"
    gpus = [f"{count} × {name}" for name, count in Counter(structure.gpus).items()]
    if gpus:
        yield f"GPUs:       {printable(', '.join(gpus), 66)}"
    devices = "the GPUs and cores here" if gpus else "the cores here"
    yield (
        f"A full analysis on {devices} takes about {duration_text(structure.time_s)} "
        f"and {bytes_text(structure.memory_bytes)} of memory."
    )
    for note in structure.notes:
        yield f"Note: {printable(note)}"


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _layers(matrices: tuple[Matrix, ...]) -> dict[str, set[int]]:
    layers: dict[str, set[int]] = defaultdict(set)
    for matrix in matrices:
        if matrix.layer is not None:
            layers[matrix.tower].add(matrix.layer)
    return layers


def _by_role(structure: Structure) -> list[tuple[tuple[str, str, str], list[Matrix]]]:
    """By tower, in the order of the files, and role."""
    groups: dict[tuple[str, str, str], list[Matrix]] = defaultdict(list)
    for matrix in structure.matrices:
        groups[matrix.tower, matrix.role, matrix.block_type].append(matrix)
    towers = list(dict.fromkeys(tower for tower, _, _ in groups))
    order = lambda item: (towers.index(item[0][0]), role_order(item[0][1]))  # noqa: E731
    return sorted(groups.items(), key=order)


def _by_scheme(structure: Structure) -> dict[str, list[Matrix]]:
    groups: dict[str, list[Matrix]] = defaultdict(list)
    for matrix in structure.matrices:
        if matrix.tensor.scheme:
            groups[matrix.tensor.scheme].append(matrix)
    return groups


def _shapes(matrices: list[Matrix]) -> str:
    shapes = list(dict.fromkeys("×".join(map(str, matrix.shape)) for matrix in matrices))
    more = ", …" if len(shapes) > _SHAPES_SHOWN else ""
    return printable(", ".join(shapes[:_SHAPES_SHOWN]) + more, 19)
