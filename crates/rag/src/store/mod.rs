//! Where chunks, their vectors and words are kept. One trait, one file a store, the same points in each.
mod bm25;
mod chroma;
#[cfg(test)]
pub(crate) mod contract;
mod dense;
mod qdrant;
mod rest;
#[cfg(test)]
mod servers;
mod sqlite;
mod words;

pub use chroma::Chroma;
pub use qdrant::Qdrant;
pub use sqlite::Sqlite;
pub use words::matches;

use crate::chunk::Chunk;
use crate::error::{RagError, Result};
use crate::settings::{Rag, StoreKind};
use crate::{Embedder, Passage};
use serde::{Deserialize, Serialize};

/// What all vectors of an index have in common. Where it differs, the index is another one; an embedder that only lies
/// elsewhere is the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// Of the readers and the splitter: raised when they give other chunks.
    pub version: u32,
    pub embedder: String,
    pub dimensions: usize,
    pub chunk_tokens: usize,
    pub chunk_overlap: f64,
    pub breadcrumb: bool,
}

/// A document in the index, or one that was skipped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub path: String,
    pub hash: String,
    pub bytes: u64,
    /// Seconds since 1970.
    pub modified: u64,
    pub title: String,
    pub chunks: usize,
    pub tokens: usize,
    /// Why it has no chunks.
    pub skipped: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub passage: Passage,
    /// Of the embedded text.
    pub tokens: usize,
    /// Of length 1.
    pub vector: Vec<f32>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    pub id: String,
    /// Cosine, or BM25; higher is better.
    pub score: f64,
}

/// What a search is held to, before the best are taken; a part that is `None` holds of every passage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub documents: Option<Vec<String>>,
    /// Heading paths, as [`Passage::heading`] has them.
    pub headings: Option<Vec<String>>,
    /// First and last page on which a passage may begin.
    pub pages: Option<Vec<(u32, u32)>>,
}

impl Filter {
    /// No passage can be found.
    pub fn is_void(&self) -> bool {
        let void = |names: &Option<Vec<String>>| names.as_ref().is_some_and(Vec::is_empty);
        void(&self.documents) || void(&self.headings)
    }
}

/// Hits come best first, ties in the order of their ids.
pub trait Store {
    /// As a message names it.
    fn place(&self) -> String;
    fn manifest(&self) -> Result<Option<Manifest>>;
    /// Empties the store for points of this manifest.
    fn reset(&mut self, manifest: &Manifest) -> Result<()>;
    /// As [`Store::reset`], but where the store can, what it holds goes on answering others until [`Store::settle`], and
    /// what was begun for this manifest is gone on with.
    fn rebuild(&mut self, manifest: &Manifest) -> Result<()> {
        self.reset(manifest)
    }
    /// In the order of their paths.
    fn records(&self) -> Result<Vec<Record>>;
    /// Puts documents in place of what the store has under their paths: all or none where the store can, so that a run
    /// that goes on after a crash embeds the same batches, and its vectors are the same to the bit; else each wholly, or
    /// after a crash as one that is to be put again.
    fn put(&mut self, documents: &[(Record, Vec<Point>)]) -> Result<()>;
    fn remove(&mut self, path: &str) -> Result<()>;
    /// Heading paths of its passages, each once.
    fn headings(&self) -> Result<Vec<String>>;
    fn dense(&self, vector: &[f32], k: usize, only: &Filter) -> Result<Vec<Hit>>;
    fn lexical(&self, query: &str, k: usize, only: &Filter) -> Result<Vec<Hit>>;
    /// In the order of `ids`; what is not there is left out.
    fn points(&self, ids: &[&str]) -> Result<Vec<Point>>;
    /// In the order of the text.
    fn points_of(&self, path: &str) -> Result<Vec<Point>>;
    /// Points.
    fn count(&self) -> Result<usize>;
    /// On disk; `None` where the store does not say.
    fn bytes(&self) -> Result<Option<u64>>;
    /// Called once after many changes, and after a rebuild.
    fn settle(&mut self) -> Result<()>;
}

/// Raised when reading or splitting changes: an index made otherwise is made anew.
const VERSION: u32 = 1;

