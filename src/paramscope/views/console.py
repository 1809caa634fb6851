"""The layer-by-layer view of a run, and the closing summary, as plain text."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from paramscope.anatomy.roles import role_order
from paramscope.table.schema import Row
from paramscope.views.words import bytes_text, count_text, duration_text, printable

WIDTH = 80
_RULE = "=" * WIDTH
_THIN_RULE = "-" * WIDTH
_EXPERTS_SHOWN_EACH = 4  # a layer with more experts than this gets one entry per role
_MOST_COMPRESSIBLE = 5


def view(rows: Sequence[Row], meta: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the console view: heading, layers, matrices outside layers, summary."""
    model = meta["model"]
    yield _RULE
    yield "📊 TRANSFORMER PARAMETER ANALYSIS"
    yield _RULE
    yield f"Model:    {printable(model['model_id'], WIDTH - 10)}"
    if model["revision"]:
        yield f"Revision: {printable(model['revision'])}"
    yield f"Path:     {printable(model['model_path'], WIDTH - 10)}"
    matrices = [row for row in rows if _is_matrix(row)]
    layers = [row for row in matrices if row["layer_index"] is not None]
    for (layer, tower), group in groupby(layers, key=lambda r: (r["layer_index"], r["tower"])):
        yield ""
        yield f"🔹 LAYER {layer}" + (f" ({printable(str(tower))})" if tower else "")
        yield from _entries(list(group))
    outside = [row for row in matrices if row["layer_index"] is None]
    if outside:
        yield ""
        yield "🔸 OUTSIDE THE LAYERS"
        yield from _entries(outside)
    yield ""
    yield from summary(rows, meta)


def has_failures(meta: Mapping[str, Any]) -> bool:
    """Whether some row is not ok, or the table lacks a part of the checkpoint."""
    counts = meta["rows"]
    return bool(counts["failed"] or counts["refused"] or not meta["coverage"]["complete"])


def _is_matrix(row: Row) -> bool:
    return int(row["rows"] or 0) > 1 and row["block_type"] not in ("buffer", "bias", "norm")


def _entries(rows: Sequence[Row]) -> Iterator[str]:
    rows = sorted(rows, key=lambda row: role_order(str(row["role"])))
    experts = {row["expert_index"] for row in rows} - {None}
    together = len(experts) > _EXPERTS_SHOWN_EACH
    by_role: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if together and row["expert_index"] is not None:
            by_role.setdefault((row["role"], row["shape"]), []).append(row)
        else:
            yield from _entry(row)
    for group in by_role.values():
        yield from _expert_entry(group)


def _entry(row: Row) -> Iterator[str]:
    name = str(row["param_name"]) + (f" [{row['part']}]" if row["part"] else "")
    yield from _heading(name, row)
    if row["actual_rank"] is None:
        why = f" ({row['reason']})" if row["reason"] else ""
        yield printable(f"    Rank: -   SVD 90%: -{why}", WIDTH)
    else:
        design = int(row["design_rank"] or 0)
        least = "≥ " if row["method"] == "krylov" else ""
        yield (
            f"    Rank: {least}{_share(int(row['actual_rank']), design)}   "
            f"SVD 90%: {least}{_share(int(row['svd_90_percent_rank'] or 0), design)}"
        )
    if row["mean"] is not None:
        yield (
            f"    Sparsity: {_percent(row['sparsity'])}   "
            f"μ: {row['mean']:+.3e}   σ: {_or_dash(row['std'], '.3e')}"
        )


def _heading(name: str, row: Row) -> Iterator[str]:
    shape = str(row["shape"])
    room = WIDTH - 4 - len(shape)
    yield f"  {printable(name, room):<{room}}  {shape}"


