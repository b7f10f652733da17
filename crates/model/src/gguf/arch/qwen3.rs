//! Qwen3: `Qwen3Model` of the converter. Norms of q and k; rows as they are.
use super::{Architecture, LLAMA, plain};

pub const QWEN3: Architecture = Architecture {
    name: "qwen3",
    model_types: &["qwen3"],
    modules: &[
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ],
    kept: &[],
    special: plain,
    ..LLAMA
};
