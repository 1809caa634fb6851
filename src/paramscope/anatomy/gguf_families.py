"""How GGUF files name things: rows as in `families.py`, which stand before those.

llama.cpp gives the tensors of all models one set of names, so that few rows depend on a family.
Fused weights stand as its converter leaves them: queries, keys and values one after the other,
whatever their order was in the Hugging Face checkpoint.

Source: gguf-py/gguf/constants.py, tensor_mapping.py and conversion/ of
github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

from paramscope.anatomy.families import GATED_ATTENTION, Context, Row

# The first words of names, which tell the tower.
TOWERS = {"v": "vision", "a": "audio", "enc": "encoder", "dec": "decoder"}

# Linear attention that llama.cpp stores among the state spaces.
LINEAR_ATTENTION = rf"{GATED_ATTENTION}|kimi.*"


def _in_block(names: str, role: str, layout: str = "", models: str = "") -> Row:
    return Row(rf"(?:\w+_)?(?:blk|posnet|convnext)\.#\.(?:{names})", role, layout, models)


# Over whole names, leaf included: no weights of their own, or named like a bias and none.
GGUF_NOT_TRAINED: tuple[Row, ...] = (
    Row(r"(?:rope_(?:freqs|factors_\w+)|attn_rot_embd)(?:\.weight)?", "buffer"),
    Row(r"exp_probs_b(?:_vl)?(?:\.bias)?", "moe.router"),
    Row(
        r"vision\.std_(?:bias|scale)|audio\.(?:mel_filters|window)|conv_norm_(?:mean|var)", "buffer"
    ),
    Row(r"ffn_gate_tid2eid(?:\.weight)?|masked_embd_ordering|d2t", "buffer"),
)

GGUF_ROWS: tuple[Row, ...] = (
    _in_block(r"(?:\w+\.)*(?:\w*norm\w*|ln\d|\w+_ln)", "norm"),
    # Attention.
    _in_block("attn_qkv", "attn.qkv", "qkv_per_head", models="minimax"),
    _in_block("attn_qkv", "attn.qkv", "linear_qkv_blocks", models=GATED_ATTENTION),
    _in_block("attn_qkv", "attn.qkv", models="neo-bert"),
    Row(r"sam\.blk\.#\.attn\.qkv", "attn.qkv", "qkv_thirds"),
    _in_block("attn_qkv", "attn.qkv", "qkv_blocks"),
    _in_block("vis_attn_qkv", "attn.qkv", "qkv_thirds"),
    _in_block("attn_q", "attn.q", "q_gate_per_head", models=GATED_ATTENTION),
    _in_block("(?:self_)?attn_q", "attn.q"),
    _in_block("(?:self_)?attn_k", "attn.k"),
    _in_block("(?:self_)?attn_v", "attn.v"),
    _in_block(r"(?:vis_|self_)?attn_o(?:ut|utput|utput_[ab])?", "attn.o"),
    _in_block("cross_attn_q", "cross_attn.q"),
    _in_block("cross_attn_k", "cross_attn.k"),
    _in_block("cross_attn_v", "cross_attn.v"),
    _in_block("cross_attn_o(?:ut)?", "cross_attn.o"),
    _in_block("attn_q_a", "attn.q_a"),
    _in_block("attn_q_b", "attn.q_b"),
    _in_block("attn_kv_a_mqa", "attn.kv_a", "latent_rope"),
    _in_block("attn_kv_b", "attn.kv_b", "kv_per_head"),
    _in_block("attn_kv", "attn.kv"),
    _in_block("attn_k_b", "attn.k_b"),
    _in_block("attn_v_b", "attn.v_b"),
    _in_block("attn_(?:compressor_)?gate", "attn.gate"),
    _in_block("attn_compressor_kv", "attn.kv"),
    _in_block("attn_compressor_ape", "embed.position"),
    _in_block("attn_sinks|pos_bias_[uv]", "attn.bias"),
    _in_block("(?:cross_)?attn_rel_b|attn_rel_pos_emb|attn\\.pos_[hw]", "embed.relative"),
    _in_block("attn_k_rel|linear_pos", "attn.pos"),
    _in_block(r"indexer\.(?:attn_q_b|q_proj)", "attn.index.q"),
    _in_block(r"indexer\.(?:attn_k|k_proj)", "attn.index.k"),
    _in_block(r"indexer(?:\.\w+|_\w+)", "attn.index"),
    # Mixtures of experts.
    _in_block("ffn_gate_inp", "moe.router"),
    _in_block("ffn_gate_inp_shexp", "moe.shared.router"),
    _in_block("ffn_gate_(?:ch)?exps", "mlp.gate"),
    _in_block("ffn_up_(?:ch)?exps", "mlp.up"),
    _in_block("ffn_down_(?:ch)?exps", "mlp.down"),
    _in_block("ffn_gate_up_exps", "mlp.gate_up", "gate_up_halves"),
    _in_block("ffn_gate_shexp", "mlp.gate"),
    _in_block("ffn_up_shexp", "mlp.up"),
    _in_block("ffn_down_shexp", "mlp.down"),
    _in_block("ffn_(?:latent|routed)_(?:down|up)", "projector"),
    # MLPs. Without a gate of its own, `ffn_up` may hold both, the gate first.
    _in_block(r"(?:ffn|vis)_gate(?:_1)?", "mlp.gate"),
    Row(r"blk\.#\.ffn_up", "mlp.up", "gate_up_if_double", not_beside="ffn_gate"),
    _in_block(r"(?:ffn|vis)_up(?:_1)?|(?:conv_)?pw1", "mlp.up"),
    _in_block(r"(?:ffn|vis)_down(?:_1)?|(?:conv_)?pw2", "mlp.down"),
    # State spaces, linear attention, RWKV.
    _in_block(r"ssm_conv1d\w*|shortconv\.\w+|conv(?:\d|_\w+)|dw|\w+_conv1d", "conv"),
    _in_block("ssm_out", "attn.o", models=LINEAR_ATTENTION),
    _in_block("ssm_g(?:_[ab])?", "attn.gate"),
    _in_block(r"ssm_\w+", "ssm"),
    _in_block("time_mix_receptance", "attn.q"),
    _in_block("time_mix_key", "attn.k"),
    _in_block("time_mix_value", "attn.v"),
    _in_block("time_mix_output", "attn.o"),
    _in_block("time_mix_gate", "attn.gate"),
    _in_block("time_mix_ln", "norm"),
    _in_block(r"time_mix_\w+", "ssm"),
    _in_block("channel_mix_receptance", "mlp.gate"),
    _in_block("channel_mix_key", "mlp.up"),
    _in_block("channel_mix_value", "mlp.down"),
    _in_block(r"channel_mix_\w+", "scale"),
    # Residual streams, per-layer inputs, multi-token prediction, scales.
    _in_block(r"altup_\w+|laurel_\w+|hc_\w+|(?:attn|ffn)_res_score", "residual"),
    Row(r"altup_(?:unembd_)?proj|output_hc_\w+|output_res_score", "residual"),
    _in_block(r"inp_gate|proj|ple_\w+", "per_layer"),
    Row(r"per_layer_model_proj", "per_layer"),
    _in_block(r"nextn\.eh_proj", "mtp"),
    _in_block(r"nextn\.embed_tokens", "embed.token"),
    _in_block(r"nextn\.shared_head_head", "output"),
    _in_block(r"\w*_scale(?:_1)?|ls\d|gamma|ffn(?:\.act)?", "scale"),
    # Outside the layers.
    Row(r"^token_embd", "embed.token"),
    Row(r"per_layer_token_embd", "embed.other"),
    Row(r"position_embd|pos_embd(?:_k)?", "embed.position"),
    Row(r"^token_types", "embed.type"),
    Row(r"^output|cls\.output|audio\.embd_to_logits|audio\.enc_ctc_out(?:_mid)?", "output"),
    Row(r"^cls|^dense_[23]", "pooler"),
    Row(r"vision\.token_embd\.\w+|class_embd|proj_query|resampler\.query", "embed.other"),
    Row(r"vision\.(?:boi|eoi|view_sep\w+)|mm\.image_\w+", "embed.other"),
    Row(r"patch_embd(?:\.weight)?(?:\.\d)?", "embed.patch"),
    Row(r"(?:vision|mm|resampler|audio)\.(?:[^.]+\.)*(?:\w*norm\w*|bn|ln_\w+|\w+_ln)", "norm"),
    Row(r"vision\.(?:conv_stem|msfa|sam\.(?:neck|net_\d))(?:\.[^.]+)*", "conv"),
    Row(r"audio\.conv(?:1d|2d|_out)(?:\.[^.]+)*|^conv1d", "conv"),
    Row(r"^mm(?:\.[^.]+)*|resampler\.(?:kv|proj)|deepstack\.#\.fc\d", "projector"),
    Row(r"audio\.(?:pre_encode\.out|input_projection|proj_linear)", "projector"),
)

GGUF_CONTEXTS: tuple[Context, ...] = (
    Context(r"ffn_\w+_shexp", (("mlp.", "moe.shared."),)),
    Context(r"ffn_\w+_(?:ch)?exps", (("mlp.", "moe.expert."),)),
)
