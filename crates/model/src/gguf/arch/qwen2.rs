//! Qwen2 and Qwen2.5: `Qwen2Model` of the converter. Biases on q, k and v; rows as they are.
use super::{Architecture, LLAMA, plain};

pub const QWEN2: Architecture = Architecture {
    name: "qwen2",
    model_types: &["qwen2"],
    kept: &[],
    special: plain,
    ..LLAMA
};
