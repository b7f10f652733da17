//! Phi-3, Phi-3.5, Phi-4: `Phi3MiniModel` of the converter. Fused q, k, v and fused gate, up, as in the checkpoint.
//!
//! The window is written as the converter writes it, 0 for none. llama.cpp b10605 reads it and attends to all tokens.
use super::{Architecture, LLAMA, RMS, positions};
use crate::gguf::write::Value;

pub const PHI3: Architecture = Architecture {
    name: "phi3",
    model_types: &["phi3"],
    modules: &[
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.qkv_proj", "attn_qkv"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ],
    kept: &[],
    epsilon: (RMS.0, RMS.1, 1e-5),
    special: |base, _| {
        let window = base.config["sliding_window"].as_u64().unwrap_or(0);
        let original = positions::original_context(&base.config).unwrap_or(4096);
        Ok(vec![
            ("attention.sliding_window", Value::U32(window as u32)),
            ("rope.scaling.original_context_length", Value::U32(original as u32)),
        ])
    },
    ..LLAMA
};
