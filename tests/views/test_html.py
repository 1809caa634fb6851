"""The page as text: its policy, its data, and what a checkpoint's names become in it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import struct
from html.parser import HTMLParser

import numpy as np
import pytest

from made_up_run import HOSTILE, hostile, transformer
from paramscope.report_run import report
from paramscope.table.results import Run
from paramscope.views.html import command, page_script, plotly_source

LIBRARY_SHA256 = "79542150855a52c567260e3137095dbe2b744e6d702a5cabe67da246942fba7a"


class Page(HTMLParser):
    """Its elements, and the text of its scripts by id."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.words, self._inside = [], {}, [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._inside = dict(attrs).get("id", f"inline-{len(self.scripts)}")

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside:
            self.scripts[self._inside] = self.scripts.get(self._inside, "") + data
        else:
            self.words.append(data)


def unpacked(text):
    """The head and a function from its references to arrays."""
    data = gzip.decompress(base64.b64decode(text))
    (size,) = struct.unpack_from("<I", data)
    kinds = {"int32": "<i4", "float32": "<f4", "float64": "<f8"}

    def array(ref):
        return np.frombuffer(data, kinds[ref["type"]], ref["length"], 4 + size + ref["at"])

    return json.loads(data[4 : 4 + size]), array


@pytest.fixture
def small(tmp_path):
    folder = transformer(layers=3).write(tmp_path / "run")
    return Run(folder), report(folder, plots=()).read_text("utf-8")


def test_the_library_is_the_one_from_the_registry():
    assert hashlib.sha256(plotly_source().encode()).hexdigest() == LIBRARY_SHA256


def test_the_policy_allows_the_two_scripts_and_no_address(small):
    page = Page(small[1])
    (policy,) = [a["content"] for tag, a in page.tags if a.get("http-equiv")]
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (page_script(), plotly_source())
    ]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert re.findall(r"sha256-([^']+)", policy) == hashes
    assert "unsafe-eval" not in policy and "http" not in policy
    (script,) = [text for name, text in page.scripts.items() if name.startswith("inline")]
    assert script == page_script()


def test_nothing_in_the_page_points_anywhere_else(small):
    addresses = [a.get("src") or a.get("href") or "" for _, a in Page(small[1]).tags]
    assert all(not address or address.startswith("#") for address in addresses)


def test_the_page_holds_every_cell_in_full_precision(small):
    run, text = small
    head, array = unpacked(Page(text).scripts["data-table"])
    assert head["rows"] == len(run.rows)
    for column in head["columns"]:
        cells = [row[column["name"]] for row in run.rows]
        if column["dtype"] == "string":
            found = [column["values"][code] for code in array(column["codes"])]
        else:
            numbers = array(column["numbers"])
            missing = np.isnan(numbers) | (numbers == -(2**31))
            found = [None if m else x for x, m in zip(numbers, missing, strict=True)]
        assert found == cells, column["name"]


def test_spectra_are_thinned_out_but_keep_both_ends(small):
    run, text = small
    head, array = unpacked(Page(text).scripts["data-spectra"])
    values, start = array(head["values"]), 0
    lengths = array(head["lengths"])
    assert list(array(head["places"])) == list(range(len(run.rows)))
    for place, length in zip(array(head["places"]), lengths, strict=True):
        row = run.rows[place]
        kept = array(head["positions"][str(length)])
        s = run.spectrum(row["param_name"])
        assert (kept[0], kept[-1]) == (0, len(s) - 1)
        np.testing.assert_array_equal(values[start : start + len(kept)], s[kept].astype(np.float32))
        start += len(kept)
    assert head["points"] == 256


def test_everything_besides_the_data_is_below_8_mb(small):
    page = Page(small[1])
    data = sum(len(page.scripts[name]) for name in ("data-table", "data-spectra"))
    assert len(small[1]) - data < 8e6
    assert len(small[1]) - data < 1e6  # what it is today; more wants a reason


def test_hostile_names_are_text(tmp_path):
    folder = hostile().write(
        tmp_path / "run", model={"model_id": HOSTILE[0], "licence": HOSTILE[1]}
    )
    page = Page(report(folder, plots=()).read_text("utf-8"))
    assert [a for tag, a in page.tags if tag == "script" and not a.get("id")] == [{}]
    assert not [tag for tag, _ in page.tags if tag in ("img", "iframe", "object", "g")]
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
    words = "".join(page.words)
    assert HOSTILE[0] in words and HOSTILE[1] in words
    assert "\u202e" not in words and "\x07" not in words


def test_how_to_reproduce_names_what_is_not_the_default():
    meta = {
        "model": {"model_path": "my models/x", "model_id": "x", "revision": ""},
        "options": {"svd": False, "tolerance": 1e-3, "method": "exact"},
    }
    assert command(meta) == "paramscope run 'my models/x' --no-svd --tolerance 0.001"
    hub = {"model_path": "org/name", "model_id": "org/name", "revision": "abc"}
    assert command({"model": hub, "options": {}}) == "paramscope run org/name@abc"
