//! OLMo 2: `Olmo2Model` of the converter. Norms after attention and MLP, and over q and k; rows as they are.
use super::{Architecture, LLAMA, RMS, own_head, plain};

pub const OLMO2: Architecture = Architecture {
    name: "olmo2",
    model_types: &["olmo2"],
    modules: &[
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("post_attention_layernorm", "post_attention_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
    ],
    kept: &[],
    epsilon: (RMS.0, RMS.1, 1e-5),
    special: |base, shape| {
        own_head(base)?;
        plain(base, shape)
    },
    ..LLAMA
};
