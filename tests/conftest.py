"""What several stages' tests share: small checkpoints, the real model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the long forms")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="the long form; run with --slow"))


@pytest.fixture(autouse=True, scope="session")
def _one_cache_for_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Calibration goes to a folder of the tests; the demo's model stays where it is kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARAMSCOPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def real_model() -> Path:
    """all-MiniLM-L6-v2 with its tokenizer."""
    import os

    from paramscope.demo_model import demo_model

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PARAMSCOPE_CACHE", raising=False)
        if shared := os.environ.get("PARAMSCOPE_TEST_CACHE"):
            patch.setenv("PARAMSCOPE_CACHE", shared)
        return demo_model()


Write = Callable[..., Path]


@pytest.fixture
def write_checkpoint(tmp_path: Path) -> Write:
    """Write tensors with the reference library; gives the folder."""

    def write(
        tensors: Mapping[str, np.ndarray],
        *,
        folder: str = "model",
        file: str = "model.safetensors",
        config: Mapping[str, Any] | None = None,
    ) -> Path:
        from safetensors.numpy import save_file

        place = tmp_path / folder
        place.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors), place / file)
        if config is not None:
            (place / "config.json").write_text(json.dumps(config))
        return place

    return write
