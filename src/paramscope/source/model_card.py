"""What the model card says about itself: the front matter of `README.md`."""

from __future__ import annotations

import re

from paramscope.errors import SourceError
from paramscope.source import Source

_CARD = "README.md"
_READ_BYTES = 2**16
_FRONT_MATTER = re.compile(r"\A\ufeff?---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
_LINE = re.compile(r"^(license|license_name|license_link):[ \t]*(\S.*?)\s*$", re.MULTILINE)
_LONGEST = 100


def licence(source: Source) -> str:
    """The licence as the card names it (`apache-2.0`); empty where there is no card or no word."""
    size_bytes = source.files().get(_CARD, 0)
    if not size_bytes:
        return ""
    try:
        card = source.read(_CARD, 0, min(size_bytes, _READ_BYTES)).decode("utf-8", "replace")
    except SourceError:
        return ""
    front_matter = _FRONT_MATTER.match(card.replace("\r\n", "\n"))
    if front_matter is None:
        return ""
    found: dict[str, str] = {
        key: value.strip("'\"") for key, value in _LINE.findall(front_matter[1])
    }
    name = found.get("license", "")
    if name == "other":
        name = found.get("license_name") or found.get("license_link") or name
    return str(name)[:_LONGEST]
