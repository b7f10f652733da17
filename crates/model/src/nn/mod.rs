//! Layers shared by the families.
pub mod cache;
pub mod linear;
pub mod norm;
pub mod pass;
pub mod rope;

pub use cache::Cache;
pub use linear::{Linear, Lora};
pub use norm::{LayerNorm, RmsNorm};
pub use pass::{ByPath, Heads, Pass, Tape};
pub(crate) use rope::theta;
pub use rope::{Angles, Rope};
