//! Base causal LM with LoRA adapters: load, forward, backward, generate, save.
pub mod backprop;
pub mod causal_lm;
pub mod checkpoint;
pub mod encoder;
pub mod error;
pub mod family;
pub mod frozen;
pub mod generate;
pub mod gguf;
#[cfg(feature = "tch")]
pub mod graph;
#[cfg(feature = "tch")]
pub mod libtorch;
pub mod load;
pub mod lora;
pub mod memory;
pub mod merge;
pub mod mlx;
pub mod nn;
pub mod noise;
pub mod ops;
pub mod peft;
pub mod pissa;
pub mod portable;
pub mod precision;
pub mod quant;
#[cfg(feature = "tch")]
mod recorded;
pub mod safetensors_file;
pub mod sampler;
#[cfg(feature = "tch")]
pub mod selfcheck;
pub mod staging;

pub use causal_lm::{CausalLm, Input, Keep, Loss, Losses, Noise};
pub use checkpoint::{Checkpoint, OpenOptions};
pub use encoder::{Encoder, EncoderInput};
pub use error::ModelError;
pub use frozen::Frozen;
pub use precision::{DeviceKind, Precision};
pub type Result<T> = std::result::Result<T, ModelError>;
