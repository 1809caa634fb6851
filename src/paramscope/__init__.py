"""Measure every parameter of a transformer checkpoint, without running the model.

    import paramscope

    run = paramscope.analyze("path/to/model")
    run.rows                                   # the table
    run.spectrum("model.layers.0.self_attn.q_proj.weight")

The names load on first use, so that `import paramscope` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paramscope.embeddings.options import EmbeddingOptions
    from paramscope.embeddings.run import embedding, embedding_all
    from paramscope.errors import ParamscopeError
    from paramscope.options import Options
    from paramscope.pipeline import analyze, analyze_all
    from paramscope.report_run import report, run, run_all
    from paramscope.source.download import DownloadResult, download
    from paramscope.structure import Structure, inspect, inspect_all
    from paramscope.table.embedding_result import Embedding
    from paramscope.table.results import Run

__version__ = "0.1.0"

_PUBLIC = {
    "Options": "options",
    "ParamscopeError": "errors",
    "Run": "table.results",
    "Structure": "structure",
    "DownloadResult": "source.download",
    "Embedding": "table.embedding_result",
    "EmbeddingOptions": "embeddings.options",
    "analyze": "pipeline",
    "analyze_all": "pipeline",
    "download": "source.download",
    "embedding": "embeddings.run",
    "embedding_all": "embeddings.run",
    "report": "report_run",
    "run": "report_run",
    "run_all": "report_run",
    "inspect": "structure",
    "inspect_all": "structure",
}

__all__ = [
    "DownloadResult",
    "Embedding",
    "EmbeddingOptions",
    "Options",
    "ParamscopeError",
    "Run",
    "Structure",
    "analyze",
    "analyze_all",
    "download",
    "embedding",
    "embedding_all",
    "inspect",
    "inspect_all",
    "report",
    "run",
    "run_all",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'paramscope' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"paramscope.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
