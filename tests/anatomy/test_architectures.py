"""Every parameter of tiny random models of transformers' families, as they save themselves.

What a parameter should be is decided here from the model's modules: the class and the place of
the module that owns it. The tables under test are not asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from paramscope.anatomy import Matrix
from paramscope.anatomy.dissect import dissect
from paramscope.anatomy.roles import ROLES
from paramscope.checkpoint import Checkpoint

# transformers and torch warn of their own deprecations; ours are errors in all other tests.
pytestmark = pytest.mark.filterwarnings("ignore")


@dataclass(frozen=True)
class Architecture:
    """A family, what its tiny config changes, and how many layers and experts it then has."""

    model_type: str
    model_class: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    towers: Mapping[str, int] = field(default_factory=lambda: {"": 2})
    experts: int = 0


ARCHITECTURES = (
    Architecture("afmoe", "AfmoeForCausalLM", experts=3),
    Architecture("aimv2", "Aimv2Model", towers={"text": 2, "vision": 2}),
    Architecture("albert", "AlbertForMaskedLM", towers={"": 1}),
    Architecture("apertus", "ApertusForCausalLM"),
    Architecture("arcee", "ArceeForCausalLM"),
    Architecture(
        "aria", "AriaForConditionalGeneration", towers={"text": 2, "vision": 2}, experts=4
    ),
    Architecture("axk1", "AXK1ForCausalLM", experts=4),
    Architecture("bamba", "BambaForCausalLM"),
    Architecture("bart", "BartForConditionalGeneration", towers={"decoder": 3, "encoder": 2}),
    Architecture("beit", "BeitForImageClassification"),
    Architecture("bert", "BertForPreTraining"),
    Architecture("bert-generation", "BertGenerationDecoder"),
    Architecture("big_bird", "BigBirdForCausalLM"),
    Architecture("biogpt", "BioGptForCausalLM"),
    Architecture("bitnet", "BitNetForCausalLM"),
    Architecture(
        "blenderbot", "BlenderbotForConditionalGeneration", towers={"decoder": 3, "encoder": 2}
    ),
    Architecture("blip", "BlipForConditionalGeneration", towers={"text": 2, "vision": 2}),
    Architecture(
        "blip-2", "Blip2ForConditionalGeneration", towers={"qformer": 2, "text": 2, "vision": 2}
    ),
    Architecture("bloom", "BloomForCausalLM"),
    Architecture("camembert", "CamembertForMaskedLM"),
    Architecture(
        "canine",
        "CanineModel",
        towers={"encoder": 2, "final_char_encoder": 1, "initial_char_encoder": 1},
    ),
    Architecture("chinese_clip", "ChineseCLIPModel", towers={"text": 2, "vision": 2}),
    Architecture("clip", "CLIPModel", towers={"text": 2, "vision": 2}),
    Architecture("codegen", "CodeGenForCausalLM"),
    Architecture("cohere", "CohereForCausalLM"),
    Architecture("cohere2", "Cohere2ForCausalLM"),
    Architecture("convbert", "ConvBertForMaskedLM"),
    Architecture(
        "convnext",
        "ConvNextForImageClassification",
        overrides={"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]},
        towers={"": 5},
    ),
    Architecture("ctrl", "CTRLLMHeadModel", overrides={"dff": 44, "n_positions": 64}),
    Architecture("cwm", "CwmForCausalLM"),
    Architecture("data2vec-text", "Data2VecTextForCausalLM"),
    Architecture(
        "dbrx",
        "DbrxForCausalLM",
        overrides={
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
            "ffn_config": {"ffn_hidden_size": 44, "moe_num_experts": 3, "moe_top_k": 2},
            "max_seq_len": 64,
        },
        experts=3,
    ),
    Architecture("deberta", "DebertaForMaskedLM"),
    Architecture("deberta-v2", "DebertaV2ForMaskedLM"),
    Architecture("deepseek_v2", "DeepseekV2ForCausalLM", experts=4),
    Architecture("deepseek_v3", "DeepseekV3ForCausalLM", experts=4),
    Architecture("deepseek_v32", "DeepseekV32ForCausalLM", experts=4),
    Architecture("deepseek_v4", "DeepseekV4ForCausalLM", experts=4),
    Architecture("deit", "DeiTForImageClassification"),
    Architecture("diffllama", "DiffLlamaForCausalLM"),
    Architecture("dinov2", "Dinov2ForImageClassification"),
    Architecture("dinov2_with_registers", "Dinov2WithRegistersForImageClassification"),
    Architecture("dinov3_vit", "DINOv3ViTModel"),
    Architecture("distilbert", "DistilBertForMaskedLM"),
    Architecture("doge", "DogeForCausalLM"),
    Architecture(
        "dots1",
        "Dots1ForCausalLM",
        overrides={
            "n_shared_experts": 1,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "norm_topk_prob": True,
        },
        experts=4,
    ),
    Architecture("electra", "ElectraForMaskedLM"),
    Architecture("ernie", "ErnieForCausalLM"),
    Architecture("ernie4_5", "Ernie4_5ForCausalLM"),
    Architecture("ernie4_5_moe", "Ernie4_5_MoeForCausalLM", experts=4),
    Architecture("esm", "EsmForMaskedLM"),
    Architecture("eurobert", "EuroBertForMaskedLM"),
    Architecture("exaone4", "Exaone4ForCausalLM"),
    Architecture("falcon", "FalconForCausalLM"),
    Architecture("falcon_mamba", "FalconMambaForCausalLM"),
    Architecture("flaubert", "FlaubertWithLMHeadModel"),
    Architecture(
        "flava", "FlavaForPreTraining", towers={"multimodal_model": 2, "text": 2, "vision": 2}
    ),
    Architecture("flex_olmo", "FlexOlmoForCausalLM", experts=3),
    Architecture("fnet", "FNetForMaskedLM"),
    Architecture(
        "funnel",
        "FunnelForMaskedLM",
        overrides={
            "block_sizes": [1, 2],
            "num_decoder_layers": 1,
            "d_head": 8,
            "d_inner": 44,
            "vocab_size": 70,
            "d_model": 32,
        },
        towers={"decoder": 1, "encoder": 3},
    ),
    Architecture("fuyu", "FuyuForCausalLM"),
    Architecture("gemma", "GemmaForCausalLM"),
    Architecture("gemma2", "Gemma2ForCausalLM"),
    Architecture("gemma3", "Gemma3ForConditionalGeneration", towers={"text": 2, "vision": 2}),
    Architecture("gemma3_text", "Gemma3ForCausalLM"),
    Architecture(
        "gemma3n_text",
        "Gemma3nForCausalLM",
        overrides={
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 0,
            "vocab_size": 70,
            "hidden_size": 32,
            "intermediate_size": 44,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "activation_sparsity_pattern": [0.0, 0.0, 0.0, 0.0],
            "layer_types": [
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "full_attention",
            ],
        },
        towers={"": 4},
    ),
    Architecture(
        "gemma4",
        "Gemma4ForConditionalGeneration",
        overrides={
            "text_config": {
                "num_kv_shared_layers": 0,
                "enable_moe_block": True,
                "num_experts": 3,
                "top_k_experts": 2,
                "moe_intermediate_size": 20,
            },
            "vision_config": {
                "model_type": "gemma4_vision",
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "head_dim": 8,
                "intermediate_size": 44,
            },
        },
        towers={"text": 2, "vision": 2},
        experts=3,
    ),
    Architecture("gemma4_text", "Gemma4ForCausalLM"),
    Architecture("git", "GitForCausalLM", towers={"encoder": 2, "vision": 2}),
    Architecture("glm", "GlmForCausalLM"),
    Architecture("glm4", "Glm4ForCausalLM"),
    Architecture("glm4_moe", "Glm4MoeForCausalLM", experts=4),
    Architecture("gpt2", "GPT2LMHeadModel"),
    Architecture("gpt_bigcode", "GPTBigCodeForCausalLM"),
    Architecture(
        "gpt_neo", "GPTNeoForCausalLM", overrides={"attention_types": [[["global", "local"], 1]]}
    ),
    Architecture("gpt_neox", "GPTNeoXForCausalLM"),
    Architecture("gpt_oss", "GptOssForCausalLM", experts=3),
    Architecture("gptj", "GPTJForCausalLM"),
    Architecture("granite", "GraniteForCausalLM"),
    Architecture(
        "granite_speech",
        "GraniteSpeechForConditionalGeneration",
        towers={"encoder": 2, "projector": 2, "text": 2},
    ),
    Architecture("granitemoe", "GraniteMoeForCausalLM", experts=3),
    Architecture("granitemoehybrid", "GraniteMoeHybridForCausalLM", experts=3),
    Architecture("granitemoeshared", "GraniteMoeSharedForCausalLM", experts=3),
    Architecture("gte", "GteForMaskedLM"),
    Architecture("helium", "HeliumForCausalLM"),
    Architecture(
        "hubert",
        "HubertModel",
        overrides={
            "conv_dim": [16, 16],
            "conv_stride": [5, 2],
            "conv_kernel": [10, 3],
            "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
        },
    ),
    Architecture("hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM"),
    Architecture("hunyuan_v1_moe", "HunYuanMoEV1ForCausalLM", experts=3),
    Architecture("ibert", "IBertForMaskedLM"),
    Architecture(
        "idefics2",
        "Idefics2ForConditionalGeneration",
        towers={"connector": 3, "text": 2, "vision": 2},
    ),
    Architecture("idefics3", "Idefics3ForConditionalGeneration", towers={"text": 2, "vision": 2}),
    Architecture("imagegpt", "ImageGPTForImageClassification"),
    Architecture(
        "instructblip",
        "InstructBlipForConditionalGeneration",
        towers={"qformer": 2, "text": 2, "vision": 2},
    ),
    Architecture("internlm3", "LlamaForCausalLM"),
    Architecture("internvl", "InternVLForConditionalGeneration", towers={"text": 2, "vision": 2}),
    Architecture("jamba", "JambaForCausalLM", experts=3),
    Architecture("jetmoe", "JetMoeForCausalLM", experts=3),
    Architecture("jina_embeddings_v3", "JinaEmbeddingsV3ForMaskedLM"),
    Architecture(
        "kimi_linear",
        "KimiLinearForCausalLM",
        overrides={
            "linear_attn_config": {
                "kda_layers": [1],
                "full_attn_layers": [2],
                "num_heads": 4,
                "head_dim": 8,
                "short_conv_kernel_size": 4,
            }
        },
        experts=3,
    ),
    Architecture(
        "kosmos-2",
        "Kosmos2ForConditionalGeneration",
        overrides={"text_config": {"layers": 2, "attention_heads": 4}},
        towers={"text": 2, "vision": 2},
    ),
    Architecture("layoutlm", "LayoutLMForMaskedLM"),
    Architecture("led", "LEDForConditionalGeneration", towers={"decoder": 3, "encoder": 2}),
    Architecture("lfm2", "Lfm2ForCausalLM"),
    Architecture(
        "lfm2_moe",
        "Lfm2MoeForCausalLM",
        overrides={
            "layer_types": ["conv", "full_attention"],
            "num_dense_layers": 1,
            "num_experts": 3,
            "norm_topk_prob": True,
        },
        experts=3,
    ),
    Architecture("lilt", "LiltModel"),
    Architecture("llama", "LlamaForCausalLM"),
    Architecture(
        "llama4",
        "Llama4ForConditionalGeneration",
        overrides={
            "vision_config": {
                "image_size": 28,
                "patch_size": 14,
                "projector_input_dim": 24,
                "projector_output_dim": 24,
                "vision_output_dim": 24,
            },
            "text_config": {
                "pad_token_id": 0,
                "interleave_moe_layer_step": 1,
                "attention_chunk_size": 8,
                "moe_layers": [0, 1],
            },
        },
        towers={"text": 2, "vision": 2},
        experts=3,
    ),
    Architecture("llama4_text", "Llama4ForCausalLM", experts=3),
    Architecture("llava", "LlavaForConditionalGeneration", towers={"text": 2, "vision": 2}),
    Architecture(
        "llava_next", "LlavaNextForConditionalGeneration", towers={"text": 2, "vision": 2}
    ),
    Architecture(
        "longcat_flash",
        "LongcatFlashForCausalLM",
        overrides={"zero_expert_num": 0, "moe_topk": 2},
        experts=4,
    ),
    Architecture("longformer", "LongformerForMaskedLM"),
    Architecture("longt5", "LongT5ForConditionalGeneration", towers={"decoder": 3, "encoder": 2}),
    Architecture("m2m_100", "M2M100ForConditionalGeneration", towers={"decoder": 3, "encoder": 2}),
    Architecture("mamba", "MambaForCausalLM"),
    Architecture(
        "mamba2",
        "Mamba2ForCausalLM",
        overrides={"num_heads": 8, "head_dim": 8, "expand": 2, "n_groups": 1},
    ),
    Architecture("marian", "MarianMTModel", towers={"decoder": 3, "encoder": 2}),
    Architecture("mbart", "MBartForConditionalGeneration", towers={"decoder": 3, "encoder": 2}),
    Architecture("megatron-bert", "MegatronBertForCausalLM"),
    Architecture("mimo_v2_flash", "MiMoV2FlashForCausalLM", experts=4),
    Architecture("minicpm3", "MiniCPM3ForCausalLM"),
    Architecture("minimax", "MiniMaxForCausalLM", experts=3),
    Architecture("minimax_m2", "MiniMaxM2ForCausalLM", experts=3),
    Architecture("mistral", "MistralForCausalLM"),
    Architecture("mistral3", "Mistral3ForConditionalGeneration", towers={"text": 2, "vision": 2}),
    Architecture("mixtral", "MixtralForCausalLM", experts=3),
    Architecture(
        "mllama",
        "MllamaForConditionalGeneration",
        overrides={
            "vision_config": {
                "max_num_tiles": 4,
                "intermediate_layers_indices": [0, 1],
                "attention_heads": 4,
            },
            "text_config": {"cross_attention_layers": [1]},
        },
        towers={"text": 2, "vision": 2, "vision.global_transformer": 1},
    ),
    Architecture("mobilebert", "MobileBertForMaskedLM"),
    Architecture("modernbert", "ModernBertForMaskedLM"),
    Architecture(
        "moonshine",
        "MoonshineForConditionalGeneration",
        overrides={
            "encoder_num_hidden_layers": 2,
            "decoder_num_hidden_layers": 3,
            "encoder_num_attention_heads": 4,
            "decoder_num_attention_heads": 4,
            "encoder_num_key_value_heads": 4,
            "decoder_num_key_value_heads": 4,
        },
        towers={"decoder": 3, "encoder": 2},
    ),
    Architecture("moshi", "MoshiForCausalLM"),
    Architecture("mpnet", "MPNetForMaskedLM"),
    Architecture("mpt", "MptForCausalLM"),
    Architecture("mra", "MraForMaskedLM"),
    Architecture("mt5", "MT5ForConditionalGeneration", towers={"decoder": 3, "encoder": 2}),
    Architecture("nemotron", "NemotronForCausalLM"),
    Architecture("nemotron_h", "NemotronHForCausalLM", towers={"": 4}, experts=4),
    Architecture(
        "nllb-moe",
        "NllbMoeForConditionalGeneration",
        overrides={"encoder_sparse_step": 1, "decoder_sparse_step": 1, "num_experts": 3},
        towers={"decoder": 3, "encoder": 2},
        experts=3,
    ),
    Architecture("nomic_bert", "NomicBertForMaskedLM"),
    Architecture("nystromformer", "NystromformerForMaskedLM"),
    Architecture("olmo", "OlmoForCausalLM"),
    Architecture("olmo2", "Olmo2ForCausalLM"),
    Architecture("olmo3", "Olmo3ForCausalLM"),
    Architecture("olmoe", "OlmoeForCausalLM", experts=3),
    Architecture("openai-gpt", "OpenAIGPTLMHeadModel"),
    Architecture("opt", "OPTForCausalLM"),
    Architecture("ovis2", "Ovis2ForConditionalGeneration", towers={"text": 2, "vision": 2}),
    Architecture("paligemma", "PaliGemmaForConditionalGeneration", towers={"text": 2, "vision": 2}),
    Architecture("pegasus", "PegasusForConditionalGeneration", towers={"decoder": 3, "encoder": 2}),
    Architecture("persimmon", "PersimmonForCausalLM"),
    Architecture("phi", "PhiForCausalLM"),
    Architecture("phi3", "Phi3ForCausalLM"),
    Architecture("phimoe", "PhimoeForCausalLM", experts=3),
    Architecture(
        "pix2struct", "Pix2StructForConditionalGeneration", towers={"decoder": 2, "encoder": 2}
    ),
    Architecture("pixtral", "PixtralVisionModel"),
    Architecture(
        "pop2piano", "Pop2PianoForConditionalGeneration", towers={"decoder": 3, "encoder": 2}
    ),
    Architecture(
        "prophetnet", "ProphetNetForConditionalGeneration", towers={"decoder": 3, "encoder": 2}
    ),
    Architecture("qwen2", "Qwen2ForCausalLM"),
    Architecture(
        "qwen2_5_omni_thinker",
        "Qwen2_5OmniThinkerForConditionalGeneration",
        towers={"audio": 2, "text": 2, "vision": 2},
    ),
    Architecture(
        "qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", towers={"text": 2, "vision": 2}
    ),
    Architecture(
        "qwen2_audio", "Qwen2AudioForConditionalGeneration", towers={"audio": 2, "text": 2}
    ),
    Architecture("qwen2_moe", "Qwen2MoeForCausalLM", experts=3),
    Architecture("qwen2_vl", "Qwen2VLForConditionalGeneration", towers={"text": 2, "vision": 2}),
    Architecture("qwen3", "Qwen3ForCausalLM"),
    Architecture("qwen3_5", "Qwen3_5ForConditionalGeneration", towers={"text": 2, "vision": 2}),
    Architecture(
        "qwen3_5_moe",
        "Qwen3_5MoeForConditionalGeneration",
        towers={"text": 2, "vision": 2},
        experts=3,
    ),
    Architecture("qwen3_5_text", "Qwen3_5ForCausalLM"),
    Architecture("qwen3_moe", "Qwen3MoeForCausalLM", experts=3),
    Architecture("qwen3_next", "Qwen3NextForCausalLM", experts=3),
    Architecture("qwen3_vl", "Qwen3VLForConditionalGeneration", towers={"text": 2, "vision": 2}),
    Architecture(
        "qwen3_vl_moe",
        "Qwen3VLMoeForConditionalGeneration",
        towers={"text": 2, "vision": 2},
        experts=3,
    ),
    Architecture("recurrent_gemma", "RecurrentGemmaForCausalLM"),
    Architecture(
        "reformer",
        "ReformerModelWithLMHead",
        overrides={
            "is_decoder": True,
            "attn_layers": ["local", "lsh"],
            "axial_pos_shape": [8, 8],
            "axial_pos_embds_dim": [12, 20],
            "attention_head_size": 8,
            "feed_forward_size": 44,
        },
    ),
    Architecture("rembert", "RemBertForCausalLM"),
    Architecture("roberta", "RobertaForMaskedLM"),
    Architecture("roberta-prelayernorm", "RobertaPreLayerNormForCausalLM"),
    Architecture("roformer", "RoFormerForCausalLM"),
    Architecture("rwkv", "RwkvForCausalLM"),
    Architecture(
        "sam",
        "SamModel",
        overrides={
            "vision_config": {"output_channels": 16},
            "mask_decoder_config": {"hidden_size": 16, "mlp_dim": 24, "iou_head_hidden_dim": 16},
            "prompt_encoder_config": {"hidden_size": 16},
        },
        towers={"mask_decoder": 2, "vision": 2},
    ),
    Architecture("seamless_m4t", "SeamlessM4TForTextToText", towers={"decoder": 3, "encoder": 2}),
    Architecture("seed_oss", "SeedOssForCausalLM"),
    Architecture(
        "segformer",
        "SegformerForImageClassification",
        overrides={
            "hidden_sizes": [8, 16, 24, 32],
            "depths": [1, 1, 2, 1],
            "num_attention_heads": [1, 2, 2, 4],
        },
        towers={"": 5},
    ),
    Architecture("siglip", "SiglipModel", towers={"text": 2, "vision": 2}),
    Architecture("siglip2", "Siglip2Model", towers={"text": 2, "vision": 2}),
    Architecture("smollm3", "SmolLM3ForCausalLM"),
    Architecture("smolvlm", "SmolVLMForConditionalGeneration", towers={"text": 2, "vision": 2}),
    Architecture("solar_open", "SolarOpenForCausalLM", experts=4),
    Architecture(
        "speech_to_text", "Speech2TextForConditionalGeneration", towers={"decoder": 3, "encoder": 2}
    ),
    Architecture(
        "speecht5",
        "SpeechT5ForSpeechToText",
        overrides={
            "conv_dim": [16, 16],
            "conv_stride": [5, 2],
            "conv_kernel": [10, 3],
            "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
        },
        towers={"decoder": 3, "encoder": 2},
    ),
    Architecture("splinter", "SplinterForPreTraining"),
    Architecture("squeezebert", "SqueezeBertForMaskedLM", overrides={"embedding_size": 32}),
    Architecture("stablelm", "StableLmForCausalLM"),
    Architecture("starcoder2", "Starcoder2ForCausalLM"),
    Architecture(
        "swin",
        "SwinForImageClassification",
        overrides={
            "embed_dim": 24,
            "depths": [1, 1],
            "num_heads": [2, 4],
            "image_size": 32,
            "patch_size": 4,
            "window_size": 4,
        },
    ),
    Architecture(
        "swinv2",
        "Swinv2ForImageClassification",
        overrides={
            "embed_dim": 24,
            "depths": [1, 1],
            "num_heads": [2, 4],
            "image_size": 32,
            "patch_size": 4,
            "window_size": 4,
        },
    ),
    Architecture(
        "switch_transformers",
        "SwitchTransformersForConditionalGeneration",
        towers={"decoder": 3, "encoder": 2},
        experts=3,
    ),
    Architecture("t5", "T5ForConditionalGeneration", towers={"decoder": 3, "encoder": 2}),
    Architecture("t5gemma", "T5GemmaForConditionalGeneration", towers={"decoder": 2, "encoder": 2}),
    Architecture("tapas", "TapasForMaskedLM"),
    Architecture("timesformer", "TimesformerModel"),
    Architecture("umt5", "UMT5ForConditionalGeneration", towers={"decoder": 3, "encoder": 2}),
    Architecture("vaultgemma", "VaultGemmaForCausalLM"),
    Architecture(
        "videomae",
        "VideoMAEForPreTraining",
        overrides={
            "decoder_hidden_size": 24,
            "decoder_num_hidden_layers": 3,
            "decoder_intermediate_size": 40,
            "decoder_num_attention_heads": 2,
            "num_frames": 4,
        },
        towers={"decoder": 3, "videomae": 2},
    ),
    Architecture("vilt", "ViltModel"),
    Architecture("visual_bert", "VisualBertForPreTraining"),
    Architecture("vit", "ViTForImageClassification"),
    Architecture(
        "vit_mae",
        "ViTMAEForPreTraining",
        overrides={
            "decoder_hidden_size": 24,
            "decoder_num_hidden_layers": 3,
            "decoder_intermediate_size": 40,
            "decoder_num_attention_heads": 2,
        },
        towers={"decoder": 3, "vision": 2},
    ),
    Architecture("vivit", "VivitModel"),
    Architecture("voxtral", "VoxtralForConditionalGeneration", towers={"audio": 2, "text": 2}),
    Architecture(
        "wav2vec2",
        "Wav2Vec2ForPreTraining",
        overrides={
            "conv_dim": [16, 16],
            "conv_stride": [5, 2],
            "conv_kernel": [10, 3],
            "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
            "codevector_dim": 16,
            "proj_codevector_dim": 16,
            "num_codevectors_per_group": 8,
        },
    ),
    Architecture("whisper", "WhisperForConditionalGeneration", towers={"decoder": 3, "encoder": 2}),
    Architecture("xglm", "XGLMForCausalLM"),
    Architecture("xlm", "XLMWithLMHeadModel"),
    Architecture("xlm-roberta", "XLMRobertaForMaskedLM"),
    Architecture("xlm-roberta-xl", "XLMRobertaXLForCausalLM"),
    Architecture("xlnet", "XLNetLMHeadModel", overrides={"d_inner": 44}),
    Architecture("xlstm", "xLSTMForCausalLM"),
    Architecture("xmod", "XmodForCausalLM"),
    Architecture("youtu", "YoutuForCausalLM"),
    Architecture(
        "zamba",
        "ZambaForCausalLM",
        overrides={
            "num_hidden_layers": 4,
            "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
            "n_mamba_heads": 2,
            "attention_head_dim": 16,
        },
        towers={"": 4},
    ),
    Architecture(
        "zamba2",
        "Zamba2ForCausalLM",
        overrides={
            "num_hidden_layers": 3,
            "layers_block_type": ["mamba", "hybrid", "mamba"],
            "num_mem_blocks": 1,
            "hybrid_layer_ids": [1],
            "mamba_ngroups": 1,
            "n_mamba_heads": 4,
            "mamba_headdim": 16,
        },
        towers={"": 3},
    ),
)


@pytest.fixture(params=ARCHITECTURES, ids=lambda row: row.model_type)
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return request.param


@pytest.fixture
def model(architecture: Architecture, tiny_config: Callable[..., Any]) -> Any:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    config = tiny_config(architecture.model_type, architecture.overrides)
    return getattr(transformers, architecture.model_class)(config)


def test_every_parameter_has_its_place(
    architecture: Architecture, model: Any, saved: Callable[..., Checkpoint]
) -> None:
    for original in (True, False):
        checkpoint = saved(model, original=original)
        matrices = dissect(checkpoint.tensors, checkpoint.config)
        _covers_each_element_once(checkpoint, matrices)
        _counts_layers_and_experts(architecture, matrices)
        assert [m.tensor.name for m in matrices if m.role == "other"] == []
        assert [(m.tensor.name, m.note) for m in matrices if m.note] == []
        if not original:
            problems = list(_misplaced(model, matrices))
            assert problems == []


def _covers_each_element_once(checkpoint: Checkpoint, matrices: list[Matrix]) -> None:
    parts: dict[str, list[Matrix]] = {}
    for matrix in matrices:
        parts.setdefault(matrix.tensor.name, []).append(matrix)
    assert list(parts) == [tensor.name for tensor in checkpoint.tensors]
    for tensor in checkpoint.tensors:
        own = parts[tensor.name]
        assert sum(matrix.numel for matrix in own) == tensor.numel
        assert len({matrix.part for matrix in own}) == len(own)
        if len(own) > 1:
            indices = np.arange(tensor.numel)
            taken = np.concatenate([matrix.view.cut(indices, 0).ravel() for matrix in own])
            assert np.array_equal(np.sort(taken), indices), tensor.name


def _counts_layers_and_experts(architecture: Architecture, matrices: list[Matrix]) -> None:
    layers: dict[str, set[int]] = {}
    for matrix in matrices:
        if matrix.layer is not None:
            layers.setdefault(matrix.tower, set()).add(matrix.layer)
    assert layers == {tower: set(range(n)) for tower, n in architecture.towers.items()}
    experts: dict[tuple[str, int | None, str], set[int]] = {}
    for matrix in matrices:
        if matrix.expert is not None and matrix.role.startswith("moe.expert."):
            key = (matrix.tower, matrix.layer, matrix.role)
            experts.setdefault(key, set()).add(matrix.expert)
    assert bool(experts) == bool(architecture.experts)
    for found in experts.values():
        assert found == set(range(architecture.experts))


# What a parameter inside attention or an MLP may be besides: told by its own name.
EXTRAS = {
    "attn.gate": r"gate|g_|ogate|\.z|qkvz|q_proj|in_proj_z",
    "attn.index": r"indexer",
    "attn.index.q": r"indexer",
    "attn.index.k": r"indexer",
    "attn.sampling": r"sampling_offsets|attention_weights",
    "ssm": r"A_log|\.A$|dt_|in_proj_(a|b|ba)\b|[abf]_proj|f_[ab]|forget|time_|decay",
    "conv": r"conv|\.sr\b|sequence_reduction|cpe|dwconv",
    "scale": r"scale|lambda|gate|scaling|alpha|time_mix",
    "embed.relative": r"rel|relative|distance|seg_embed",
    "embed.position": r"position|ape",
    "embed.token": r"^$",
    "residual": r"hc|residual",
    "embed.other": r"\.(probe|cls_token)\.",
    "projector": r"bottleneck|projector|connector",
    "output": r"head\.|hypernetworks",
    # A mixture of attentions: JetMoE's experts are queries and outputs.
    "moe.router": r"self_attention\.experts\.router",
    "attn.q": r"self_attention\.experts\.input_linear",
    "attn.o": r"self_attention\.experts\.output_linear",
}


def _misplaced(model: Any, matrices: list[Matrix]) -> Iterator[tuple[str, str, str]]:
    """Parameters whose module says something else than the role: (name, role, expected)."""
    modules = dict(model.named_modules())
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for matrix in matrices:
        name = matrix.tensor.name
        owner, _, leaf = name.rpartition(".")
        block = ROLES[matrix.role].block_type
        expected = _expected(modules, parameters, owner, leaf)
        if expected and block not in expected and not _is_extra(matrix, name):
            yield name, matrix.role, "|".join(expected)


def _expected(
    modules: Mapping[str, Any], parameters: Mapping[str, Any], owner: str, leaf: str
) -> tuple[str, ...]:
    """The block types that the owner's class and place allow; () where they do not tell."""
    import torch

    module = modules[owner]
    kind = type(module).__name__
    if f"{owner}.{leaf}".lstrip(".") not in parameters:
        return ("buffer", "moe", "bias", "norm", "other", "embedding")
    if re.search(r"Norm\w*$", kind) and not kind.endswith("Head"):
        return ("norm",)
    if leaf == "bias":
        return ("bias",)
    if isinstance(module, torch.nn.Embedding):
        return ("embedding",)
    lineage = _lineage(modules, owner)
    if any(re.search(r"Experts?$|Router$|TopKGate$", name) for name in lineage):
        return ("moe", "bias")
    for name in lineage:
        if re.search(r"Attention\w*$|SelfAttn|Attn$", name):
            return ("q_proj", "k_proj", "v_proj", "o_proj", "norm", "bias")
        if re.search(
            r"MLP$|MLPLayer$|MLPBlock$|FeedForward\w*$|FFN\w*$|DenseReluDense|DenseActDense", name
        ):
            return ("mlp", "moe", "norm", "bias")
    return ()


def _lineage(modules: Mapping[str, Any], owner: str) -> list[str]:
    """Class names from the owner outwards."""
    parts = owner.split(".")
    paths = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return [type(modules[path]).__name__ for path in paths]


def _is_extra(matrix: Matrix, name: str) -> bool:
    pattern = EXTRAS.get(matrix.role)
    return pattern is not None and re.search(pattern, f"{name}.{matrix.part}") is not None
