"""Documentation that cannot go stale unseen."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import paramscope
from paramscope.cli import paramscope as cli
from paramscope.views.console import view

ROOT = Path(__file__).parents[1]
README, CHINESE = (ROOT / name for name in ("README.md", "README.zh-CN.md"))

spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
generate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generate)


@pytest.mark.parametrize("name", generate.PAGES)
def test_reference_pages_are_fresh(name):
    page = (ROOT / "docs" / name).read_text("utf-8")
    assert page == generate.PAGES[name](), "run: python docs/generate.py"


def code_blocks(path: Path) -> list[list[str]]:
    """What stands in each, without the comments at the ends of lines: they are translated."""
    blocks = re.findall(r"```\w*\n(.*?)```", path.read_text("utf-8"), flags=re.DOTALL)
    return [re.sub(r" +# .*", "", block).splitlines() for block in blocks]


def test_both_readmes_have_the_same_code_and_link_to_each_other():
    assert code_blocks(README) == code_blocks(CHINESE)
    pictures = [
        re.findall(r"^!\[.+\]\((.*)\)$", p.read_text("utf-8"), flags=re.M)
        for p in (README, CHINESE)
    ]
    assert pictures[0] == pictures[1]
    headings = [re.findall(r"^#+", p.read_text("utf-8"), flags=re.M) for p in (README, CHINESE)]
    assert headings[0] == headings[1]
    assert "README.zh-CN.md" in README.read_text("utf-8")
    assert "README.md" in CHINESE.read_text("utf-8")


def test_the_readme_shows_what_the_demo_prints(real_model, tmp_path):
    run = paramscope.analyze(
        real_model, out=tmp_path, model_id="sentence-transformers/all-MiniLM-L6-v2"
    )
    lines = [*view(run.rows, run.meta), "Results:"]
    shown = [line for line in generate.shortened(lines) if not line.startswith("Time:")]
    readme = README.read_text("utf-8")
    missing = [line for line in shown if line not in readme]
    assert not missing, "run: python docs/generate.py --readme"


def test_every_command_is_in_the_readme():
    text = README.read_text("utf-8")
    assert [name for name in cli.commands if f"paramscope {name}" not in text] == []


def test_links_in_the_documentation_lead_somewhere():
    for page in (README, CHINESE, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_public_names_are_documented():
    for name in paramscope.__all__:
        assert getattr(paramscope, name).__doc__, name


def test_the_citation_names_this_version():
    text = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {paramscope.__version__}\n" in text
