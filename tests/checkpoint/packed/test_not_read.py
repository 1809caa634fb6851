from pathlib import Path

import pytest
import torch

from paramscope.pipeline import analyze
from unpacking import opened, refusal, write

STEM = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("method", "ending", "dtype"),
    [
        ("aqlm", "codes", torch.int8),
        ("bitnet", "weight", torch.uint8),
        ("eetq", "weight", torch.int8),
        ("exl2", "q_weight", torch.int32),
        ("exl3", "trellis", torch.int16),
        ("fp_quant", "qweight", torch.uint8),
        ("higgs", "weight", torch.int16),
        ("HQQ", "W_q", torch.uint8),
        ("quanto", "weight._data", torch.int8),
        ("quip", "Qidxs", torch.int16),
        ("spqr", "dense_weights", torch.int64),
        ("vptq", "indices", torch.int16),
        ("auto-round", "qweight", torch.int32),
        ("of_tomorrow", "qweight", torch.int32),
    ],
)
def test_codes_of_a_method_that_is_not_read_are_refused_by_its_name(
    tmp_path: Path, method: str, ending: str, dtype: torch.dtype
) -> None:
    name = f"{STEM}.{ending}"
    folder = write(
        tmp_path / "model",
        {
            name: torch.zeros(8, 4, 2, dtype=dtype),
            f"{STEM}.bias": torch.zeros(8),
            f"{STEM}.index": torch.zeros(8, 4, dtype=torch.int32),
            "model.position_ids": torch.zeros(8, dtype=torch.int64),
        },
        {"quantization_config": {"quant_method": method}},
    )

    assert f"codes of the method {method.lower()}, which is not read" in refusal(folder, name)
    with opened(folder) as (_, tensors):
        assert [tensor.name for tensor in tensors.values() if tensor.refusal] == [name]
    run = analyze(folder, out=tmp_path / "out")
    assert run.meta["coverage"]["complete"]
    assert [row["param_name"] for row in run.rows if row["status"] == "refused"] == [name]


@pytest.mark.parametrize("config", [{}, {"quantization_config": {"quant_method": 3}}])
def test_without_a_method_nothing_is_claimed(tmp_path: Path, config: dict[str, object]) -> None:
    folder = write(tmp_path, {f"{STEM}.W_q": torch.zeros(8, 4, dtype=torch.uint8)}, config)

    assert refusal(folder, f"{STEM}.W_q") == ""
