//! How indexing and retrieval can fail, and what to do about it.
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum RagError {
    #[error("{}", unusable(problems))]
    Settings { problems: Vec<String> },

    #[error("no such file or folder: {pattern}")]
    Missing { pattern: String },

    #[error("{pattern} is no valid pattern: {problem}")]
    Pattern { pattern: String, problem: String },

    #[error("no documents in {}; found {found}", patterns.join(", "))]
    NoDocuments { patterns: Vec<String>, found: String },

    #[error("cannot use the folder {}", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },

    #[error("there is no index at {place}")]
    NoIndex { place: String },

    #[error("another program is writing the index at {place}")]
    InUse { place: String },

    #[error("the index at {place} cannot be used: {problem}")]
    BadIndex { place: String, problem: String },

    #[error("{doing} the index at {place} failed")]
    Sqlite {
        doing: &'static str,
        place: String,
        #[source]
        source: rusqlite::Error,
    },

    #[error("{address} names no store: {problem}")]
    Address { address: String, problem: String },

    #[error("no answer from {url}: {problem}")]
    Unreachable { url: String, problem: String },

    #[error("{url} was asked and has not answered for {} s", patience.as_secs_f64())]
    Slow { url: String, patience: Duration },

    #[error("{url} answered {status}: {body}")]
    Refused { url: String, status: u16, body: String },

    #[error("{url} answered what is no reply of {server}: {problem}")]
    Reply {
        url: String,
        server: &'static str,
        problem: String,
    },

    #[error("{store} has no BM25 search")]
    NoLexical { store: &'static str },

    #[error("the index was made with {found}; wanted {wanted}")]
    OtherEmbedder { found: String, wanted: String },

    #[error("the question alone takes {tokens} tokens; the prompt may have {budget}")]
    Budget {
        tokens: usize,
        budget: usize,
        /// The model's, where no setting makes the prompt shorter than it allows.
        context: Option<usize>,
    },

    #[error("the model failed while {doing}")]
    Model {
        doing: &'static str,
        #[source]
        source: anyhow::Error,
    },
}

pub type Result<T> = std::result::Result<T, RagError>;

impl RagError {
    /// The next step for whoever reads the message.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Missing { .. } => "paths in rag.documents are relative to the folder the program is started in",
            Self::Pattern { .. } => "* stands for names, ** for folders, [abc] for one of these letters",
            Self::NoDocuments { .. } => "read are .pdf .html .md .docx .txt .rst .jsonl",
            Self::NoIndex { .. } => "make it with `tune index`",
            Self::BadIndex { .. } => "remove it and run `tune index` again",
            Self::Sqlite { source, .. } => return sqlite_hint(source),
            Self::Unreachable { .. } => "is the server running, and rag.url its address with port?",
            Self::Slow { .. } => {
                "is it overloaded, or another program on this port? What is in the index stays: run the same command again"
            }
            Self::Refused { status: 401 | 403, .. } => {
                "set the variable QDRANT_API_KEY, for Chroma CHROMA_API_KEY, to a key that the server takes"
            }
            Self::Reply { .. } => "is rag.url the address of such a server?",
            Self::NoLexical { .. } => "set rag.retriever = \"dense\", or use store = \"sqlite\" or \"qdrant\"",
            Self::Address { .. } => "wanted qdrant://host:port/name, chroma://host:port/name or a folder",
            Self::OtherEmbedder { .. } => "run `tune index` again: vectors of two embedders cannot be compared",
            Self::Budget { context: None, .. } => "raise rag.prompt_tokens, or shorten the question",
            Self::Budget {
                context: Some(context), ..
            } => {
                return Some(format!(
                    "shorten it, or ask for fewer new tokens: the model's context is {context}"
                ));
            }
            Self::Settings { .. } => CHANGE_SETTINGS,
            Self::InUse { .. } => "wait for it to end, or set rag.path to another folder",
            Self::Folder { .. } | Self::Refused { .. } | Self::Model { .. } => return None,
        };
        Some(hint.to_string())
    }
}

fn sqlite_hint(error: &rusqlite::Error) -> Option<String> {
    use rusqlite::ErrorCode::{CannotOpen, DatabaseBusy, DatabaseCorrupt, DiskFull, NotADatabase, ReadOnly};
    let hint = match error.sqlite_error_code()? {
        DiskFull => "the disk is full; what was indexed so far is kept, run it again when there is room",
        DatabaseBusy => "another program is writing to it; wait for that one to end",
        DatabaseCorrupt | NotADatabase => "remove it and run `tune index` again",
        CannotOpen | ReadOnly => {
            "its folder must be there and writable, to search it too: copy the index to such a one"
        }
        _ => return None,
    };
    Some(hint.to_string())
}

pub(crate) const CHANGE_SETTINGS: &str =
    "configs/rag.toml explains each of these keys; change them in the config file, or with --set key=value";

pub(crate) fn unusable(problems: &[String]) -> String {
    format!("the settings cannot be used:\n  {}", problems.join("\n  "))
}

/// The first five of many names.
pub(crate) fn first(names: &[impl AsRef<str>]) -> String {
    let shown: Vec<&str> = names.iter().take(5).map(AsRef::as_ref).collect();
    let more = if names.len() > shown.len() { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}
