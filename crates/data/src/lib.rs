//! Prompt/response records to tokenized, masked, packed batches of plain integers.
//!
//! The path of one line: file -> JSON value + [`Origin`] (`read`) -> [`Record`] (`format/*`)
//! -> text (`template`) -> [`Sample`]: tokens + learn-mask (`codec`, `sample`)
//! -> [`Row`] (`pack`) -> [`Batch`] (`batch`). No tensors, no Burn.
pub mod batch;
mod cache;
pub mod codec;
pub mod corpus;
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
pub type Result<T> = std::result::Result<T, DataError>;
