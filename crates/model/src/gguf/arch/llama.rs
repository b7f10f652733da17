//! Llama, SmolLM2, TinyLlama, Mistral: `LlamaModel` of the converter. It rotates neighbouring rows of q and k.
use super::{Architecture, ENDS, Kept, RMS, everything_attended, kv_heads};

pub const LLAMA: Architecture = Architecture {
    name: "llama",
    model_types: &["llama", "mistral"],
    ends: ENDS,
    blocks: "model.layers.",
    modules: &[
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ],
    kept: &[
        ("self_attn.q_proj", Kept::Interleaved(|shape| shape.heads)),
        ("self_attn.k_proj", Kept::Interleaved(kv_heads)),
    ],
    epsilon: RMS,
    special: |base, _| {
        everything_attended(&base.config)?;
        Ok(Vec::new())
    },
};
