//! The list of families, one file an architecture. `config.json`'s `model_type` chooses.
mod decoder;
pub mod gemma2;
pub mod gemma3;
pub mod gpt2;
pub mod gpt_neo;
pub mod gpt_neox;
pub mod llama;
pub mod olmo2;
pub mod phi3;
pub mod qwen2;
pub mod qwen3;
pub mod smollm3;

use crate::checkpoint::Checkpoint;
use crate::load::Weights;
use crate::nn::{Angles, Linear, Pass};
use crate::{Frozen, Input, ModelError, Result};
use burn::tensor::Tensor;
use serde::de::DeserializeOwned;

/// `model_type`s that load, for messages.
pub const SUPPORTED: &[&str] = &[
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "smollm3",
    "olmo2",
    "phi3",
    "gpt_neo",
    "gpt2",
    "gpt_neox",
    "gemma2",
    "gemma3_text",
];

/// The supported type that begins most like `model_type`.
pub fn nearest(model_type: &str) -> Option<&'static str> {
    let alike = |name: &str| name.bytes().zip(model_type.bytes()).take_while(|(a, b)| a == b).count();
    // Of equals the first.
    let nearest = SUPPORTED.iter().rev().max_by_key(|name| alike(name))?;
    (alike(nearest) > 1).then_some(nearest)
}

/// One architecture: embedding, blocks, head. Blocks are run one by one so that `backprop` can decide what is kept.
pub trait Family: Send {
    fn name(&self) -> &'static str;
    fn shape(&self) -> Shape;
    /// `[tokens, d]`
    fn embed(&self, tokens: &[u32], positions: &[u32]) -> Tensor<2>;
    /// Rotary angles of the rows, for families that rotate.
    fn angles(&self, input: &Input) -> Option<Angles>;
    /// Those of layers that rotate otherwise, for families that have such.
    fn local_angles(&self, _input: &Input) -> Option<Angles> {
        None
    }
    /// The most tokens of a sequence that are rotated as those of a longer one are not: past it, cached keys do not hold.
    fn cache_holds_to(&self) -> Option<usize> {
        None
    }
    /// Block `layer`: `[tokens, d]` to the same.
    fn block(&self, layer: usize, x: Tensor<2>, pass: &Pass<'_>) -> Tensor<2>;
    /// The norm before the head.
    fn norm(&self, x: Tensor<2>) -> Tensor<2>;
    /// `[vocab, d]`
    fn head(&self) -> &Frozen;
    /// What logits are softly capped at.
    fn softcap(&self) -> Option<f64> {
        None
    }
    /// The linears of all blocks, block by block.
    fn linears(&self) -> Vec<&Linear>;
    fn linears_mut(&mut self) -> Vec<&mut Linear>;
}

/// Sizes of an architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Shape {
    pub layers: usize,
    pub hidden: usize,
    pub vocab: usize,
    pub context: usize,
    pub heads: usize,
    /// Columns of queries, and of attention's output.
    pub q_width: usize,
    /// Columns of keys, and of values.
    pub kv_width: usize,
    /// Columns between the MLP's matrices.
    pub inner: usize,
    /// Whether the MLP has a gate beside what it gates.
    pub gated: bool,
    /// Whether gate and up are views of one product.
    pub fused: bool,
    /// Columns that a block's backward pass holds beside what stays, while gradients of q, k and v become that of one product before
    /// the MLP's are made; 0 where it is not so.
    pub joined: usize,
    /// Columns that stay of a block beside attention's and the MLP's: what norms are given, products of which views are used.
    pub saved: usize,
    /// Dimensions of a head that rotate, once for each table of angles.
    pub rotary: usize,
    /// Whether attention's scores are capped.
    pub capped: bool,
}

