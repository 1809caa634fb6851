"""Safetensors files made by hand, for what the reference library would refuse to write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def header_of(entries: Mapping[str, Any]) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text
