from __future__ import annotations

import numpy as np
import pytest

from paramscope.checkpoint.dtypes import DTYPES

torch = pytest.importorskip("torch")

TORCH = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I8": torch.int8,
    "U8": torch.uint8,
    "I16": torch.int16,
}


@pytest.mark.parametrize("name", TORCH)
def test_every_code_means_what_torch_says(name):
    dtype = DTYPES[name]
    codes = np.arange(2**dtype.bits, dtype=f"u{dtype.bits // 8}")
    theirs = torch.from_numpy(codes.copy()).view(TORCH[name]).to(torch.float64).numpy()
    np.testing.assert_array_equal(dtype.values(), theirs)
    np.testing.assert_array_equal(dtype.decode(codes.reshape(2, -1)), theirs.reshape(2, -1))
