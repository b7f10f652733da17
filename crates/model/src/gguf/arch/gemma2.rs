//! Gemma 2: `Gemma2Model` of the converter. Norms stored less 1 become whole, every other layer is local.
use super::{Architecture, Kept, LLAMA, no_biases};
use crate::checkpoint::Checkpoint;
use crate::family::{Shape, gemma2::Config};
use crate::gguf::write::Value;

/// llama.cpp's `LLM_TYPE_27B` of Gemma 2 and 3 scales scores by the width of a head that fills the hidden size.
const LARGEST: [usize; 2] = [46, 62];

pub const GEMMA2: Architecture = Architecture {
    name: "gemma2",
    model_types: &["gemma2"],
    // The head is the embedding.
    ends: &[
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ],
    modules: &[
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("post_attention_layernorm", "post_attention_norm"),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
    ],
    kept: &[("norm", Kept::WithOne)],
    special: |base, shape| {
        let cfg = checked(base, shape, 2)?;
        let cap = |name: &str, cap: Option<f64>| {
            let cap = cap.ok_or_else(|| format!("`{name}` is null, and llama.cpp caps always"))?;
            Ok::<_, String>(Value::F32(cap as f32))
        };
        let (scores, logits) = ("attn_logit_softcapping", "final_logit_softcapping");
        Ok(vec![
            (scores, cap(scores, cfg.attn_logit_softcapping)?),
            (logits, cap(logits, cfg.final_logit_softcapping)?),
            ("attention.sliding_window", window(&cfg)?),
        ])
    },
    ..LLAMA
};

/// The config, where llama.cpp does what it says: `period` layers to a global one, scores scaled by the width of a head.
pub(super) fn checked(base: &Checkpoint, shape: &Shape, period: usize) -> Result<Config, String> {
    no_biases(&base.config)?;
    let cfg = Config::read(base).map_err(|error| error.to_string())?;
    let pattern = match &base.config["sliding_window_pattern"] {
        serde_json::Value::Null => period,
        pattern => pattern.as_u64().unwrap_or(0) as usize,
    };
    let local = cfg.local_layers(base, pattern).map_err(|error| error.to_string())?;
    if (1..)
        .zip(&local)
        .any(|(number, local)| *local == (number % period == 0))
    {
        let wanted = format!("each {period}th layer global and the others local, as llama.cpp has them");
        return Err(format!("local layers {local:?}, wanted {wanted}"));
    }
    let scaled_by = match LARGEST.contains(&shape.layers) {
        true => shape.hidden / shape.heads,
        false => cfg.head_dim,
    };
    if cfg.query_pre_attn_scalar != scaled_by as f64 {
        let found = cfg.query_pre_attn_scalar;
        return Err(format!(
            "query_pre_attn_scalar is {found}, and llama.cpp takes {scaled_by}"
        ));
    }
    Ok(cfg)
}

pub(super) fn window(cfg: &Config) -> Result<Value, String> {
    let window = cfg.sliding_window.ok_or("local layers without a `sliding_window`")?;
    Ok(Value::U32(window as u32))
}
