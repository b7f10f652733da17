//! Documents to index, question to passages to prompt, answers to scores, statistics and a verdict. Asks an
//! [`Answerer`] and an [`Embedder`]; knows no tensors.
pub mod advise;
pub mod chunk;
pub mod error;
pub mod eval;
pub mod filter;
pub mod index;
pub mod ingest;
pub mod judge;
pub mod log;
pub mod metrics;
pub mod passage;
pub mod ports;
pub mod prompt;
pub mod question;
pub mod raft;
mod random;
pub mod report;
pub mod results;
pub mod retrieve;
pub mod settings;
mod staging;
pub mod stats;
pub mod store;
#[cfg(test)]
mod testing;
pub mod verdict;

pub use error::{RagError, Result};
pub use passage::Passage;
pub use ports::{Answer, Answerer, Embedder, Message, Reranker, Role, TextKind, Weights};
pub use prompt::{Prompt, PromptBuilder};
pub use retrieve::Retrieved;
