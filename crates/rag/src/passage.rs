//! A piece of a document, as retrieval gives it.
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Passage {
    /// Stable across re-indexing: of document, place and content.
    pub id: String,
    /// Path of the document, relative to the folder it was found in.
    pub document: String,
    /// Byte range in the document's extracted text.
    pub start: usize,
    pub end: usize,
    pub title: String,
    /// `Guide > Returns > Costs`; empty where there is none.
    pub heading: String,
    /// From 1, for paged documents.
    pub page: Option<u32>,
    pub text: String,
    /// Higher is better; comparable within one retriever's answer to one query alone.
    pub score: f64,
}
