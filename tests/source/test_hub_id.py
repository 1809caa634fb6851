from __future__ import annotations

import pytest

from paramscope.source.hub_id import HubId, parse_hub_id


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Qwen/Qwen3-4B", HubId("Qwen/Qwen3-4B")),
        ("Qwen/Qwen3-4B@main", HubId("Qwen/Qwen3-4B", "main")),
        ("org/name@refs/pr/1", HubId("org/name", "refs/pr/1")),
        ("hf://org/name", HubId("org/name")),
        ("hf://org/name@v1.0", HubId("org/name", "v1.0")),
        ("hf://gpt2", HubId("gpt2")),
        ("hf://gpt2@0123abc", HubId("gpt2", "0123abc")),
        ("hf://org/name.bin", HubId("org/name.bin")),
        ("a_b/c.d-e", HubId("a_b/c.d-e")),
    ],
)
def test_hub_ids_are_read(text, expected):
    assert parse_hub_id(text) == expected
    assert str(expected) == text.removeprefix("hf://")


@pytest.mark.parametrize(
    "text",
    [
        "gpt2",
        "",
        "/abs/path",
        "./org/name",
        "../name",
        "~/models",
        "a/b/c",
        "org/",
        "org/name@",
        "org/na me",
        "org\\name",
        "C:\\models",
        "org/na--me",
        "org/..name",
        "org/name.git",
        "models/model.safetensors",
        "https://huggingface.co/org/name",
        "org/name@a@b",
        "org/name\n",
        "org/n\u00e4me",
    ],
)
def test_what_is_no_hub_id_is_refused(text):
    assert parse_hub_id(text) is None


def test_a_bare_name_is_an_id_only_on_demand():
    assert parse_hub_id("gpt2", single=True) == HubId("gpt2")
    assert parse_hub_id("gpt2@v1", single=True) == HubId("gpt2", "v1")
