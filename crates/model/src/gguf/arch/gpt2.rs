//! GPT-2: `GPT2Model` of the converter. Matrices stored `[in, out]` are turned; q, k and v stay one.
use super::{Architecture, Kept};

pub const GPT2: Architecture = Architecture {
    name: "gpt2",
    model_types: &["gpt2"],
    ends: &[
        ("transformer.wte.weight", "token_embd.weight"),
        ("transformer.wpe.weight", "position_embd.weight"),
        ("transformer.ln_f.weight", "output_norm.weight"),
        ("transformer.ln_f.bias", "output_norm.bias"),
        ("lm_head.weight", "output.weight"),
    ],
    blocks: "transformer.h.",
    modules: &[
        ("ln_1", "attn_norm"),
        ("attn.c_attn", "attn_qkv"),
        ("attn.c_proj", "attn_output"),
        ("ln_2", "ffn_norm"),
        ("mlp.c_fc", "ffn_up"),
        ("mlp.c_proj", "ffn_down"),
    ],
    kept: &[
        ("c_attn", Kept::Transposed),
        ("c_proj", Kept::Transposed),
        ("c_fc", Kept::Transposed),
    ],
    epsilon: ("attention.layer_norm_epsilon", "layer_norm_epsilon", 1e-5),
    special: |base, _| {
        if base.config["scale_attn_weights"] == false {
            return Err("scale_attn_weights is false, and llama.cpp scales".into());
        }
        match base.config["scale_attn_by_inverse_layer_idx"] == true {
            true => Err("scores scaled by the layer's number (scale_attn_by_inverse_layer_idx)".into()),
            false => Ok(Vec::new()),
        }
    },
};