impl Manifest {
    pub fn of(settings: &Rag, embedder: &dyn Embedder) -> Self {
        Self {
            version: VERSION,
            embedder: embedder.identity(),
            dimensions: embedder.dimensions(),
            chunk_tokens: settings.chunk_tokens,
            chunk_overlap: settings.chunk_overlap,
            breadcrumb: settings.breadcrumb,
        }
    }
}

impl PartialEq for Manifest {
    fn eq(&self, other: &Self) -> bool {
        let parts = |of: &Self| {
            (
                of.version,
                of.dimensions,
                of.chunk_tokens,
                of.chunk_overlap,
                of.breadcrumb,
            )
        };
        parts(self) == parts(other) && content(&self.embedder) == content(&other.embedder)
    }
}

/// An embedder's identity without the name it was loaded by.
pub(crate) fn content(identity: &str) -> &str {
    identity.rsplit_once('@').map_or(identity, |(_, hash)| hash)
}

impl Point {
    pub fn new(chunk: Chunk, vector: Vec<f32>) -> Self {
        Self {
            passage: chunk.passage,
            tokens: chunk.tokens,
            vector,
        }
    }
}

/// The store the settings name; made where it is not there and `create` says so.
pub fn open(settings: &Rag, api_key: Option<&str>, create: bool) -> Result<Box<dyn Store>> {
    let store: Box<dyn Store> = match settings.store {
        StoreKind::Sqlite if create => Box::new(Sqlite::create(&settings.path)?),
        StoreKind::Sqlite => Box::new(Sqlite::open(&settings.path)?),
        StoreKind::Qdrant => Box::new(Qdrant::new(&settings.url, &settings.collection, api_key)),
        StoreKind::Chroma => Box::new(Chroma::new(&settings.url, &settings.collection, api_key)),
    };
    if !create && store.manifest()?.is_none() {
        return Err(RagError::NoIndex { place: store.place() });
    }
    Ok(store)
}

/// The settings with the store that `tune index --to` moves an index to: `qdrant://host:port/name`,
/// `chroma://host:port/name`, both with `s` before `://` for TLS, or a folder for SQLite.
pub fn at(address: &str, settings: &Rag) -> Result<Rag> {
    let problem = |problem: &str| RagError::Address {
        address: format!("{address:?}"),
        problem: problem.to_string(),
    };
    let Some((scheme, rest)) = address.split_once("://") else {
        return match address {
            "" => Err(problem("it is empty")),
            // A slip in the address of a server, and no name for a folder.
            _ if address.contains(':') => Err(problem("it has a `:` and no `://`")),
            _ => Ok(Rag {
                store: StoreKind::Sqlite,
                path: address.into(),
                ..settings.clone()
            }),
        };
    };
    let (host, name) = rest
        .trim_end_matches('/')
        .split_once('/')
        .ok_or_else(|| problem("no name of an index"))?;
    let store = match scheme {
        "qdrant" | "qdrants" => StoreKind::Qdrant,
        "chroma" | "chromas" => StoreKind::Chroma,
        _ => return Err(problem("no such kind of store")),
    };
    let http = if scheme.ends_with('s') { "https" } else { "http" };
    Ok(Rag {
        store,
        url: format!("{http}://{host}"),
        collection: name.into(),
        ..settings.clone()
    })
}

/// Best first, ties in the order of ids, at most `k`.
fn ranked(mut hits: Vec<Hit>, k: usize) -> Vec<Hit> {
    hits.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.id.cmp(&b.id)));
    hits.truncate(k);
    hits
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn addresses_name_stores() {
        let place = |address: &str| open(&at(address, &Rag::default())?, None, true).map(|store| store.place());
        assert_eq!(place("qdrant://h:6333/docs").unwrap(), "http://h:6333/collections/docs");
        assert_eq!(place("chromas://h/docs/").unwrap(), "https://h/docs");
        for bad in [
            "",
            "qdrant://h:6333",
            "milvus://h/x",
            "localhost:6333/x",
            "qdrant:/localhost:6333/x",
        ] {
            assert!(matches!(place(bad), Err(RagError::Address { .. })), "{bad}");
        }
        assert_eq!(at("folder", &Rag::default()).unwrap().path, Path::new("folder"));
    }
}