/// Builds the family `config.json` names; with `weights` that do not read, only its account of tensors.
pub fn load(base: &Checkpoint, weights: Weights<'_>) -> Result<Box<dyn Family>> {
    let model_type = base.config.get("model_type").and_then(|v| v.as_str()).unwrap_or("");
    match model_type {
        "llama" | "mistral" => Ok(Box::new(llama::load(base, weights)?)),
        "qwen2" => Ok(Box::new(qwen2::load(base, weights)?)),
        "qwen3" => Ok(Box::new(qwen3::load(base, weights)?)),
        "smollm3" => Ok(Box::new(smollm3::load(base, weights)?)),
        "olmo2" => Ok(Box::new(olmo2::load(base, weights)?)),
        "phi3" => Ok(Box::new(phi3::load(base, weights)?)),
        "gpt_neo" => Ok(Box::new(gpt_neo::GptNeo::load(base, weights)?)),
        "gpt_neox" => Ok(Box::new(gpt_neox::GptNeox::load(base, weights)?)),
        "gemma2" => Ok(Box::new(gemma2::load(base, weights)?)),
        "gemma3_text" => Ok(Box::new(gemma3::load(base, weights)?)),
        "gemma3" => Err(ModelError::Unsupported {
            path: base.name.clone().into(),
            problems: vec!["model_type is `gemma3`, text and images in one; wanted its text model alone, `gemma3_text`".into()],
            hint: "name a Gemma 3 without images, google/gemma-3-270m-it or google/gemma-3-1b-it; those of 4B and more have them"
                .into(),
        }),
        "gpt2" => Ok(Box::new(gpt2::Gpt2::load(base, weights)?)),
        other => Err(ModelError::UnknownFamily {
            base: base.name.clone(),
            model_type: other.to_string(),
        }),
    }
}

/// The fields a family needs of `config.json`.
fn config<T: DeserializeOwned>(base: &Checkpoint) -> Result<T> {
    serde_json::from_value(base.config.clone()).map_err(|source| ModelError::Config {
        base: base.name.clone(),
        source,
    })
}

/// Refuses a config value this family's code does not implement.
fn unsupported(base: &Checkpoint, problem: impl Into<String>) -> ModelError {
    ModelError::ConfigUnsupported {
        base: base.name.clone(),
        problem: problem.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn what_a_config_asks_for_and_no_code_does_is_refused() {
        let refusal = |model_type: &str, key: &str, value: Value| {
            let mut config = json!({
                "model_type": model_type, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
                "num_attention_heads": 2, "vocab_size": 16, "max_position_embeddings": 32
            });
            Checkpoint::outline("b", config.clone()).unwrap();
            config[key] = value;
            Checkpoint::outline("b", config).err().unwrap().to_string()
        };
        let cases = [
            ("llama", "hidden_act", json!("gelu"), "`gelu`, wanted `silu`"),
            (
                "olmo2",
                "num_key_value_heads",
                json!(3),
                "2 attention heads over 3 key/value heads",
            ),
            (
                "qwen2",
                "layer_types",
                json!(["full_attention"]),
                "name 1 layers, num_hidden_layers is 2",
            ),
            (
                "qwen3",
                "layer_types",
                json!(["full_attention", "chunked"]),
                "`chunked`, wanted",
            ),
            ("smollm3", "no_rope_layers", json!([1]), "name 1 of 2 layers"),
            (
                "phi3",
                "rope_scaling",
                json!({"type": "longrope"}),
                "2 numbers `long_factor`",
            ),
        ];
        for (model_type, key, value, wanted) in cases {
            let told = refusal(model_type, key, value);
            assert!(told.contains("config.json of `b`") && told.contains(wanted), "{told}");
        }
    }

    /// As google/gemma-3-4b-it has it.
    #[test]
    fn gemma_3_with_images_is_refused_with_a_way_out() {
        let config = json!({
            "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
            "text_config": {"model_type": "gemma3_text", "hidden_size": 8, "num_hidden_layers": 2},
            "vision_config": {"model_type": "siglip_vision_model"}
        });
        let error = Checkpoint::outline("google/gemma-3-4b-it", config).err().unwrap();
        let (told, hint) = (error.to_string(), error.hint().unwrap());
        assert!(
            told.contains("google/gemma-3-4b-it") && told.contains("`gemma3_text`"),
            "{told}"
        );
        assert!(hint.contains("google/gemma-3-1b-it"), "{hint}");
    }

    #[test]
    fn the_nearest_family_by_name() {
        let pairs = [
            ("qwen2_moe", "qwen2"),
            ("qwen3_next", "qwen3"),
            ("mixtral", "mistral"),
            ("phi", "phi3"),
            ("phimoe", "phi3"),
            ("olmo", "olmo2"),
            ("llama4", "llama"),
        ];
        for (asked, wanted) in pairs {
            assert_eq!(nearest(asked), Some(wanted), "{asked}");
        }
        for asked in ["mamba", "falcon", ""] {
            assert_eq!(nearest(asked), None, "{asked}");
        }
        let refused = |model_type: &str| ModelError::UnknownFamily {
            base: "b".into(),
            model_type: model_type.into(),
        };
        let hint = refused("qwen2_moe").hint().unwrap();
        assert!(
            hint.contains("mistral, ") && hint.contains("by name is `qwen2`"),
            "{hint}"
        );
        assert!(!refused("mamba").hint().unwrap().contains("nearest"));
    }
}
