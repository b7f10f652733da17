//! How data can be wrong, and what to do about it.
use crate::Origin;
use std::path::{Path, PathBuf};

/// How many bad rows an error names; the rest are counted.
pub const SHOWN_ROWS: usize = 20;

/// One row that could not be read: where it is, what was found, what was wanted.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct BadRow {
    pub file: String,
    pub line: usize,
    pub problem: String,
}

impl std::fmt::Display for BadRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.problem)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },

    #[error("no such file: {}", path.display())]
    Missing { path: PathBuf, nearest: Option<String> },

    #[error("{} is a folder; wanted a data file", path.display())]
    Folder { path: PathBuf },

    #[error("{} holds no records: {found}", path.display())]
    Empty { path: PathBuf, found: String },

    #[error("{}:{line}: invalid UTF-8 at byte {byte} of the file", path.display())]
    NotUtf8 { path: PathBuf, line: usize, byte: u64 },

    #[error("{}: cannot tell the file type from its name; wanted {FILE_TYPES}", path.display())]
    FileType { path: PathBuf },

    #[error("{} is not a valid {kind} file: {problem}", path.display())]
    Malformed {
        path: PathBuf,
        kind: &'static str,
        problem: String,
    },

    #[error("{}: rows have keys {}; no known format has these", path.display(), keys.join(", "))]
    UnknownFormat {
        path: PathBuf,
        keys: Vec<String>,
        hint: Option<String>,
    },

    #[error("{} of {total} rows of {} are not {wanted}:\n{}", rows.len(), path.display(), listing(rows))]
    BadRows {
        path: PathBuf,
        wanted: String,
        rows: Vec<BadRow>,
        total: usize,
        hint: Option<String>,
    },

    #[error("the chat template failed{}: {problem}", at(origin))]
    Template { origin: Option<Origin>, problem: String },

    #[error(
        "cannot tell which text of the chat template is the assistant's answer{}: {problem}",
        at(origin)
    )]
    Span { origin: Option<Origin>, problem: String },

    #[error("the tokenizer cannot be used: {problem}")]
    Tokenizer { problem: String },

    #[error("nothing would be learned from {} of {total} records:\n{}", origins.len(), listing(origins))]
    NothingLearned { origins: Vec<Origin>, total: usize },

    #[error("longer than max_length = {max_length} tokens: {} of the samples, the longest {longest}\n{}",
            samples.len(), listing(samples))]
    TooLong {
        samples: Vec<String>,
        max_length: usize,
        longest: usize,
    },

    #[error("{} and {} are the same data, {role}", first.display(), second.display())]
    SameData {
        first: PathBuf,
        second: PathBuf,
        role: &'static str,
    },

    #[error("{problem}")]
    Spec { problem: String, hint: &'static str },

    #[error("nothing is left to train on: {problem}")]
    NothingLeft { problem: String, hint: &'static str },
}

pub const FILE_TYPES: &str = ".jsonl, .json, .csv, .parquet or .txt (.gz may follow all but .parquet)";

fn listing<T: std::fmt::Display>(items: &[T]) -> String {
    let mut lines: Vec<_> = items.iter().take(SHOWN_ROWS).map(|item| format!("  {item}")).collect();
    if items.len() > SHOWN_ROWS {
        lines.push(format!("  and {} more", items.len() - SHOWN_ROWS));
    }
    lines.join("\n")
}

/// What a file of this type holds.
pub(crate) fn rows_of(path: &Path) -> &'static str {
    let name = path.to_string_lossy();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    match name.rsplit('.').next() {
        Some("csv") => {
            "write a line of headings, e.g. prompt,response, and rows of as many fields, those with commas in quotes"
        }
        Some("txt" | "md") => "write text: the file is one document",
        Some("json") => "write one list of objects, e.g. [{\"prompt\": \"…\", \"response\": \"…\"}]",
        _ => "write one JSON object a line, e.g. {\"prompt\": \"…\", \"response\": \"…\"}",
    }
}

fn at(origin: &Option<Origin>) -> String {
    origin.as_ref().map(|o| format!(" at {o}")).unwrap_or_default()
}

impl DataError {
    /// The next step for the user, printed after a blank line as `hint: ...`.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Read { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                "check the file's permissions".into()
            }
            Self::Read { .. } => "check that the file is whole and can be read".into(),
            Self::Missing {
                nearest: Some(nearest), ..
            } => format!("did you mean {nearest}?"),
            Self::Missing { .. } => "paths are relative to the folder you start in; check data.train".into(),
            Self::Folder { .. } => "name the files inside it, e.g. data.train = [\"folder/train.jsonl\"]".into(),
            Self::Empty { path, .. } => rows_of(path).into(),
            // Both marks of UTF-16 are no UTF-8 at their first byte.
            Self::NotUtf8 { byte: 0, .. } => {
                "convert the file to UTF-8, e.g. `iconv -f utf16 -t utf8` if it is UTF-16 text".into()
            }
            Self::NotUtf8 { .. } => "convert the file to UTF-8, e.g. `iconv -f latin1 -t utf8`".into(),
            Self::FileType { .. } => "rename the file after what it holds".into(),
            Self::Malformed { kind: "JSON", .. } => {
                "one object a line belongs in a .jsonl file; a .json file is one list of objects".into()
            }
            Self::Malformed { kind: "Parquet", .. } => {
                "check that the file is whole, and compressed by snappy, zstd, gzip or lz4".into()
            }
            Self::Malformed { .. } => "check that the file was written to its end".into(),
            Self::UnknownFormat { hint, .. } | Self::BadRows { hint, .. } => return hint.clone(),
            Self::Template { .. } => {
                "the template refuses these messages (order of roles, a system message?); change the rows or give \
                 another chat template"
                    .into()
            }
            Self::Span { .. } => {
                "set learn = \"all\", or give a chat template that shows every answer as written".into()
            }
            Self::Tokenizer { .. } => "check that tokenizer.json belongs to this base and is whole".into(),
            Self::NothingLearned { .. } => {
                "give these rows an answer, or set data.on_empty = \"drop\" to leave them out and count them".into()
            }
            Self::TooLong { longest, .. } => {
                format!("set data.max_length = {longest}, or data.too_long = \"cut\", \"split\" or \"drop\"")
            }
            Self::SameData { .. } => {
                "name each file once; to take one more often use its weight; to hold rows back use \
                 data.validation = 0.05"
                    .into()
            }
            Self::Spec { hint, .. } | Self::NothingLeft { hint, .. } => (*hint).into(),
        })
    }

    /// The same error, with the record that caused it.
    pub(crate) fn at(self, place: &Origin) -> Self {
        match self {
            Self::Template { problem, .. } => Self::Template {
                origin: Some(place.clone()),
                problem,
            },
            Self::Span { problem, .. } => Self::Span {
                origin: Some(place.clone()),
                problem,
            },
            other => other,
        }
    }
}
