from __future__ import annotations

from paramscope.anatomy.architecture import architecture


def test_only_what_the_config_says():
    assert architecture({}) == {}
    assert architecture({"num_attention_heads": "12", "tie_word_embeddings": "yes"}) == {}


def test_a_nested_config_is_the_main_stacks():
    config = {
        "model_type": "some_vl",
        "tie_word_embeddings": True,
        "text_config": {
            "num_hidden_layers": 4,
            "hidden_size": 64,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "num_experts": 16,
            "num_experts_per_tok": 3,
            "vocab_size": 100,
        },
        "vision_config": {"num_hidden_layers": 9, "hidden_size": 32},
    }
    assert architecture(config) == {
        "layers": 4,
        "hidden": 64,
        "heads": 8,
        "kv_heads": 2,
        "head_dim": 8,
        "experts": 16,
        "experts_per_token": 3,
        "vocabulary": 100,
        "tied": True,
    }
