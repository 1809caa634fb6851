"""What a run found, in plain words: from the tables alone, each finding with its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from paramscope.views.findings.compression import compression_findings
from paramscope.views.findings.cost import cost_findings
from paramscope.views.findings.embedding import embedding_findings
from paramscope.views.findings.finding import LEVELS, Evidence, Finding, Section, visible
from paramscope.views.findings.model import model_findings
from paramscope.views.findings.outliers import outlier_findings
from paramscope.views.findings.soundness import soundness_findings

_SECTIONS: tuple[tuple[str, str, Callable[[Evidence], Iterable[Finding]]], ...] = (
    ("what", "What the model is", model_findings),
    ("sound", "Whether the checkpoint is whole and sound", soundness_findings),
    ("compress", "What could be compressed", compression_findings),
    ("stand-out", "Which layers stand out", outlier_findings),
    ("cost", "Where the parameters and the arithmetic are", cost_findings),
    ("embedding", "What the embedding holds", embedding_findings),
)


def find(evidence: Evidence) -> list[Section]:
    """All findings, in sections; within each, faults first."""
    sections = []
    for key, heading, look in _SECTIONS:
        found = sorted(look(evidence), key=lambda finding: LEVELS.index(finding.level))
        if found:
            sections.append(Section(key, heading, tuple(found)))
    return sections


__all__ = ["LEVELS", "Evidence", "Finding", "Section", "find", "visible"]
