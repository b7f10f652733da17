//! Prompt/response records to tokenized, masked, packed batches of plain integers.
//!
//! The path of one line: file -> JSON value + line (`read`) -> [`Record`] with its [`Origin`] (`format/*`)
//! -> text (`template`) and what is learned of it (`spans`) -> [`Sample`]: tokens + learn-mask (`codec`, `words`)
//! -> [`Row`] (`pack`) -> [`Batch`] (`batch`), in the order of the [`Loader`]. `corpus` walks whole files along it
//! and keeps the tokens on disk (`cache`); `summary` reports on them. No tensors, no Burn.
pub mod batch;
mod cache;
pub mod codec;
pub mod corpus;
mod duplicates;
pub mod error;
pub mod format;
pub mod loader;
pub mod pack;
mod random;
pub mod read;
pub mod record;
pub mod sample;
mod spans;
pub mod spec;
mod split;
pub mod summary;
pub mod template;
pub mod text_tokenizer;
mod words;

pub use batch::Batch;
pub use codec::Codec;
pub use corpus::{Corpus, FileReport, Report};
pub use error::DataError;
pub use loader::{Cursor, Loader, MicroBatch};
pub use pack::{Packed, Row};
pub use record::{Message, Origin, Record};
pub use sample::Sample;
pub use spec::*;
pub use summary::Summary;
pub use text_tokenizer::{Encoded, TextTokenizer};
pub type Result<T> = std::result::Result<T, DataError>;
