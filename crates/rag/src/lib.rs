//! Documents to index, question to passages to prompt, answers to scores, statistics and a verdict. Asks an
//! [`Answerer`] and an [`Embedder`]; knows no tensors.
pub mod chunk;
pub mod error;
pub mod index;
pub mod ingest;
pub mod passage;
pub mod ports;
pub mod prompt;
pub mod retrieve;
pub mod settings;
pub mod store;
#[cfg(test)]
mod testing;

pub use error::{RagError, Result};
pub use passage::Passage;
pub use ports::{Answer, Answerer, Embedder, Message, Reranker, Role, TextKind, Weights};
pub use prompt::{Prompt, PromptBuilder};
pub use retrieve::Retrieved;
