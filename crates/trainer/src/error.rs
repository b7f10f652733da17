//! How a run can fail, and what to do about it.
use crate::export::Check;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

/// One setting out of range.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    pub key: String,
    pub found: String,
    pub wanted: String,
}

/// One thing that is not as it was when the run began.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub key: String,
    pub was: String,
    pub now: String,
}

impl Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: found {}, wanted {}", self.key, self.found, self.wanted)
    }
}

impl Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: was {}, now {}", self.key, self.was, self.now)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error(transparent)]
    Data(#[from] tune_data::DataError),
    #[error(transparent)]
    Model(#[from] tune_model::ModelError),

    #[error("the settings cannot be used:{}", list(.problems))]
    Settings { problems: Vec<Problem> },
    #[error("the longest sample has {longest} tokens, {base} can see {context}")]
    LongerThanContext {
        longest: usize,
        context: usize,
        base: String,
    },
    #[error("the tokenizer gives token {token}, the model {base} has only {vocab}")]
    TokenizerMisfit { token: usize, vocab: usize, base: String },
    #[error("keep_blocks = {found}, but {base} has {blocks} blocks")]
    TooManyKept { found: usize, blocks: usize, base: String },

    #[error("this needs {} of memory, {} can be used", gb(*.needed), gb(*.usable))]
    TooLarge {
        needed: u64,
        usable: u64,
        /// The smallest change that makes it fit.
        change: String,
    },
    #[error("out of memory at one document of {tokens} tokens, with all blocks recomputed: {message}")]
    OutOfMemory { tokens: usize, message: String },

    #[error("cannot read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {}", .path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is damaged: {problem}", .path.display())]
    Damaged { path: PathBuf, problem: String },

    #[error("{} already holds a run", .dir.display())]
    RunExists { dir: PathBuf },
    #[error("{} is in use by another process", .dir.display())]
    InUse { dir: PathBuf },
    #[error("{} is not a run, a checkpoint, an adapter folder or a base: it has none of {wanted}", .path.display())]
    NotARun { path: PathBuf, wanted: &'static str },
    #[error("{} has no checkpoint that can be read:{}", .dir.display(), list(.tried))]
    NoCheckpoint { dir: PathBuf, tried: Vec<String> },
    #[error("the run in {} is finished, after {steps} steps", .dir.display())]
    Finished { dir: PathBuf, steps: usize },
    #[error("cannot go on with the run in {}: not all is as it was:{}", .dir.display(), list(.changes))]
    Changed { dir: PathBuf, changes: Vec<Change> },

    #[error("{what} of step {step} is {value}{}", the_rows(.rows))]
    NotFinite {
        what: &'static str,
        value: f64,
        step: usize,
        rows: Vec<String>,
    },

    #[error("no base is named by {} or by you", .from.display())]
    NoBase { from: PathBuf },
    #[error("{} already exists and is not an earlier export", .path.display())]
    OutputExists { path: PathBuf },
    #[error("{} already exists", .path.display())]
    FileExists { path: PathBuf },
    #[error("{} is the base itself", .path.display())]
    IsBase { path: PathBuf },
    #[error("{} was named for two things", .path.display())]
    SameOutput { path: PathBuf },
    #[error("{} is a base without an adapter", .from.display())]
    NoAdapter { from: PathBuf },
    #[error("there is nothing to compare on: {} holds no usable prompts", .prompts.display())]
    NoPrompts { prompts: PathBuf },
    #[error("what was written is not the model it came from:{}", list(.checks))]
    Verify { checks: Vec<Check> },
}

impl TrainError {
    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Read {
            path: path.to_path_buf(),
            source,
        }
    }

    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Write {
            path: path.to_path_buf(),
            source,
        }
    }

    /// The next step for the user, printed after a blank line as `hint: ...`.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Data(error) => return error.hint(),
            Self::Model(error) => return error.hint(),
            Self::Settings { .. } => "change these keys in the config file, or with --set key=value".into(),
            Self::LongerThanContext { context, .. } => format!("set data.max_length = {context} or less"),
            Self::TokenizerMisfit { .. } => "use the tokenizer.json that belongs to this base".into(),
            Self::TooManyKept { blocks, .. } => format!("0 to {blocks}, or `auto`: as many as fit"),
            Self::TooLarge { change, .. } => change.clone(),
            Self::OutOfMemory { .. } => {
                "lower data.max_length, or free the device of other programs; `tune train --dry-run` says what fits"
                    .into()
            }
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "the file is there but may not be read: check its owner and mode".into()
            }
            Self::Write { source, .. } => return write_hint(source.kind()).map(Into::into),
            Self::RunExists { dir } => format!(
                "go on with it: --resume {}; or set output.dir to another folder; or start over in it: --force",
                dir.display()
            ),
            Self::InUse { .. } => "wait for it to end, or set output.dir to another folder".into(),
            Self::NoCheckpoint { .. } => "start again without --resume, and with --force or another output.dir".into(),
            Self::Finished { dir, .. } => format!(
                "its adapter is {}; to train longer raise train.epochs or train.max_steps and add --force",
                dir.join("adapter").display()
            ),
            Self::Changed { .. } => "put these back as they were, or go on all the same with --force".into(),
            Self::NotFinite { rows, .. } => {
                let look = if rows.is_empty() { "" } else { "look at these rows, " };
                format!("{look}lower train.learning_rate; the last good checkpoint is kept: see --resume")
            }
            Self::NoBase { .. } => "name it with --base".into(),
            Self::OutputExists { .. } => "choose another folder, or add --force".into(),
            Self::IsBase { .. } => "choose another file: the base is not written over".into(),
            Self::FileExists { .. } => "choose another file, or add --force".into(),
            Self::SameOutput { .. } => "give each of them a path of its own".into(),
            Self::NoAdapter { .. } => "--merged and --gguf can be written of a base; for the others name a run".into(),
            Self::NoPrompts { .. } => "give a JSONL file with prompts or conversations".into(),
            Self::Verify { .. } => "do not serve it; the folders are left for a look".into(),
            Self::NotARun { .. } => "name a run's output.dir, or one of its checkpoints".into(),
            _ => return None,
        })
    }
}

fn write_hint(kind: io::ErrorKind) -> Option<&'static str> {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("the disk is full: free some space, then go on with --resume from the last good checkpoint")
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            Some("the folder may not be written: choose another, or change its mode")
        }
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            Some("the folder it should lie in is not there and cannot be made: choose another")
        }
        _ => None,
    }
}

fn gb(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

/// A validation loss is of no rows in particular.
fn the_rows(rows: &[String]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    format!("; the rows in it:{}", list(rows))
}

/// One a line, the first twenty; the rest counted.
fn list<T: Display>(items: &[T]) -> String {
    const SHOWN: usize = 20;
    let mut text: String = items.iter().take(SHOWN).map(|item| format!("\n  {item}")).collect();
    if items.len() > SHOWN {
        text += &format!("\n  and {} more", items.len() - SHOWN);
    }
    text
}
