//! Documents to index, question to passages to prompt, answers to scores, statistics and a verdict. Asks an
//! [`Answerer`] and an [`Embedder`]; knows no tensors.
pub mod passage;
pub mod ports;

pub use passage::Passage;
pub use ports::{Answer, Answerer, Embedder, Message, Role, TextKind, Weights};
