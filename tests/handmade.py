"""Things made by hand: headers that the reference library would refuse, a made-up machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from paramscope.engine.calibration import Rates

RATES = Rates(gram_flops=1e10, eigen_s=((64, 1e-3), (256, 2e-2)), element_s=1e-9, decode_s=1e-9)


def header_of(entries: Mapping[str, Any]) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text
