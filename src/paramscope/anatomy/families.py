"""How model families name things: tables of data. A new family is a new row here.

Patterns are regular expressions over dotted paths in which `#` stands for a number. `ROWS` are
tried in order, the first that fits decides, so that what is special stands before what is
general. Names were taken from the models of transformers 5 (their modules and the on-disk names
of its conversion_mapping), from mergekit's architectures and llama.cpp's tensor_mapping.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """A pattern for the end of a path, and what it means.

    Attributes:
        pattern: matches whole segments at the end of the path.
        role: a key of `roles.ROLES`.
        layout: a key of `split.LAYOUTS` where the tensor is fused; its pieces carry their roles.
        models: a pattern for `model_type`; empty where any will do.
        when: (config key, value it has, value it has where the config is silent).
        inputs_first: stored [in, out]: Conv1D, and some stacks of experts.
        stack: the first axis counts experts: "axis", or "rows" where it is (experts·out, in).
        dims: the numbers of dimensions that the row allows; empty where any will do.
    """

    pattern: str
    role: str
    layout: str = ""
    models: str = ""
    when: tuple[str, Any, Any] | None = None
    inputs_first: bool = False
    stack: str = ""
    dims: tuple[int, ...] = ()


# --- where things are ---------------------------------------------------------------------------

# Wrappers that are in a path but say nothing.
NOISE = (
    r"_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|base_layer|modules_to_save"
    r"|original_module|default|auto_model"
)

# What may stand after the module: the parameter's own name.
LEAVES = frozenset(
    {
        "weight",
        "bias",
        "weight_g",
        "weight_v",
        "parametrizations.weight",
        "weight.original0",
        "weight.original1",
        "qweight",
        "qzeros",
        "scales",
        "g_idx",
        "weight_scale",
        "weight_scale_inv",
        "weight_scale_2",
        "weight_packed",
        "weight_shape",
        "weight_zero_point",
        "input_scale",
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }
)

# Lists whose index is the layer, and lists of that kind whose index is not.
LAYER_LISTS = (
    r"layers?|h|(?:\w+_)?blocks?|\w+_layers|resblocks|albert_layer_groups|stages|conformer"
    r"|encoders|self_attends|mixers|network|mtp|nextn_predict_layers"
)
NOT_LAYER_LISTS = (
    r"(?:\w*_)?(?:conv|fpn|scale|norm|linear|fc|embeds|downsample|upsample|merging|hidden|lqe"
    r"|reassemble|focal|adapter)_(?:layers|blocks)"
)
# XLM keeps one list per kind of module: `attentions.3.q_lin`, `ffns.3.lin1`, `layer_norm1.3`.
PER_KIND_LISTS = r"attentions|ffns|layer_norm1|layer_norm2|layer_norm15|encoder_attn_list"
# Stage and block: the layer is counted through all stages.
LAYER_SUBLISTS = (
    r"(?:stages|layers|blocks|network|block)\.#\.(?:layers|blocks)\.#"
    r"|albert_layer_groups\.#\.albert_layers\.#"
)
EXPERT_LISTS = r"(?:local_|routed_|mlp_)?experts?"

# Words in a path that tell a tower; "" where a word says nothing. First that fits.
LABELS = (
    (
        r"model|transformer|module|base_model|backbone|decoder_model|encoder_model|_?decoder_only"
        r"|pretrained|layers?|net|\^",
        "",
    ),
    (
        r"visual|vision|vision_(?:tower|model|encoder|backbone)|image_(?:tower|encoder|model|vit)"
        r"|vit|vpm|img_\w+|vision_embedder|siglip|embed_vision",
        "vision",
    ),
    (r"video_(?:tower|model|encoder)", "video"),
    (
        r"audio|audio_(?:tower|model|encoder)|speech_(?:tower|encoder|model)|sound_encoder"
        r"|embed_audio",
        "audio",
    ),
    (r"text|text_(?:model|encoder|tower|decoder)|language_model|llm|language", "text"),
    (r"encoder|wrapped_encoder", "encoder"),
    (r"decoder|wrapped_decoder|transf_decoder|_decoder", "decoder"),
    (r"q_?former", "qformer"),
)

# --- what a config calls its numbers ------------------------------------------------------------

DIMENSIONS: Mapping[str, tuple[str, ...]] = {
    "heads": (
        "num_attention_heads",
        "n_head",
        "n_heads",
        "num_heads",
        "attention_heads",
        "num_query_heads",
    ),
    "groups": (
        "num_key_value_heads",
        "num_kv_heads",
        "n_head_kv",
        "multi_query_group_num",
        "attn_config.kv_n_heads",
        "num_query_groups",
    ),
    "head_dim": ("head_dim", "kv_channels", "attention_head_dim", "d_kv"),
    "hidden": ("hidden_size", "n_embd", "d_model", "embed_dim", "dim", "hidden_dim"),
    "experts": (
        "num_experts",
        "num_local_experts",
        "n_routed_experts",
        "ffn_config.moe_num_experts",
    ),
}
CONFIG_WORDS = ()

# --- what things are ----------------------------------------------------------------------------

# Whole names, leaf included, of what is not trained. `dims` keeps the causal masks of GPT-2 and
# GPT-NeoX (`attn.bias`, four dimensions) apart from a bias of the same name.
BUFFERS = (
    Row(r"(?:\w*_)?position_ids|token_type_ids|\w*inv_freq|masked_bias", "buffer"),
    Row(r"num_batches_tracked|running_(?:mean|var)|relative_position_index", "buffer"),
    Row(r"(?:attn|attention|self_attn)\.bias", "buffer", dims=(2, 3, 4)),
    Row(r"(?:cos|sin)_cached|rope\.freqs|freqs_cis|attn_mask|causal_mask", "buffer"),
)

# Scales, zero points and index tables that belong to packed weights.
PACKING = (
    r".*(?:qzeros|scales|g_idx|weight_scale(?:_inv|_2)?|weight_shape|weight_zero_point"
    r"|input_scale|absmax|quant_map|nested_\w+|quant_state\.\w+|_scale_inv|SCB)"
)

# In these families the three matrices of `query_key_value`, `qkv_proj` and the like lie so.
NEOX_LIKE = r"gpt_neox|gpt_neox_japanese|bloom|persimmon|fuyu"
FALCON = r"falcon|RefinedWeb(?:Model)?"
CONV1D = r"gpt2|openai-gpt|imagegpt|decision_transformer|clvp\w*|gptsan.*"
FUSED_QKV = r"query_key_value|qkv_proj|qkv|Wqkv|wqkv|W_pack|c_attn|in_proj_qkv|att_proj|to_qkv"

ROWS: tuple[Row, ...] = (
    # Routers and their corrections.
    Row(r"e_score_correction_bias|(?:gate|router|moe_statics)\.expert_bias|expert_bias", "moe.router"),
    # Relative positions: a bias per distance, looked up like an embedding.
    Row(r"relative_attention_bias|relative_position_bias_table|rel_pos_[hw]", "embed.relative"),
    # Fused attention.
    Row(r"query_key_value", "attn.qkv", "qkv_per_head", models=NEOX_LIKE),
    Row(
        r"query_key_value",
        "attn.qkv",
        "qkv_per_group",
        models=FALCON,
        when=("new_decoder_architecture", True, False),
    ),
    Row(
        r"query_key_value",
        "attn.qkv",
        "qkv_one_group",
        models=FALCON,
        when=("multi_query", True, True),
    ),
    Row(r"query_key_value", "attn.qkv", "qkv_per_head", models=FALCON),
    Row(r"wqkv", "attn.qkv", "qkv_per_group", models=r"internlm2.*"),
    Row(r"qkv_proj", "attn.qkv", "qvk_per_shard", models="codegen"),
    Row(
        r"attn\.c_attn",
        "attn.qkv",
        "qkv_one_group",
        models="gpt_bigcode",
        when=("multi_query", True, True),
    ),
    Row(r"attn\.c_attn", "attn.qkv", "qkv_per_head", models="gpt_bigcode"),
    Row(r"crossattention\.c_attn", "cross_attn.k", "kv_halves", models=CONV1D, inputs_first=True),
    Row(r"q_attn", "attn.q", models=CONV1D, inputs_first=True),
    Row(r"attn\.c_attn", "attn.qkv", "qkv_thirds", models=CONV1D, inputs_first=True),
    Row(r"(?:attn|crossattention)\.c_proj", "attn.o", models=CONV1D, inputs_first=True),
    Row(r"mlp\.c_fc", "mlp.up", models=CONV1D, inputs_first=True),
    Row(r"mlp\.c_proj", "mlp.down", models=CONV1D, inputs_first=True),
    Row(r"c_attn|in_proj_weight|to_qkv", "attn.qkv", "qkv_thirds"),
    Row(r"qkv|qkv_proj|Wqkv|wqkv|W_pack|query_key_value|att_proj", "attn.qkv", "qkv_blocks"),
    # Attention.
    Row(r"attention\.output\.dense|attention\.dense|self_attention\.dense|self_attn\.dense", "attn.o"),
    Row(r"q_proj|query|q_lin|(?:Self|EncDec)Attention\.q|wq|to_q|query_proj", "attn.q"),
    Row(r"k_proj|key|k_lin|(?:Self|EncDec)Attention\.k|wk|to_k|key_proj", "attn.k"),
    Row(r"v_proj|value|v_lin|(?:Self|EncDec)Attention\.v|wv|to_v|value_proj", "attn.v"),
    Row(
        r"o_proj|out_lin|(?:Self|EncDec)Attention\.o|wo_attn|to_out|Wo"
        r"|(?:attn|attention|self_attn|encoder_attn)\.(?:out_proj|c_proj|proj|wo)",
        "attn.o",
    ),
    # Router and experts.
    Row(r"(?:mlp|block_sparse_moe|ffn|moe|feed_forward)\.(?:gate|router)|router\.classifier", "moe.router"),
    Row(r"experts\.gate_up_proj", "mlp.gate_up", "gate_up_interleaved", models="gpt_oss", inputs_first=True, stack="axis"),
    Row(r"experts\.down_proj", "mlp.down", models="gpt_oss", inputs_first=True, stack="axis"),
    Row(r"experts\.gate_up_proj", "mlp.gate_up", "gate_up_halves", stack="axis", dims=(2, 3)),
    Row(r"experts\.down_proj", "mlp.down", stack="axis", dims=(2, 3)),
    # MLP.
    Row(r"gate_up_proj", "mlp.gate_up", "gate_up_halves"),
    Row(r"gate_proj|w1|wi_0", "mlp.gate"),
    Row(r"up_proj|w3|wi_1|wi|fc1|lin1|fc_in|c_fc|dense_h_to_4h|intermediate\.dense", "mlp.up"),
    Row(r"down_proj|w2|DenseReluDense\.wo|fc2|lin2|fc_out|c_proj|dense_4h_to_h|output\.dense", "mlp.down"),
    # Norms.
    Row(r"\w*(?:norm|Norm)\w*|ln|ln_\w+|ln\d", "norm"),
    Row(r"\w*(?:norm|Norm)\w*\.(?:gamma|beta|scale)", "norm"),
    # Embeddings and outputs.
    Row(r"embed_tokens|wte|word_embeddings|tok_embeddings|embed_in|shared|token_embedding", "embed.token"),
    Row(r"wpe|position_embeddings?|embed_positions", "embed.position"),
    Row(r"token_type_embeddings", "embed.type"),
    Row(r"lm_head|embed_out", "output"),
    Row(r"pooler\.dense", "pooler"),
)

# A place in the path that changes what the end of it means: (segments, roles there).
CONTEXTS: tuple[tuple[str, Mapping[str, str]], ...] = (
    (r"experts", {"mlp.": "moe.expert."}),
    (r"shared_experts?|shared_mlp|share_expert", {"mlp.": "moe.shared."}),
    (r"EncDecAttention|encoder_attn|crossattention|cross_attn|cross_attention", {"attn.": "cross_attn."}),
)
