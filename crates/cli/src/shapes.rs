//! The shapes that can be measured: `config.json` of published models, and a tiny one.
use crate::args::Shape;
use serde_json::{Value, json};

pub fn config(shape: Shape) -> Value {
    let (own, tied) = match shape {
        // huggingface.co/meta-llama/Llama-3.1-8B
        Shape::Llama8b => (
            json!({
                "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
                "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "max_position_embeddings": 131072,
                "rope_theta": 500000.0,
                "rope_scaling": {
                    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192
                }
            }),
            false,
        ),
        // huggingface.co/meta-llama/Llama-3.2-1B
        Shape::Llama1b => (
            json!({
                "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
                "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "max_position_embeddings": 131072,
                "rope_theta": 500000.0,
                "rope_scaling": {
                    "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192
                }
            }),
            true,
        ),
        // huggingface.co/HuggingFaceTB/SmolLM2-135M
        Shape::SmolLm2 => (
            json!({
                "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
                "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192, "rope_theta": 100000.0
            }),
            true,
        ),
        Shape::Tiny => (
            json!({
                "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
                "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 8192, "rope_theta": 10000.0
            }),
            true,
        ),
    };
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "attention_bias": false, "mlp_bias": false, "tie_word_embeddings": tied
    });
    if let (Some(config), Value::Object(own)) = (config.as_object_mut(), own) {
        config.extend(own);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use tune_model::{Checkpoint, Precision, causal_lm::sizes};

    /// Parameters as the models' pages state them.
    #[test]
    fn shapes_have_the_sizes_of_their_models() {
        let shapes = [(Shape::Llama1b, 1_235_814_400), (Shape::SmolLm2, 134_515_008)];
        for (shape, parameters) in shapes {
            let base = Checkpoint::outline("shape", config(shape)).unwrap();
            assert_eq!(
                sizes(&base, None, Precision::F32).unwrap().total_params,
                parameters,
                "{shape:?}"
            );
        }
    }
}
