"""A run's folder without a model: for reports of any size, and with names that no model has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from paramscope.measure import rank
from paramscope.table.export import write_csv, write_parquet, write_spectra
from paramscope.table.journal import Entry
from paramscope.table.schema import COLUMN_NAMES, Row

Rename = Callable[[str], str]


class MadeUpRun:
    """Rows as an analysis would leave them, of matrices whose spectra are made up."""

    def __init__(self, *, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self.entries: list[Entry] = []

    @property
    def rows(self) -> list[Row]:
        return [entry.row for entry in self.entries]

    def add(self, name: str, role: str, block_type: str, shape: tuple[int, int], **cells) -> None:
        rows, columns = shape
        s = np.sort(self._rng.gamma(2.0, 1.0, min(shape)))[::-1]
        row: Row = dict.fromkeys(COLUMN_NAMES)
        row |= {
            "model_path": "/models/made-up",
            "model_id": "made/up",
            "revision": "",
            "param_name": name,
            "part": "",
            "role": role,
            "block_type": block_type,
            "tower": "",
            "shape": str(shape),
            "stored_shape": str(shape),
            "rows": rows,
            "cols": columns,
            "design_rank": min(shape),
            "numel": rows * columns,
            "nbytes": 2 * rows * columns,
            "dtype": "BF16",
            "created_at": "2026-11-22T01:00:00.000+00:00",
            "nan_count": 0,
            "inf_count": 0,
            "zero_rows": 0,
            "zero_cols": 0,
            "min": -1.0,
            "max": 1.0,
            "mean": float(self._rng.normal()) * 1e-5,
            "std": float(s.std()),
            "var": float(s.var()),
            "sparsity": 0.0,
            "skewness": float(self._rng.normal()) * 0.01,
            "kurtosis": 3.0 + float(self._rng.normal()) * 0.01,
            "content_hash": f"{len(self.entries):016x}",
            "file": "model.safetensors",
            "method": "gram",
            "status": "ok",
            "reason": "",
            "actual_rank": min(shape),
            "rank_ratio": 1.0,
            "spectral_norm": rank.spectral_norm(s),
            "frobenius_norm": float(np.sqrt(s @ s)),
            "stable_rank": rank.stable_rank(s),
            "effective_rank": rank.effective_rank(s),
            "effective_rank_energy": rank.effective_rank_energy(s),
            "condition_number": rank.condition_number(s),
            "sigma_error_bound": 1e-14,
        }
        for percent in (90, 95, 99):
            count = rank.energy_rank(s, percent / 100)
            row[f"svd_{percent}_percent_rank"] = count
            row[f"svd_{percent}_percent_ratio"] = count / min(shape)
        row |= cells
        self.entries.append(Entry(len(self.entries), row, s, 0.0))

    def write(self, folder: Path, **meta: Any) -> Path:
        folder.mkdir(parents=True)
        rows = self.rows
        write_parquet(folder / "params.parquet", rows)
        write_csv(folder / "params.csv", rows)
        write_spectra(folder / "spectra.parquet", self.entries)
        numel = sum(int(row["numel"] or 0) for row in rows)
        model = {
            "model_id": "made/up",
            "model_path": "/models/made-up",
            "revision": "",
            "format": "safetensors",
            "model_type": "mixtral",
            "architectures": ["MixtralForCausalLM"],
            "architecture": {"experts": 8, "experts_per_token": 2},
            "licence": "mit",
            "files": 1,
        } | meta.pop("model", {})
        content = {
            "model": model,
            "files": [{"file": "model.safetensors", "size_bytes": 2 * numel, "sha256": None}],
            "options": {"svd": True, "tolerance": 1e-6},
            "device": {"device": "cpu"},
            "versions": {"paramscope": "0"},
            "timing": {"wall_s": 1.0, "matrices_s": 2.0},
            "notes": [],
            "coverage": {
                "tensors": len(rows),
                "expected": numel,
                "found": numel,
                "parameters": numel,
                "buffers": 0,
                "nbytes": 2 * numel,
                "wrong": [],
                "complete": True,
            },
            "rows": {"total": len(rows), "ok": len(rows), "failed": 0, "refused": 0},
        } | meta
        (folder / "run_meta.json").write_text(json.dumps(content))
        return folder


def transformer(
    *, layers: int, experts: int = 0, side: int = 48, rename: Rename = lambda name: name
) -> MadeUpRun:
    """A decoder: four attention matrices a layer, an MLP or experts."""
    run = MadeUpRun()
    for layer in range(layers):
        at = f"model.layers.{layer}."
        for x in "qkvo":
            name = rename(f"{at}self_attn.{x}_proj.weight")
            run.add(name, f"attn.{x}", f"{x}_proj", (side, side), layer_index=layer)
        for part, shape in {"up": (2 * side, side), "down": (side, 2 * side)}.items():
            if not experts:
                name = rename(f"{at}mlp.{part}_proj.weight")
                run.add(name, f"mlp.{part}", "mlp", shape, layer_index=layer)
            for expert in range(experts):
                name = rename(f"{at}mlp.experts.{expert}.{part}_proj.weight")
                cells = {"layer_index": layer, "expert_index": expert}
                run.add(name, f"moe.expert.{part}", "moe", shape, **cells)
    run.add(rename("model.embed_tokens.weight"), "embed.token", "embedding", (500, side))
    return run


# What a checkpoint could call its tensors and tokens to do harm, or by accident.
HOSTILE = (
    '<script>window.pwned = "name"</script>',
    '"><img src=x onerror="window.pwned=1">',
    "</script><script>window.pwned=2</script>",
    "<!--<script>",
    "=cmd()|'/c calc'!A1",
    "+1+1",
    "@SUM(1)",
    "-2",
    "\t=tab",
    "%{x} {{ 7*7 }} {% raw %} ${7*7}",
    "long" * 2500,
    "مصفوفة.طبقة.وزن",
    "\u202eevil\u202c",
    "🦙.🧠.👩‍👩‍👧.weight",
    "a|b`c``d`[x](javascript:alert(1)) *e* _f_ <g>",
    'comma,"quote"\nnewline\r\n',
    "$\\frac{1}{0}$ $x",
    "\x00\x07control",
    "constructor",
    "__proto__",
    " ",
    "",
)


def hostile() -> MadeUpRun:
    """A model in which nothing has a harmless name."""
    run = MadeUpRun()
    for index, name in enumerate(HOSTILE):
        cells = {"layer_index": index % 4, "tower": name[:40] if index % 5 == 0 else ""}
        run.add(name, "attn.q", "q_proj", (24, 24), **cells)
        run.add(name + ".bias", "bias", "bias", (1, 24), part=name[:60], dtype=name[:30])
    run.add("odd", name[:20], "other", (20, 20), status="failed", reason=HOSTILE[0], layer_index=1)
    run.add("nan", HOSTILE[1], "other", (20, 20), nan_count=3, status="failed", layer_index=1)
    return run
