//! Gemma 3's text models: `Gemma3Model` of the converter. Gemma 2's names with norms of q and k, five local layers to a global
//! one, angles of their own for the local ones.
use super::gemma2::{GEMMA2, checked, window};
use super::{Architecture, ENDS};
use crate::family::gemma3::{LOCAL, LOCAL_THETA, of_layers};
use crate::gguf::write::Value;

pub const GEMMA3: Architecture = Architecture {
    name: "gemma3",
    model_types: &["gemma3_text"],
    ends: ENDS,
    modules: &[
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("post_attention_layernorm", "post_attention_norm"),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
    ],
    special: |base, shape| {
        let cfg = checked(base, shape, 6)?;
        let local = of_layers(&base.config, LOCAL, LOCAL_THETA);
        if let Some(kind) = super::positions::kind(&local) {
            return Err(format!("positions of local layers stretched by `{kind}`"));
        }
        let mut settings = vec![
            ("attention.sliding_window", window(&cfg)?),
            ("rope.freq_base_swa", Value::F32(crate::nn::theta(&local) as f32)),
        ];
        let cap = base.config["final_logit_softcapping"].as_f64();
        settings.extend(cap.map(|cap| ("final_logit_softcapping", Value::F32(cap as f32))));
        Ok(settings)
    },
    ..GEMMA2
};
