//! Documents to index, question to passages to prompt, answers to scores, statistics and a verdict. Asks an
//! [`Answerer`] and an [`Embedder`]; knows no tensors.
pub mod metrics;
pub mod passage;
pub mod ports;
pub mod question;
pub mod random;
pub mod stats;

pub use passage::Passage;
pub use ports::{Answer, Answerer, Embedder, Message, Role, TextKind, Weights};
