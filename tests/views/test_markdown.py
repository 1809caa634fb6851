from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from made_up_run import HOSTILE, hostile
from paramscope.report_run import report
from paramscope.views.markdown import code, escaped
from paramscope.views.words import printable

MARKDOWN = MarkdownIt("commonmark").enable("table")


@pytest.mark.parametrize("name", [name for name in HOSTILE if name.strip()])
def test_a_name_is_a_code_span_and_nothing_else(name):
    (_, inline, _) = MARKDOWN.parse(f"x {code(name)} y")
    kinds = [token.type for token in inline.children]
    assert kinds == ["text", "code_inline", "text"]
    wanted = printable(name).replace("|", "\u2223")
    assert inline.children[1].content in (wanted, wanted.strip(), f" {wanted} ")


def test_a_name_in_a_table_ends_no_cell():
    text = f"| a | b |\n|---|---|\n| {code('x|y')} | z |\n"
    assert MARKDOWN.render(text).count("<td>") == 2


def test_our_own_sentences_lose_their_markup():
    sentence = "‖W - W_r‖ <b> *x* [a](b) `c` ~~d~~ & $e$"
    html = MARKDOWN.render(escaped(sentence))
    assert html == "<p>‖W - W_r‖ &lt;b&gt; *x* [a](b) `c` ~~d~~ &amp; $e$</p>\n"


def test_a_report_full_of_hostile_names_has_no_html_and_no_link(tmp_path):
    folder = hostile().write(tmp_path / "run", model={"model_id": HOSTILE[0]})
    report(folder, plots=())
    text = (folder / "report.md").read_text("utf-8")
    kinds = set()
    for token in MARKDOWN.parse(text):
        kinds |= {token.type, *(child.type for child in token.children or ())}
    assert not kinds & {"html_block", "html_inline", "link_open", "image"}
    assert "\x00" not in text and "\u202e" not in text
