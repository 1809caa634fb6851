"""`report.html`: one file that holds its data, its charts' library and its script, and asks nobody.

Whatever comes from a checkpoint is data: autoescaped by the template, or inside the compressed
data, which the script puts into the page as text only. Should a name slip through all the same,
the page's own policy runs no script but the two whose hashes it names, and reaches no address.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import paramscope
from paramscope.views.findings import LEVELS, Evidence, Section, visible
from paramscope.views.page_data import embedding_data, spectra_data, table_data
from paramscope.views.sampled_spectra import SampledSpectra
from paramscope.views.words import bytes_text, duration_text, printable

LEVEL_WORDS = {"fault": "Fault", "notable": "Notable", "sound": "Sound", "fact": "Fact"}
_TALLY_WORDS = {
    "fault": ("fault", "faults"),
    "notable": ("thing to look at", "things to look at"),
    "sound": ("check passed", "checks passed"),
    "fact": ("fact", "facts"),
}
_SCRIPTS = ("data", "words", "page", "charts", "spectrum", "table", "tokens", "main")
LIBRARY = "plotly-cartesian.min.js.gz"
_LONGEST = 400
_DEFAULTS = {
    "svd": True,
    "method": "exact",
    "rank_k": 128,
    "tolerance": 1e-6,
    "zero_threshold": 1e-8,
}


@dataclass(frozen=True, slots=True)
class Group:
    """A table of the provenance: its heading, its columns' headings if any, its lines."""

    heading: str
    lines: Sequence[Sequence[str]]
    headings: Sequence[str] = ()


def page(
    evidence: Evidence,
    sections: Sequence[Section],
    spectra: SampledSpectra,
    embedding_folder: Path,
) -> str:
    """The whole page as text; the same for the same tables."""
    from markupsafe import Markup

    script = page_script()
    plotly = plotly_source()
    tally = Counter(finding.level for section in sections for finding in section.findings)
    text: str = _template().render(
        model_id=printable(str(evidence.meta["model"]["model_id"]), _LONGEST),
        version=paramscope.__version__,
        policy=policy(script, plotly),
        css=Markup(_own("report.css")),
        script=Markup(script),
        plotly=Markup(base64.b64encode(_packed_library()).decode()),
        sections=sections,
        level_words=LEVEL_WORDS,
        tally=[(level, _TALLY_WORDS[level][tally[level] != 1], tally[level]) for level in LEVELS],
        table_data=Markup(table_data(evidence.rows, sections)),
        spectra_data=Markup(spectra_data(evidence.rows, spectra)),
        embedding_data=Markup(embedding_data(embedding_folder, evidence.embedding)),
        command=command(evidence.meta),
        provenance=provenance(evidence.meta),
    )
    return text


def policy(*scripts: str) -> str:
    """The page's Content-Security-Policy: these scripts and no others, no address at all."""
    hashes = " ".join(f"'sha256-{_base64_sha256(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _base64_sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


@cache
def page_script() -> str:
    """The page's script: the files under templates/js, in one function."""
    body = "\n".join(_own(f"js/{name}.js") for name in _SCRIPTS)
    return f'(() => {{\n"use strict";\n{body}\n}})();'


@cache
def plotly_source() -> str:
    """The charts' library."""
    return gzip.decompress(_packed_library()).decode()


def _packed_library() -> bytes:
    return (resources.files("paramscope.views") / "vendor" / LIBRARY).read_bytes()


def _own(name: str) -> str:
    return (resources.files("paramscope.views") / "templates" / name).read_text("utf-8")


def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters["visible"] = visible
    return environment.from_string(_own("report.html.j2"))


def command(meta: Mapping[str, Any]) -> str:
    """What makes the same tables again."""
    model, options = meta["model"], meta["options"]
    name = str(model["model_path"])
    if model["revision"] and name == model["model_id"]:
        name = f"{name}@{model['revision']}"
    words = ["paramscope", "run", name]
    for key, default in _DEFAULTS.items():
        value = options.get(key, default)
        if key == "svd":
            words += [] if value else ["--no-svd"]
        elif value != default:
            words += [f"--{key.replace('_', '-')}", str(value)]
    return printable(shlex.join(words), 10 * _LONGEST)


def provenance(meta: Mapping[str, Any]) -> list[Group]:
    """Versions, options, device, files and times, as the run noted them."""
    model, timing = meta["model"], meta["timing"]
    about = {
        "Model": model["model_id"],
        "Place": model["model_path"],
        "Revision": model["revision"] or "not known",
        "Licence": model.get("licence") or "not named",
        "Format": model["format"],
        "Time": f"{duration_text(timing['wall_s'])}; the matrices "
        f"took {duration_text(timing['matrices_s'])} summed over the workers",
    }
    files = [
        (_safe(f["file"]), bytes_text(f["size_bytes"]), f["sha256"] or "not computed")
        for f in meta["files"]
    ]
    groups = [
        Group("Model and run", _lines(about)),
        Group("Files", files, ("File", "Size", "SHA-256")),
        Group("Options", _lines(meta["options"])),
        Group("Device", _lines(meta["device"])),
        Group("Versions", _lines(meta["versions"])),
    ]
    if meta["notes"]:
        groups.append(Group("Notes", [(str(i), _safe(n)) for i, n in enumerate(meta["notes"], 1)]))
    return groups


def _lines(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(key), _safe(value)) for key, value in values.items()]


def _safe(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(str, value))
    return printable("-" if value is None else str(value), _LONGEST)
