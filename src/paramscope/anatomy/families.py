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
        when: (config key, value it must have, value it has where the config is silent).
        dims: the numbers of dimensions of the weight that the row allows; empty: any.
        leaf: the parameter's own name, where the row asks for one.
        beside: a module that must be there in the place of the last segment.
        not_beside: a module that must not be there.
        ratio: first over second dimension of the weight, where the row asks for one.
        inputs_first: stored [in, out]: Conv1D, and some stacks of experts.
        stack: "axis" where the first axis counts experts, "rows" where it is (experts·out, in).
            Experts of three dimensions need neither.
    """

    pattern: str
    role: str
    layout: str = ""
    models: str = ""
    when: tuple[str, Any, Any] | None = None
    dims: tuple[int, ...] = ()
    leaf: str = ""
    beside: str = ""
    not_beside: str = ""
    ratio: float = 0.0
    inputs_first: bool = False
    stack: str = ""


# --- where things are ---------------------------------------------------------------------------

# Wrappers that are in a path but say nothing.
NOISE = (
    r"_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|base_layer|modules_to_save"
    r"|original_module|auto_model|parametrizations"
)

# A layer that wraps a projection and keeps it as `linear`, such as Gemma's clippable ones.
WRAPPED = r"\w+_proj|post|ffw_layer_\d|queries\w*|keys_values|linear_(?:up|down)"

# What may stand after the module: the parameter's own name.
LEAVES = (
    r"weight|bias|weight_[gv]|weight\.original[01]|lora_(?:embedding_)?[ABE](?:\.\w+)?(?:\.weight)?"
    r"|lora(?:\.[^.]+)?\.weight"
    r"|lora_magnitude_vector(?:\.\w+)?(?:\.weight)?"
    r"|qweight|qzeros|scales|g_idx|weight_(?:packed|shape|zero_point|scale|scale_inv|scale_2)"
    r"|weight\.lora_[ab]|input_scale|output_scale|running_mean|running_var|num_batches_tracked"
)

# Lists whose index is the layer, and lists of that kind whose index is not.
GGUF_LISTS = r"(?:\w+_)?blk|convnext|posnet|deepstack"  # lists that no other naming has
LAYER_LISTS = (
    rf"layers?|h|{GGUF_LISTS}|(?:\w+_)?blocks?|\w+_layers|resblocks|albert_layer_groups|stages"
    r"|conformer"
    r"|encoders|self_attends|mixers|network|mtp|nextn_predict_layers"
)
NOT_LAYER_LISTS = (
    r"(?:\w+_)?(?:conv|fpn|scale|norm|linear|fc|embeds|downsample|upsample|merging|hidden|lqe"
    r"|reassemble|focal|adapter|lateral|pan)_(?:layers|blocks)"
)
# XLM keeps one list per kind of module: `attentions.3.q_lin`, `ffns.3.lin1`, `layer_norm1.3`.
PER_KIND_LISTS = r"attentions|ffns|layer_norm1|layer_norm2|layer_norm15|encoder_attn_list"
# Stage and block: the layer is counted through all stages.
LAYER_SUBLISTS = (
    r"(?:stages|layers|blocks?|network)\.#\.(?:layers|blocks)\.#\."
    r"|albert_layer_groups\.#\.albert_layers\.#\.|blocks?\.#\.#\."
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
        r"visual|vision|(?:vision|image)_(?:tower|model|encoder|backbone|vit)|vit|vpm|img_\w+"
        r"|vision_embedder|siglip|embed_vision",
        "vision",
    ),
    (r"video_(?:tower|model|encoder)", "video"),
    (
        r"audio|audio_(?:tower|model|encoder)|speech_(?:tower|model)|sound_encoder|embed_audio"
        r"|perception",
        "audio",
    ),
    (r"speech_encoder", "audio.encoder"),
    (r"text|text_(?:model|tower)|language_model|llm|language", "text"),
    (r"text_encoder", "text.encoder"),
    (r"text_decoder", "text.decoder"),
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

# --- what is not trained ------------------------------------------------------------------------

# Over whole names, leaf included. `dims` keeps the causal masks of GPT-2 and GPT-NeoX
# (`attn.bias`, four dimensions) apart from a bias of the same name.
NOT_TRAINED: tuple[Row, ...] = (
    Row(r"(?:\w*_)?position_ids|token_type_ids|\w*inv_freq|masked_bias", "buffer"),
    Row(
        r"num_batches_tracked|running_(?:mean|var)|relative_(?:position|coords)_\w*index", "buffer"
    ),
    Row(r"(?:attn|attention|self_attn)\.bias|attn_mask|causal_mask", "buffer", dims=(2, 3, 4)),
    Row(r"(?:cos|sin)_cached|rope_(?:freqs|factors_\w+)|rope\.freqs|freqs_cis|freqs", "buffer"),
    # Statistics of codebooks; observers and codes of fake quantisation (I-BERT, Gemma 4).
    Row(r"codebook\.(?:cluster_\w+|embed_avg|embed_sum|inited|initialized)", "buffer"),
    Row(r"(?:input|output)_(?:min|max)|x_min|x_max|(?:act|fc)_scaling_factor", "buffer"),
    Row(
        r"\w+_integer|slope_rate|(?:query|key|diagonal)_decay|summary_idxs|n\w*_points_scale",
        "buffer",
    ),
    # Scales, zero points and index tables that belong to packed weights.
    Row(r"qzeros|scales|g_idx|weight_scale(?:_inv|_2)?|weight_shape|weight_zero_point", "packing"),
    Row(r"\w+_proj_scales|\w+_scale_inv|(?:input|output|[qkv])_scale|SCB", "packing"),
    Row(r"absmax|quant_map|nested_\w+|quant_state\.\w+", "packing"),
    Row(r"(?:\w+_)?(?:global|activation|input)_scale|qscale_\w+", "packing"),
    Row(r"weight_g_idx|input_zero_point", "packing"),
    Row(r"scale", "packing", beside="weight"),
)

# Leaves and endings of codes: they stand for the weight, once they are decoded.
CODES = r"qweight|weight_packed"
CODES_ENDING = "_blocks"
# Leaves that are a part of the weight: a factor of it, or the length of its rows.
ADAPTER = r"lora_[ABE].*|lora_embedding_[AB].*|weight\.lora_[ab]"
MAGNITUDES = r"weight_g|weight\.original0|lora_magnitude_vector.*"

# --- what things are ----------------------------------------------------------------------------

ATTENTION = r"(?:\w*attn\w*|\w*[aA]ttention\w*|(?:\w+_)?att|attentions\.(?:#|\d+))"
MLP = r"(?:mlp|\w*ffn\w*|ff|feed_forward\w*|mlps\.(?:#|\d+)|ffns\.(?:#|\d+)|\w*_mlp|mlp_\w+)"
MOE = r"(?:mlp|moe|block_sparse_moe|ffn|feed_forward|mixer|text_moe|vision_moe|moe_block)"
SSM = r"(?:mixer|mamba\w*|ssm|temporal_block|mlstm_layer|slstm_layer|recurrent_block)"
PROJECTOR = (
    r"(?:\w*projector\w*|\w*merger\w*|\w*connector|\w*aligner|resampler\w*|\w*modality_projection"
    r"|language_projection|image_projection|vision_projection|sound_projection|embed_vision"
    r"|embed_audio|mlp1|mlp_AR|enc_to_dec_proj|image_to_text_projection|vision_embed_tokens"
    r"|visual_projection\.visual_projection|vision_proj|perceive|audio_projection\w*)"
)
OUTPUT_MATRIX = (
    r"(?:out_proj|o_proj|proj|projection|projection_layer|(?:\w*output\.)?dense|output|out|wo|Wo|w_o"
    r"|to_out(?:\.0)?|out_lin|linear_out|output_proj|post|post_proj|attn_out|attention_out|c_proj"
    r"|out_projection|final|o|wo_ud|o_[ab]_proj|wo_[ab]|fc_out|linear_o)"
)

# Families that store [in, out], by transformers' Conv1D.
CONV1D = r"gpt2|openai-gpt|imagegpt|decision_transformer|clvp.*|gptsan.*"
# Families of `query_key_value` where q, k and v alternate per head.
PER_HEAD = r"gpt_neox|gpt_neox_japanese|bloom|persimmon|fuyu"
# What a checkpoint shows of its family, whatever its config says: a fused weight of this name
# and this ratio of dimensions can only be a Conv1D.
SIGNS = ((r".*c_attn\.weight", 1 / 3, "gpt2"),)
FALCON = r"falcon|RefinedWeb(?:Model)?"
GATED_ATTENTION = r"qwen3_next|qwen3_5\w*|qwen4_exp\w*"

ROWS: tuple[Row, ...] = (
    # A weight of one dimension scales what a normalisation has centred.
    Row(r"(?!\w*scale)(?!ls_?\d)\w+", "norm", dims=(1,), leaf="weight"),
    # Routers. What corrects their scores belongs to routing: it is no bias of a projection.
    Row(r"\w*e_score_correction_bias|\w*expert_bias|router_bias|balancing_biases", "moe.router"),
    Row(r"shared_experts?_gate|shared_expert\.gate", "moe.shared.router"),
    Row(rf"{MOE}\.(?:gate|router)(?:\.(?:layer|classifier|gate|proj|wg|weight_1))?", "moe.router"),
    Row(r"layers\.#\.(?:gate|router)", "moe.router", dims=(2,)),
    Row(r"router(?:\.[^.#]+)*|per_expert_scale|router_states_scale", "moe.router"),
    Row(rf"{MOE}\.gate\.\w+", "moe.router"),
    # Norms; those of some families are matrices or have parameters of other names.
    Row(r"\w*(?:norm|Norm)\w*|ln(?:_\w+|\d+\w*)?|\w+_ln|\w*bn\d?", "norm"),
    Row(
        r"\w*(?:norm|Norm)\w*\.(?:gamma|beta|scale|shift|g|b|\d+|#)|hidden_states_norms\.\w+",
        "norm",
    ),
    Row(r"\w*layernorm\.(?:W_\w+|mlp\.fc\d)", "norm"),
    # RWKV: receptance asks, key and value answer; the channel mix is a gated MLP.
    Row(r"attention\.receptance|attn\.r_proj", "attn.q", models=r"rwkv.*"),
    Row(r"attention\.gate", "attn.gate", models=r"rwkv.*"),
    Row(r"attention\.time_\w+", "ssm", models=r"rwkv.*"),
    Row(r"(?:feed_forward|ffn)\.key", "mlp.up", models=r"rwkv.*"),
    Row(r"(?:feed_forward|ffn)\.value", "mlp.down", models=r"rwkv.*"),
    Row(r"feed_forward\.receptance", "mlp.gate", models=r"rwkv.*"),
    Row(r"feed_forward\.time_\w+", "scale", models=r"rwkv.*"),
    # Relative positions, and what is added to attention scores.
    Row(r"relative_position_bias_table|rel_pos_[hw]|seg_embed", "embed.relative"),
    Row(r"\w*(?:rel_|relative_|distance_)\w*(?:emb|bias)\w*|rel_embeddings", "embed.relative"),
    Row(r"sinks?|\w*attn_sink\w*|sink_proj|learnable_sink_param|softmax_offset", "attn.bias"),
    Row(r"(?:pos_)?bias_[uv]|r_[wrs]_bias|continuous_position_bias_mlp\.\d", "attn.bias"),
    Row(
        r"r_proj|wr_du|linear_pos|relative_k_proj|pos_(?:q_|key_|query_)?proj|r_kernel"
        r"|rel_logits_proj\.proj",
        "attn.pos",
    ),
    Row(r"rel_attn\.r", "attn.pos", models="xlnet", inputs_first=True),
    Row(rf"{ATTENTION}\.r", "attn.pos"),
    # Indexers of sparse attention, before the projections of the same names.
    Row(r"indexer\.(?:wq_b|q_b_proj|q_proj|wq)|index_q_proj", "attn.index.q"),
    Row(r"indexer\.(?:wk|k_proj)|index_k_proj", "attn.index.k"),
    Row(r"indexer(?:\.[^.#]+)*", "attn.index"),
    # Fused attention: families first.
    Row(r"crossattention\.c_attn", "attn.kv", "kv_halves", models=CONV1D, inputs_first=True),
    Row(r"q_attn", "attn.q", models=CONV1D, inputs_first=True),
    Row(r"c_attn", "attn.qkv", "qkv_thirds", models=CONV1D, inputs_first=True),
    Row(rf"{ATTENTION}\.c_proj", "attn.o", models=CONV1D, inputs_first=True),
    Row(r"mlp\.c_fc", "mlp.up", models=CONV1D, inputs_first=True),
    Row(r"mlp\.c_proj", "mlp.down", models=CONV1D, inputs_first=True),
    Row(
        r"c_attn",
        "attn.qkv",
        "qkv_one_group",
        models="gpt_bigcode",
        when=("multi_query", True, True),
    ),
    Row(r"c_attn", "attn.qkv", "qkv_per_head", models="gpt_bigcode"),
    Row(r"query_key_value", "attn.qkv", "qkv_per_head", models=PER_HEAD),
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
    # ChatGLM-6B has `attention`, its successors `self_attention` with grouped queries.
    Row(r"layers\.#\.attention\.query_key_value", "attn.qkv", "qkv_per_head", models="chatglm"),
    Row(r"self_attention\.query_key_value", "attn.qkv", "qkv_blocks", models="chatglm"),
    Row(r"query_key_value", "attn.qkv", "qkv_blocks", models=r".*bailing.*"),
    Row(r"query_key_value", "attn.qkv"),
    Row(
        r"wqkv", "attn.qkv", "qkv_per_group", models=r"internlm2.*|internvl_chat|internlmxcomposer2"
    ),
    Row(r"qkv_proj", "attn.qkv", "qvk_per_shard", models="codegen"),
    Row(r"self\.in_proj", "attn.qkv", "qkv_per_head", models="deberta"),
    # Fused attention: by name.
    Row(r"gqkv_proj", "attn.qkv", "gate_qkv_blocks"),
    Row(r"in_proj_qkv", "attn.qkv", "linear_qkv_blocks"),
    Row(r"in_proj_qkvz", "attn.qkv", "linear_qkvz_per_group"),
    Row(r"c_attn", "attn.qkv", "qkv_blocks", models="codeshell"),
    Row(r"c_attn", "attn.qkv", "qkv_thirds", ratio=3),
    Row(r"c_attn", "attn.qkv"),
    Row(r"in_proj_weight|to_qkv", "attn.qkv", "qkv_thirds"),
    Row(rf"{ATTENTION}\.in_proj", "attn.qkv", "qkv_blocks"),
    # MiniMax's lightning attention.
    Row(r"self_attn\.qkv_proj", "attn.qkv", "qkv_per_head", models=r"minimax.*"),
    Row(r"queries_keys_values", "attn.qkv"),
    Row(r"keys_values", "attn.kv"),
    # Vision models with other heads in every stage.
    Row(r"attn\.qkv", "attn.qkv", "qkv_thirds", models=r"hiera|sam.*|edgetam.*|swin.*|mvit.*"),
    Row(r"qkv|qkv_proj|Wqkv|wqkv|w_qkv|W_pack|att_proj|qkv_linear", "attn.qkv", "qkv_blocks"),
    Row(r"kv_a_proj_with_mqa|wkv_a_with_mqa", "attn.kv_a", "latent_rope"),
    Row(r"kv_b_proj|wkv_b", "attn.kv_b", "kv_per_head"),
    Row(r"kv_proj|wkv|kv", "attn.kv", models="deepseek_v4"),
    Row(r"key_value", "attn.kv"),
    Row(r"kv_proj|to_kv|kv|to_kv_\w+", "attn.kv", "kv_halves"),
    # XLNet keeps [in, heads, head size], as its einsums want it.
    Row(r"rel_attn\.q", "attn.q", models="xlnet", inputs_first=True),
    Row(r"rel_attn\.k", "attn.k", models="xlnet", inputs_first=True),
    Row(r"rel_attn\.v", "attn.v", models="xlnet", inputs_first=True),
    Row(r"query_key|qk_proj|to_qk", "attn.q", models="reformer"),
    Row(r"q_gate_proj", "attn.q", "q_gate_per_head"),
    Row(
        r"self_attn\.q_proj",
        "attn.q",
        "q_gate_per_head",
        models=GATED_ATTENTION,
        when=("attn_output_gate", True, True),
    ),
    # JetMoE's attention is a mixture: each expert has its own query and output.
    Row(r"self_attention\.experts\.input_linear", "attn.q", models="jetmoe", stack="axis"),
    Row(r"self_attention\.experts\.output_linear", "attn.o", models="jetmoe", stack="axis"),
    Row(r"multi_modal_projector\.query|\w*(?:pooling|latent)_\w*query", "embed.other"),
    # Attention.
    Row(r"q_a_proj|wq_a", "attn.q_a"),
    Row(r"q_b_proj|wq_b", "attn.q_b"),
    Row(r"kv_a_proj|wkv_a", "attn.kv_a"),
    Row(r"k_b_proj", "attn.k_b"),
    Row(r"v_b_proj", "attn.v_b"),
    Row(r"compressor\.(?:wgate|gate_proj)", "attn.gate"),
    Row(
        r"(?:g_proj|g_[ab]_proj|gate_attn|output_gate|in_proj_z|ogate_preact|z_proj)"
        rf"|{ATTENTION}\.(?:gate_proj|linear_gate|gate|g)",
        "attn.gate",
    ),
    Row(
        r"q_proj|query|q_lin|q|wq|Wq|to_q|query_proj|linear_q|project_q|query_net|w_q"
        r"|q_linear|wq_du|to_query|query_(?:states|global)|(?:layout|projection|w2e|e2w|e2e)_query"
        rf"|queries|{ATTENTION}\.q_head",
        "attn.q",
    ),
    Row(
        r"k_proj|key|k_lin|k|wk|Wk|to_k|key_proj|linear_k|project_k|key_net|w_k|k_linear"
        r"|wk_dv|to_key|key_(?:protein|global)|(?:layout|projection)_key"
        rf"|{ATTENTION}\.k_head",
        "attn.k",
    ),
    Row(
        r"v_proj|value|v_lin|v|wv|Wv|to_v|value_proj|linear_v|project_v|value_net|w_v"
        r"|v_linear|wv_dv|value_(?:protein|global)|(?:layout|projection)_value|values_\w+_proj"
        rf"|{ATTENTION}\.v_head",
        "attn.v",
    ),
    Row(r"(?:mixer)\.out_proj", "attn.o", beside="Wqkv"),
    Row(rf"{ATTENTION}(?:\.\w*attn\w*)?\.{OUTPUT_MATRIX}", "attn.o"),
    Row(r"first_sub_layer\.out_projection|second_sub_layer\.out_projection", "attn.o"),
    Row(r"o_proj|out_lin|to_out|o_[ab]_proj|self_output\.dense|mlstm_layer\.out_proj", "attn.o"),
    Row(r"Wo|wo", "attn.o", beside="wqkv"),
    Row(r"Wo", "attn.o", beside="Wqkv"),
    Row(r"attn_out", "attn.o"),
    Row(r"out_proj", "attn.o", beside="q_proj"),
    Row(r"out_proj", "attn.o", beside="key_protein"),
    Row(r"sampling_offsets|attention_weights", "attn.sampling"),
    # Zamba2's shared block has a low-rank adapter for each layer that calls it.
    Row(r"linear_q_adapter_list\.#\.\d", "attn.q"),
    Row(r"linear_k_adapter_list\.#\.\d", "attn.k"),
    Row(r"linear_v_adapter_list\.#\.\d", "attn.v"),
    Row(r"gate_up_proj_adapter_list\.#\.\d", "adapter"),
    # State spaces and other recurrences.
    Row(
        rf"{SSM}\.(?:in_proj|out_proj|(?:x|dt)_proj(?:_weight)?|dt_in_proj|linear_\w+|rg_lru\.\w+)",
        "ssm",
    ),
    Row(r"A_log|D|A|dt_proj|in_proj_(?:a|b|ba)|[abf]_proj|f_[ab]_proj|[if]gate_preact", "ssm"),
    Row(r"in_proj|out_proj", "ssm", beside="conv1d"),
    Row(r"weight_[ih]h_l\d+|(?:lstm|gru|rnn)\.\w+", "rnn"),
    # Residual streams and per-layer inputs.
    Row(
        r"\w*hc_\w*(?:\.[^.#]+)*|\w+_hc\.\w+|hc_pre(?:\.[^.#]+)*|altup(?:\.[^.#]+)*|laurel\.\w+",
        "residual",
    ),
    Row(
        r"altup_\w+(?:\.\d+|\.#)?|attn_res\.\w+(?:\.\d+)?|\w*_residual|\w*residual_gate\.gate",
        "residual",
    ),
    Row(r"per_layer_(?:input_gate|projection|model_projection)", "per_layer"),
    # Heads, poolers.
    Row(
        r"lm_head(?:\.(?:decoder|out_proj|linear))?|lm_heads\.(?:\d+|#)|embed_out|unembed", "output"
    ),
    Row(r"shared_head\.head|output_projection|pred_layer\.proj|vocab_projector|ctc_head", "output"),
    Row(
        r"(?:predictions|lm_head|mlm_head|cls|head|predictions_head)\.decoder|^decoder",
        "output",
        dims=(1, 2),
    ),
    Row(
        r"^(?:\w+\.)?(?:head|output|output_layer|proj_out|score|fc|ff_out)|\w*score_head",
        "output",
        dims=(1, 2),
    ),
    Row(r"qa_outputs|seq_relationship|logits_proj|\w*class_head|generator_lm_head", "output"),
    Row(r"pooler(?:\.[^.#]+)*|transform\.dense|vocab_transform|lm_head\.dense", "pooler"),
    Row(r"predictions\.dense|head\.dense|classifier\.dense|\w*_predictions\.dense", "pooler"),
    Row(r"classifier(?:\.(?:out_proj|classifier|proj|\d+))?|\w+_classifier", "output"),
    Row(r"(?:text|visual|image|audio)_projection(?:\.linear\d|\.\d+)?", "pooler"),
    Row(r"(?:\w+_)?bbox_embed(?:\.[^.#]+)*|(?:enc_out_)?class_embed\.\d+", "output", dims=(1, 2)),
    # Between widths.
    Row(r"\w*bottleneck(?:\.[^.#]+)*", "projector", dims=(1, 2)),
    Row(rf"{PROJECTOR}(?:\.#)?(?:\.[^.#]+)*", "projector", dims=(0, 1, 2)),
    Row(r"eh_proj|mtp\.fc|mtp\.#\.[eh]_proj", "mtp"),
    Row(r"feature_projection(?:\.\w+)?|project_(?:in|out|hid)|embedding_proj\w*", "projector"),
    Row(r"embeddings_project|embedding_hidden_mapping_in|\w*encoder_proj|enc_proj", "projector"),
    # Stacks of experts, one tensor for all.
    Row(
        r"experts\.gate_up_proj",
        "mlp.gate_up",
        "gate_up_interleaved",
        models="gpt_oss.*|openai_privacy_filter",
        inputs_first=True,
    ),
    Row(
        r"experts\.down_proj",
        "mlp.down",
        models="gpt_oss.*|openai_privacy_filter|llama4.*|aria.*|qwen3_vl_moe.*",
        inputs_first=True,
    ),
    Row(
        r"experts\.gate_up_proj",
        "mlp.gate_up",
        "gate_up_halves",
        models="llama4.*|qwen3_vl_moe.*",
        inputs_first=True,
    ),
    Row(r"experts\.fc1", "mlp.gate_up", "gate_up_halves", models="aria.*", inputs_first=True),
    Row(r"experts\.fc2", "mlp.down", models="aria.*", inputs_first=True),
    Row(r"experts\.mlp\.w1", "mlp.gate", models="dbrx", stack="rows"),
    Row(r"experts\.mlp\.v1", "mlp.up", models="dbrx", stack="rows"),
    Row(r"experts\.mlp\.w2", "mlp.down", models="dbrx", stack="rows", inputs_first=True),
    # MLP: families first.
    Row(r"mlp\.w1", "mlp.up", models="qwen"),
    Row(r"mlp\.w2", "mlp.gate", models="qwen"),
    Row(
        r"encoder\.layers\.#\.mlp\.dense_h_to_4h",
        "mlp.gate_up",
        "gate_up_halves",
        models="chatglm",
    ),
    Row(r"\w*w13_(?:weight|dn)", "mlp.gate_up", "gate_up_interleaved", models="inkling.*"),
    Row(r"\w*w2_(?:weight|md)", "mlp.down", models="inkling.*"),
    # MLP: fused. What is activated is the gate, wherever it stands.
    Row(
        r"gate_up_proj|gate_and_up_proj|input_linear|w12|weights_in|Wi",
        "mlp.gate_up",
        "gate_up_halves",
    ),
    Row(r"up_gate_proj|ff_proj", "mlp.gate_up", "up_gate_halves"),
    Row(r"w13|gated_layers|up_gated_layer", "mlp.gate_up"),
    Row(r"output_linear|weights_out|ff_out", "mlp.down"),
    Row(r"w3", "mlp.down", beside="w12"),
    Row(r"w1", "mlp.up", not_beside="w3"),
    Row(r"mlp\.fc0", "mlp.up"),
    Row(r"mlp\.fc1", "mlp.down", beside="fc0"),
    Row(r"fc1", "mlp.gate", beside="fc3"),
    Row(r"fc3", "mlp.up"),
    # MLP: by name.
    Row(r"gate_proj|w1|wi_0|proj_up_gate|fc12|linear_gate|w_in\.w_0|c_fc_0", "mlp.gate"),
    Row(
        r"up_proj|w3|wi_1|wi|fc1|lin1|linear_fc1|fc_in|c_fc|c_fc_1|dense_h_to_4h|proj_up|fc11"
        r"|w_in\.w_1|intermediate_dense|ffw_layer_1|dense_in|fc1\.proj|linear_in|layer_1"
        r"|feed_forward\.dense\.dense|albert_layers\.#\.ffn|linear_up"
        r"|\w*(?:intermediate|inter)\w*\.dense"
        rf"|{MLP}(?:\.\w+)*\.(?:0|ff0|linear_?1|dense1|in_proj|proj_in|intermediate|conv1|fc_1)"
        r"|(?:pwconv1|pointwise_conv1)",
        "mlp.up",
        dims=(1, 2, 3),
    ),
    Row(
        r"down_proj|w2|wo|Wo|fc2|lin2|linear_fc2|fc_out|c_proj|dense_4h_to_h|proj_down|w_out"
        r"|output_dense|ffw_layer_2|dense_out|layer_2|ffn_output|linear_down|\w*output\w*\.dense"
        rf"|{MLP}(?:\.\w+)*\.(?:[1-4]|ff1|linear_?2|dense2|out_proj|proj_out|output|conv2|fc_2)"
        rf"|{MLP}\.linear_out"
        r"|(?:pwconv2|pointwise_conv2)",
        "mlp.down",
        dims=(1, 2, 3),
    ),
    Row(r"linear1|dense1", "mlp.up", dims=(1, 2)),
    Row(r"linear2|dense2", "mlp.down", dims=(1, 2)),
    # Embeddings.
    Row(r"w", "embed.token", models="ctrl"),
    Row(r"patchi?fier|patcher", "embed.patch", dims=(1, 2)),
    Row(
        r"embed_tokens|tokens_embed|wte(?:\.\w+)?|word_embeddings?|tok_embeddings|embed_in|shared"
        r"|token_embedding|embeddings?|embed|char_embed\w*",
        "embed.token",
        dims=(1, 2),
    ),
    Row(
        r"wpe|positions_embed|\w*pos(?:ition(?:al)?)?_emb\w*|embed_positions(?:\.\w+)?"
        r"|\w*positional_embedding\w*|\w*position_embeddings?(?:\.\w+)*|pos_emb\w*(?:\.\w+)*"
        r"|\w*positional_encoding\w*|ape|position_bias|row_embed\w*|column_embed\w*|class_pos_emb",
        "embed.position",
    ),
    Row(r"token_type_embeddings?|segment_embeddings?", "embed.type"),
    Row(
        r"\w*patch_?embed\w*(?:\.[^.#]+)*|patch_conv|patch_projection|patch_generator\.embedder"
        r"|^(?:\w+\.)*(?:encoder|\w+_tower|\w+_encoder|visual)\.conv[12]|^conv[12]"
        r"|video_patch_projection|patch_dense",
        "embed.patch",
    ),
    Row(
        r"\w*(?:cls|class|mask|register|distillation|query|iou|obj_score|newline|separator|pad)"
        r"_?(?:tokens?|embedding|newline)\w*(?:\.\w+)?|image_newline|probe|latents|latent_query"
        r"|\w+_tokens?(?:_\w+)?|reference_points|query_feat|queries_features|\w*_emb"
        r"|no_object_pointer"
        r"|masked_spec_embed|codevectors|view_sep\w*|bos_latent",
        "embed.other",
    ),
    Row(
        r"\w*embed(?:s|der|ding|dings)?\w*(?:\.[^.#]+)*|codebook\.embed",
        "embed.other",
        dims=(0, 1, 2, 3),
    ),
    # Scales.
    Row(
        r"\w*layer_?scale\w*(?:\.\w+)?|lambda_?\w*|ls_?\d(?:\.gamma)?|(?:ffn_)?gamma(?:_\d)?"
        r"|\w*logit_(?:scale|bias)|temperature|layer_scalar|alpha\w*|beta|\w*_scal(?:e|ing)\w*"
        r"|scal(?:e|ing)\w*(?:\.\w+)?|\w*_scaling\.\w+|gate_(?:attn|ffn|attention|ffw)|\w+_gate"
        r"|\w*_clip\.scale|eps|act_fn\.\w+",
        "scale",
        dims=(0, 1, 2, 3),
    ),
    # What only the shape tells.
    Row(r".*", "conv", dims=(3, 4, 5), leaf="weight"),
    Row(r".*conv\w*(?:\.\w+)*", "conv", dims=(2, 3, 4, 5)),
    # Last guesses, by a word that says where a projection leads.
    Row(r"\w*(?:head|predictor|predictions?)(?:\.[^.#]+)*|predict_\w+", "output", dims=(1, 2)),
    Row(
        r"\w*(?:mlps|heads)\.(?:#|\d+)(?:\.[^.#]+)*|lm_loss|decoder_pred|out(?:_mid)?",
        "output",
        dims=(1, 2),
    ),
    Row(
        r"\w*reduction|encoder_to_decoder|\w*transform(?:ation)?|downsample",
        "projector",
        dims=(1, 2),
    ),
    Row(r"proj\w*(?:\.\d)?|\w+_proj(?:ection)?|\w*_?linear|\w*dense\w*", "projector", dims=(1, 2)),
)


@dataclass(frozen=True, slots=True)
class Context:
    """A place in a path that changes what the end of the path means.

    Attributes:
        pattern: matches whole segments anywhere.
        renames: prefixes of roles, and what they become here.
        dims: as in a row.
    """

    pattern: str
    renames: tuple[tuple[str, str], ...]
    dims: tuple[int, ...] = ()


CONTEXTS: tuple[Context, ...] = (
    Context(r"shared_experts?|shared_mlp|share_expert", (("mlp.", "moe.shared."),)),
    Context(r"\w*experts", (("mlp.", "moe.expert."),)),
    # Stacks that no `experts` names: Granite's `block_sparse_moe.input_linear`, Step's `moe`.
    Context(r"block_sparse_moe|moe|mlp", (("mlp.", "moe.expert."),), dims=(3,)),
    Context(
        r"EncDecAttention|encoder_attn\w*|crossattention|cross_attn\w*|cross_attention\w*"
        r"|encoder_decoder_attention|second_sub_layer|x_attn",
        (("attn.", "cross_attn."),),
    ),
)
