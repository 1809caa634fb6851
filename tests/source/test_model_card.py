from __future__ import annotations

from contextlib import closing

import pytest

from paramscope.source.local import LocalSource
from paramscope.source.model_card import licence


@pytest.mark.parametrize(
    ("card", "says"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0\ntags:\n- x\n---\n# A model", "apache-2.0"),
        ("---\r\nlicense: 'mit'\r\n---\r\n", "mit"),
        ("---\nlicense: other\nlicense_name: tongyi\n---\n", "tongyi"),
        ("---\nlicense: other\n---\n", "other"),
        ("# No front matter\nlicense: mit\n", ""),
        ("---\ntags: [a]\n---\nlicense: mit\n", ""),
        ("---\nlicense: " + "x" * 10_000 + "\n---\n", "x" * 100),
        ("", ""),
    ],
)
def test_the_licence_is_what_the_front_matter_names(tmp_path, card, says):
    (tmp_path / "README.md").write_bytes(card.encode())
    with closing(LocalSource(tmp_path)) as source:
        assert licence(source) == says


def test_no_card_no_licence(tmp_path):
    assert licence(LocalSource(tmp_path)) == ""