def _expert_entry(rows: Sequence[Row]) -> Iterator[str]:
    """Many experts of one role and shape: medians, and the range over the experts."""
    yield from _heading(f"{rows[0]['role']} × {len(rows)} experts", rows[0])
    ranks = [int(row["actual_rank"]) for row in rows if row["actual_rank"] is not None]
    shares = [
        int(row["svd_90_percent_rank"] or 0) for row in rows if row["actual_rank"] is not None
    ]
    if not ranks:
        yield printable(f"    Rank: -   SVD 90%: - ({rows[0]['reason']})", WIDTH)
        return
    design = int(rows[0]["design_rank"] or 0)
    yield (
        f"    Rank: {_share(round(statistics.median(ranks)), design)}   "
        f"SVD 90%: {_share(round(statistics.median(shares)), design)}   "
        f"[medians; {min(shares)}-{max(shares)}]"
    )
    stds = [float(row["std"]) for row in rows if row["std"] is not None]
    zeros = [float(row["sparsity"]) for row in rows if row["sparsity"] is not None]
    means = [float(row["mean"]) for row in rows if row["mean"] is not None]
    yield (
        f"    Sparsity: {_percent(statistics.median(zeros))}   "
        f"μ: {statistics.median(means):+.3e}   σ: {statistics.median(stds):.3e}"
    )


def _share(part: int, whole: int) -> str:
    return f"{part}/{whole} ({part / whole:.1%})" if whole else f"{part}/{whole} (-)"


def _or_dash(x: Any, how: str) -> str:
    return "-" if x is None else format(x, how)


def _percent(share: Any) -> str:
    return "-" if share is None else f"{share:.2%}"


def summary(rows: Sequence[Row], meta: Mapping[str, Any]) -> Iterator[str]:
    """How much there is, whether all of it was measured, and what stands out."""
    covered = meta["coverage"]
    yield _RULE
    yield "📋 SUMMARY"
    yield _THIN_RULE
    yield f"Parameters: {count_text(covered['parameters'])}"
    if covered["buffers"]:
        yield f"Buffers:    {count_text(covered['buffers'])} elements, not trained"
    yield f"Stored:     {covered['tensors']:,} tensors, {bytes_text(covered['nbytes'])}"
    if covered["complete"]:
        yield f"Coverage:   ✅ all {covered['expected']:,} elements of the headers are in the table"
    else:
        names = ", ".join(printable(name, 40) for name in covered["wrong"][:3])
        yield (
            f"Coverage:   ❌ the headers hold {covered['expected']:,} elements, "
            f"the table {covered['found']:,}: {names}"
        )
    other = [row for row in rows if row["block_type"] == "other"]
    yield f"Other:      {len(other)} of {len(rows)} rows are none of the known block types"
    yield from _failures(rows)
    yield from _compressible(rows)
    for note in meta["notes"]:
        yield f"Note:       {printable(note)}"
    yield f"Time:       {duration_text(meta['timing']['wall_s'])}"
    yield _RULE


def _failures(rows: Iterable[Row]) -> Iterator[str]:
    bad = [row for row in rows if row["status"] != "ok"]
    if not bad:
        yield "Failed:     0"
        return
    yield f"Failed:     ⚠️  {len(bad)}"
    for reason, group in groupby(
        sorted(bad, key=lambda row: str(row["reason"])), key=lambda row: row["reason"]
    ):
        names = [str(row["param_name"]) for row in group]
        yield f"  {len(names)} × {printable(str(reason), WIDTH - 8)}"
        yield f"      {printable(names[0], WIDTH - 12)}{', …' if len(names) > 1 else ''}"


def _compressible(rows: Iterable[Row]) -> Iterator[str]:
    """The matrices whose variance sits in the smallest share of their directions."""
    ranked = sorted(
        (
            row
            for row in rows
            if _is_matrix(row) and row["actual_rank"] and int(row["design_rank"] or 0) > 1
        ),
        key=lambda row: float(row["svd_90_percent_ratio"] or 0.0),
    )
    if ranked:
        yield "Most compressible (share of directions that carries 90 % of the variance):"
    for row in ranked[:_MOST_COMPRESSIBLE]:
        name = str(row["param_name"]) + (f" [{row['part']}]" if row["part"] else "")
        least = "≥" if row["method"] == "krylov" else " "
        yield f" {least}{row['svd_90_percent_ratio']:>6.1%}  {printable(name, WIDTH - 10)}"
