//! Documents to index, question to passages to prompt, answers to scores, statistics and a verdict. Asks an
//! [`Answerer`] and an [`Embedder`]; knows no tensors.
pub mod metrics;
pub mod passage;
pub mod ports;
pub mod question;
pub mod random;
pub mod stats;
pub mod prompt;
pub mod retrieve;

pub use passage::Passage;
pub use ports::{Answer, Answerer, Embedder, Message, Reranker, Role, TextKind, Weights};
pub use prompt::Prompt;
pub use retrieve::Retrieved;
