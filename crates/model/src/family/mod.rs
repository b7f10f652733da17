//! The list of families, one file an architecture. `config.json`'s `model_type` chooses.
pub mod gpt2;
pub mod gpt_neo;
pub mod llama;

use crate::checkpoint::Checkpoint;
use crate::load::Weights;
use crate::nn::{Angles, Linear, Pass};
use crate::{Frozen, ModelError, Result};
use burn::tensor::Tensor;
use serde::de::DeserializeOwned;

/// `model_type`s that load, for messages.
pub const SUPPORTED: &[&str] = &["llama", "mistral", "gpt_neo", "gpt2"];

/// One architecture: embedding, blocks, head. Blocks are run one by one so that `backprop` can decide what is kept.
pub trait Family: Send {
    fn name(&self) -> &'static str;
    fn shape(&self) -> Shape;
    /// `[tokens, d]`
    fn embed(&self, tokens: &[u32], positions: &[u32]) -> Tensor<2>;
    /// Rotary angles of the rows, for families that rotate.
    fn angles(&self, positions: &[u32]) -> Option<Angles>;
    /// Block `layer`: `[tokens, d]` to the same.
    fn block(&self, layer: usize, x: Tensor<2>, pass: &Pass<'_>) -> Tensor<2>;
    /// The norm before the head.
    fn norm(&self, x: Tensor<2>) -> Tensor<2>;
    /// `[vocab, d]`
    fn head(&self) -> &Frozen;
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
    /// Dimensions of a head that rotate.
    pub rotary: usize,
}

/// Builds the family `config.json` names; with `weights` that do not read, only its account of tensors.
pub fn load(base: &Checkpoint, weights: Weights<'_>) -> Result<Box<dyn Family>> {
    let model_type = base.config.get("model_type").and_then(|v| v.as_str()).unwrap_or("");
    match model_type {
        "llama" | "mistral" => Ok(Box::new(llama::Llama::load(base, weights)?)),
        "gpt_neo" => Ok(Box::new(gpt_neo::GptNeo::load(base, weights)?)),
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
