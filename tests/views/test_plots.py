from __future__ import annotations

import hashlib
import warnings
from xml.etree import ElementTree

import pytest

from made_up_run import HOSTILE, hostile, transformer
from paramscope.errors import UsageError
from paramscope.report_run import report
from paramscope.views.plots import drawable


def pictures(folder):
    return {file.name: file.read_bytes() for file in (folder / "plots").iterdir()}


def test_plots_are_whole_pictures_and_the_same_every_time(tmp_path):
    folder = transformer(layers=4).write(tmp_path / "run")
    report(folder)
    first = pictures(folder)
    assert {"heat_svd_90_percent_ratio.png", "depth_frobenius_norm.png", "spectra.png"} <= set(
        first
    )
    assert "parameters_by_role.png" in first
    assert all(data.startswith(b"\x89PNG") and b"IEND" in data[-12:] for data in first.values())
    report(folder)
    assert pictures(folder) == first


def test_svg_on_request_with_titles_and_axes_as_text(tmp_path):
    folder = transformer(layers=2).write(tmp_path / "run")
    report(folder, plots=("svg",))
    first = {name: hashlib.sha256(data).hexdigest() for name, data in pictures(folder).items()}
    assert all(name.endswith(".svg") for name in first)
    for file in (folder / "plots").iterdir():
        ElementTree.parse(file)
    report(folder, plots=("svg",))
    assert first == {n: hashlib.sha256(d).hexdigest() for n, d in pictures(folder).items()}


def test_no_plots_on_request_and_an_unknown_format_is_named(tmp_path):
    folder = transformer(layers=2).write(tmp_path / "run")
    report(folder, plots=())
    assert not (folder / "plots").exists()
    with pytest.raises(UsageError, match="unknown 'bmp'"):
        report(folder, plots=("bmp",))


def test_hostile_names_draw_without_a_warning(tmp_path):
    folder = hostile().write(tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report(folder)
    assert all(name.replace("_", "").replace(".", "").isalnum() for name in pictures(folder))


@pytest.mark.parametrize("name", HOSTILE)
def test_drawable_text_has_no_mathematics(name):
    text = drawable(name, 32)
    assert "$" not in text.replace(r"\$", "")
    assert len(text) <= 40
