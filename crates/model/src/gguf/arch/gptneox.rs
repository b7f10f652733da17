//! GPT-NeoX and Pythia: `GPTNeoXModel` of the converter. q, k and v, stored head by head, become three blocks of rows.
use super::{Architecture, Kept, own_head};
use crate::gguf::write::Value;

pub const GPTNEOX: Architecture = Architecture {
    name: "gptneox",
    model_types: &["gpt_neox"],
    ends: &[
        ("gpt_neox.embed_in.weight", "token_embd.weight"),
        ("gpt_neox.final_layer_norm.weight", "output_norm.weight"),
        ("gpt_neox.final_layer_norm.bias", "output_norm.bias"),
        ("embed_out.weight", "output.weight"),
        // As transformers 5 saves it.
        ("lm_head.weight", "output.weight"),
    ],
    blocks: "gpt_neox.layers.",
    modules: &[
        ("input_layernorm", "attn_norm"),
        ("attention.query_key_value", "attn_qkv"),
        ("attention.dense", "attn_output"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.dense_h_to_4h", "ffn_up"),
        ("mlp.dense_4h_to_h", "ffn_down"),
    ],
    kept: &[("attention.query_key_value", Kept::Parted)],
    epsilon: ("attention.layer_norm_epsilon", "layer_norm_eps", 1e-5),
    special: |base, _| {
        own_head(base)?;
        if base.config["attention_bias"] == false {
            return Err("attention_bias is false, and llama.cpp wants biases".into());
        }
        let parallel = base.config["use_parallel_residual"].as_bool().unwrap_or(true);
        Ok(vec![("use_parallel_residual", Value::Bool(parallel))])
    },
};
