"""Where the parameters are, and the arithmetic of a forward pass.

A matrix costs a multiplication and an addition per element and token: 2·m·n operations. Looking a
token up in an embedding costs none. Of E experts a token uses the k that the config names, so that
each counts k/E.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from paramscope.table.schema import Row
from paramscope.views.findings.finding import Evidence, Finding, Table, count, number, percent
from paramscope.views.words import bytes_text, printable

_NO_PRODUCT = ("embedding", "norm", "bias", "buffer")
_UNITS = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))


def cost_findings(evidence: Evidence) -> Iterator[Finding]:
    """Parameters, bytes and operations per token, by role."""
    by_role: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, row in enumerate(evidence.rows):
        if row["block_type"] != "buffer":
            by_role[str(row["tower"] or ""), str(row["role"])].append(place)
    operations = dict.fromkeys(by_role, 0.0)
    for key, places in by_role.items():
        operations[key] = sum(_operations(evidence, place) for place in places)
    tied = _tied_head(evidence)
    total = sum(operations.values()) + tied
    parameters = sum(number(evidence.rows[p], "numel") for ps in by_role.values() for p in ps)
    if not parameters:
        return
    yield _parameters(evidence, by_role, operations, total, parameters)
    yield _arithmetic(evidence, operations, total, tied)


def operations_text(operations: float) -> str:
    """`43.2 M operations`."""
    for unit, size in _UNITS:
        if operations >= size:
            return f"{operations / size:.3g} {unit}"
    return f"{operations:.0f}"


def _operations(evidence: Evidence, place: int) -> float:
    row = evidence.rows[place]
    one_dimensional = number(row, "rows") < 2 and "," not in str(row["shape"]).rstrip(",)")
    if row["block_type"] in _NO_PRODUCT and row["role"] != "embed.patch":
        return 0.0
    if one_dimensional:
        return 0.0
    return 2 * number(row, "numel") * _share_used(evidence, row)


def _share_used(evidence: Evidence, row: Row) -> float:
    known = evidence.meta["model"].get("architecture") or {}
    experts, used = known.get("experts"), known.get("experts_per_token")
    if row["expert_index"] is None or not experts or not used:
        return 1.0
    return min(1.0, float(used) / float(experts))


def _tied_head(evidence: Evidence) -> float:
    """Operations of an output head that is the input embedding, and so has no row of its own."""
    model = evidence.meta["model"]
    generates = any(
        word in str(name) for name in model["architectures"] for word in ("CausalLM", "Generation")
    )
    has_head = any(row["role"] == "output" for row in evidence.rows)
    if not generates or has_head or not (model.get("architecture") or {}).get("tied"):
        return 0.0
    embeddings = [row for row in evidence.rows if row["role"] == "embed.token"]
    return 2 * max((number(row, "numel") for row in embeddings), default=0.0)


def _parameters(
    evidence: Evidence,
    by_role: dict[tuple[str, str], list[int]],
    operations: dict[tuple[str, str], float],
    total: float,
    parameters: float,
) -> Finding:
    rows = evidence.rows
    elements = {key: sum(number(rows[p], "numel") for p in ps) for key, ps in by_role.items()}
    order = sorted(by_role, key=lambda key: -elements[key])
    lines = tuple(
        (
            (_label(key),),
            (f"{len(by_role[key]):,}",),
            (f"{int(elements[key]):,}",),
            (percent(elements[key] / parameters),),
            (bytes_text(int(sum(number(rows[p], "nbytes") for p in by_role[key]))),),
            (operations_text(operations[key]) if operations[key] else "-",),
            (percent(operations[key] / total) if total and operations[key] else "-",),
        )
        for key in order
    )
    blocks: Counter[str] = Counter()
    for (_, role), places in by_role.items():
        blocks[_block(role)] += int(sum(number(rows[p], "numel") for p in places))
    shares = ", ".join(f"{name} {percent(n / parameters)}" for name, n in blocks.most_common(4))
    return Finding(
        "parameters",
        "fact",
        (f"The parameters are in: {shares}.",),
        table=Table(
            (
                "Role",
                "Rows",
                "Parameters",
                "Share",
                "Size",
                "Operations per token",
                "Share of operations",
            ),
            lines,
            numeric=frozenset(range(1, 7)),
        ),
    )


def _label(key: tuple[str, str]) -> str:
    tower, role = key
    return f"{printable(tower, 24)}: {role}" if tower else role


def _block(role: str) -> str:
    words = {
        "attn": "attention",
        "cross_attn": "cross-attention",
        "mlp": "MLP",
        "moe": "experts",
        "embed": "embeddings",
        "output": "output head",
        "norm": "norms",
        "bias": "biases",
    }
    return words.get(role.split(".")[0], role.split(".")[0])


def _arithmetic(
    evidence: Evidence, operations: dict[tuple[str, str], float], total: float, tied: float
) -> Finding:
    known = evidence.meta["model"].get("architecture") or {}
    blocks: Counter[str] = Counter({"output head": int(tied)} if tied else {})
    for (_, role), n in operations.items():
        blocks[_block(role)] += int(n)
    shares = ", ".join(
        f"{name} {percent(n / total)}" for name, n in blocks.most_common(4) if total and n
    )
    details = ["Two operations per element of each matrix a token goes through."]
    if any(row["expert_index"] is not None for row in evidence.rows):
        if known.get("experts") and known.get("experts_per_token"):
            used = f"{known['experts_per_token']:,} of {count(known['experts'], 'expert')}"
            details.append(f"A token uses {used}, and they count by that share.")
        else:
            details.append("The config does not say how many experts a token uses: all count.")
    if tied:
        details.append("The output head is the input embedding once more.")
    if known.get("heads") and known.get("head_dim"):
        per_position = 4 * known["heads"] * known["head_dim"]
        details.append(
            f"The attention scores come on top: {per_position:,} operations per layer for each "
            "earlier token."
        )
    if len({tower for tower, _ in operations}) > 1:
        details.append("Towers see different numbers of tokens; the sum takes one for each.")
    return Finding(
        "arithmetic",
        "fact",
        (
            f"A token costs about {operations_text(total)} operations in the matrices"
            + (f": {shares}." if shares else "."),
        ),
        (" ".join(details),),
    )
