from __future__ import annotations

import pytest

from paramscope.errors import SourceError
from paramscope.source.selection import demand_safe, missing_shards, select

BESIDE = ["README.md", "config.json", "generation_config.json", "tokenizer.json"]


def shards(stem: str, total: int, ending: str) -> list[str]:
    return [f"{stem}-{n:05d}-of-{total:05d}{ending}" for n in range(1, total + 1)]


def test_safetensors_come_before_pickles_and_the_rest():
    names = [*BESIDE, "model.safetensors", "pytorch_model.bin", "tf_model.h5", "model.gguf"]
    assert select(names) == sorted([*BESIDE, "model.safetensors"])


def test_shards_come_with_their_index():
    model = [*shards("model", 3, ".safetensors"), "model.safetensors.index.json"]
    others = ["consolidated.safetensors", *shards("pytorch_model", 2, ".bin")]
    assert select([*BESIDE, *model, *others]) == sorted([*BESIDE, *model])


def test_the_main_variant_is_chosen_among_several_indices():
    main = [*shards("model", 2, ".safetensors"), "model.safetensors.index.json"]
    variant = [*shards("model.fp16", 2, ".safetensors"), "model.fp16.safetensors.index.json"]
    assert select([*variant, *main]) == sorted(main)


def test_pickles_are_chosen_where_there_is_nothing_better():
    weights = [*shards("pytorch_model", 2, ".bin"), "pytorch_model.bin.index.json"]
    training = ["training_args.bin", "optimizer.bin", "rng_state.pth", "scheduler.pt"]
    assert select([*BESIDE, *weights, *training]) == sorted([*BESIDE, *weights])


def test_the_most_precise_gguf_is_chosen_with_all_its_parts():
    names = ["m-Q4_K_M.gguf", "m-Q8_0.gguf", *shards("m-BF16", 2, ".gguf")]
    assert select(names) == shards("m-BF16", 2, ".gguf")
    assert select(["m-Q4_K_M.gguf", "m-Q8_0.gguf"]) == ["m-Q8_0.gguf"]
    assert select(["weights.gguf"]) == ["weights.gguf"]


def test_deeper_folders_are_left_out_where_the_top_has_weights():
    names = [
        "model.safetensors",
        "onnx/model.onnx",
        "original/consolidated.00.pth",
        "original/config.json",
    ]
    assert select(names) == ["model.safetensors"]


def test_all_components_of_a_pipeline_are_chosen():
    names = ["unet/model.safetensors", "unet/config.json", "vae/model.safetensors", "README.md"]
    assert select(names) == sorted(names)


def test_no_weights_choose_nothing():
    assert select(["README.md", "config.json", "model.onnx"]) == []


def test_everything_and_patterns():
    names = [*BESIDE, "model.safetensors", "onnx/model.onnx", "runs/a/events.out"]
    assert select(names, everything=True) == sorted(names)
    assert select(names, include=["onnx/"]) == ["onnx/model.onnx"]
    assert select(names, include=["*.json"], exclude=["token*"]) == [
        "config.json",
        "generation_config.json",
    ]
    assert "model.safetensors" not in select(names, exclude=["*.safetensors"])


def test_a_series_shows_what_it_lacks():
    names = shards("model", 3, ".safetensors")
    assert missing_shards(names) == []
    assert missing_shards(names[:1] + names[2:]) == names[1:2]


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "a/../../evil",
        "/etc/passwd",
        "C:/evil",
        "C:evil",
        "a\\..\\evil",
        "\\\\host\\share",
        "a\0b",
        "a\nb",
        "",
        "a//b",
        "./a",
        "NUL",
        "aux.json",
        "a/COM1.txt",
        "name.",
        "name ",
        "file:stream",
    ],
)
def test_names_that_leave_the_folder_are_refused(name):
    with pytest.raises(SourceError, match="cannot be written safely"):
        demand_safe(name, where="org/name")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "1_Pooling/config.json", "console.json", "a..b"]
)
def test_ordinary_names_are_safe(name):
    demand_safe(name, where="org/name")
