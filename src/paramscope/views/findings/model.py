"""What the model is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from paramscope.views.findings.finding import Evidence, Finding, Name, Table, Text, count, percent
from paramscope.views.words import bytes_text, count_text, printable

_SHAPE_FACTS = {
    "hidden": "Width (hidden size)",
    "heads": "Attention heads",
    "kv_heads": "Key-value heads",
    "head_dim": "Width of a head",
    "experts": "Experts per layer",
    "experts_per_token": "Experts that a token uses",
    "vocabulary": "Vocabulary",
    "context": "Longest context",
}
_NAMES_SHOWN = 80


def model_findings(evidence: Evidence) -> Iterator[Finding]:
    """Family, size and shape in a table; whether input and output embedding are tied."""
    model, covered = evidence.meta["model"], evidence.meta["coverage"]
    family = [str(name) for name in (model.get("model_type"), *model["architectures"]) if name]
    kind: Text = (", ", Name(printable(", ".join(family), _NAMES_SHOWN))) if family else ()
    yield Finding(
        "model",
        "fact",
        (
            Name(printable(str(model["model_id"]), _NAMES_SHOWN)),
            f" has {count_text(covered['parameters'])} parameters in {_layers_text(evidence)}",
            *kind,
            ".",
        ),
        table=Table(("What", "Value"), tuple(_facts(evidence))),
    )
    yield from _tied(evidence)


def layers(evidence: Evidence) -> dict[str, int]:
    """How many layers each tower has."""
    found: dict[str, set[int]] = defaultdict(set)
    for row in evidence.rows:
        if isinstance(row["layer_index"], int):
            found[str(row["tower"] or "")].add(row["layer_index"])
    return {tower: len(indices) for tower, indices in found.items()}


def _layers_text(evidence: Evidence) -> str:
    found = layers(evidence)
    if not found:
        return "no numbered layers"
    if len(found) == 1:
        return count(next(iter(found.values())), "layer")
    parts = (f"{printable(tower, 24) or 'main'} {n:,}" for tower, n in found.items())
    return f"{sum(found.values()):,} layers ({', '.join(parts)})"


def _facts(evidence: Evidence) -> Iterator[tuple[Text, ...]]:
    model, covered = evidence.meta["model"], evidence.meta["coverage"]
    yield ("Parameters",), (count_text(covered["parameters"]),)
    if covered["buffers"]:
        yield ("Buffers, not trained",), (f"{covered['buffers']:,} elements",)
    yield ("Layers",), (_layers_text(evidence),)
    known: Mapping[str, object] = model.get("architecture") or {}
    for key, label in _SHAPE_FACTS.items():
        if isinstance(known.get(key), int):
            yield (label,), (f"{known[key]:,}",)
    yield ("Dtypes, as stored",), (_dtypes(evidence),)
    yield ("Size",), (f"{bytes_text(covered['nbytes'])} in {count(covered['tensors'], 'tensor')}",)
    yield (
        ("Format",),
        (f"{model['format']}, {count(model['files'], 'file')}",),
    )
    licence = str(model.get("licence") or "")
    yield ("Licence",), ((Name(printable(licence, _NAMES_SHOWN)),) if licence else ("not named",))
    if model["revision"]:
        yield ("Revision",), (Name(printable(str(model["revision"]), _NAMES_SHOWN)),)


def _dtypes(evidence: Evidence) -> str:
    elements: Counter[str] = Counter()
    for row in evidence.rows:
        elements[str(row["dtype"])] += int(row["numel"] or 0)
    total = sum(elements.values()) or 1
    if len(elements) == 1:
        return next(iter(elements))
    return ", ".join(f"{name} {percent(n / total)}" for name, n in elements.most_common(6))


def _tied(evidence: Evidence) -> Iterator[Finding]:
    """What the config says of the output head, against what the file holds."""
    says = (evidence.meta["model"].get("architecture") or {}).get("tied")
    inputs = _places(evidence, "embed.token")
    outputs = [p for p in _places(evidence, "output") if _as_large(evidence, p, inputs)]
    if not inputs:
        return
    if not outputs:
        if says:
            yield Finding(
                "tied",
                "fact",
                ("Input and output embedding are one matrix, ", *evidence.names(inputs), "."),
                ("The config says that they are tied, and no output head is stored.",),
                rows=tuple(inputs),
            )
        return
    known = {_content(evidence, place) for place in inputs} - {None}
    same = [place for place in outputs if _content(evidence, place) in known]
    places = tuple(inputs + outputs)
    if same:
        yield Finding(
            "tied",
            "fact",
            ("The output head ", *evidence.names(same), " equals the input embedding."),
            ("They are tied, and stand in the table twice.",),
            rows=places,
        )
    elif says:
        yield Finding(
            "tied",
            "notable",
            (
                "The config says that input and output embedding are tied, but ",
                *evidence.names(outputs),
                " holds other numbers than ",
                *evidence.names(inputs),
                ".",
            ),
            ("A loader that ties them throws one of the two away.",),
            rows=places,
        )
    else:
        yield Finding(
            "tied",
            "fact",
            ("Input and output embedding are separate matrices.",),
            rows=places,
        )


def _places(evidence: Evidence, role: str) -> list[int]:
    return [p for p in evidence.weights() if evidence.rows[p]["role"] == role]


def _as_large(evidence: Evidence, place: int, inputs: list[int]) -> bool:
    """An output head over the vocabulary, not some other task's."""
    shapes = {evidence.rows[p]["shape"] for p in inputs}
    return evidence.rows[place]["shape"] in shapes


def _content(evidence: Evidence, place: int) -> tuple[object, object] | None:
    row = evidence.rows[place]
    return (row["dtype"], row["content_hash"]) if row.get("content_hash") else None
