//! How an evaluation can fail, and what to do about it.
use crate::error::{CHANGE_SETTINGS, RagError, first, unusable};
use crate::index::Staleness;
use crate::judge::JudgeError;
use crate::question::QuestionError;
use std::io::ErrorKind;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    #[error("{}", unusable(problems))]
    Settings { problems: Vec<String> },
    #[error(transparent)]
    Questions(#[from] QuestionError),
    #[error(transparent)]
    Judge(anyhow::Error),
    #[error("no arm can be run:\n  {}", reasons.join("\n  "))]
    NoArm { reasons: Vec<String> },
    #[error("the index is not of these documents: {}", .0.examples())]
    Stale(Staleness),
    #[error("questions too long to be asked: {} of {of} ({}). Of the longest, {longest}", ids.len(), first(ids))]
    TooLong {
        ids: Vec<String>,
        of: usize,
        longest: Box<RagError>,
    },
    #[error("another evaluation is writing {}", .0.display())]
    Locked(PathBuf),
    #[error("cannot keep answers in {}", path.display())]
    Cache {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{doing} failed")]
    Asking {
        doing: String,
        #[source]
        source: anyhow::Error,
    },
    #[error("{} answers were given to {} conversations ({arm})", found, wanted)]
    Answers { arm: String, found: usize, wanted: usize },
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}: {problem}", path.display())]
    Results { path: PathBuf, problem: String },
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

pub type Result<T> = std::result::Result<T, EvalError>;

impl EvalError {
    /// The next step for whoever reads the message.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Questions(error) => return error.hint(),
            Self::Judge(source) => return source.downcast_ref().map(JudgeError::hint),
            Self::TooLong { longest, .. } => return longest.hint(),
            Self::NoArm { .. } => "give what an arm lacks, or name other arms in eval.arms",
            Self::Stale(_) => "run `tune index` again, or set eval.allow_stale = true",
            Self::Locked(_) => "wait for it, or give this one another eval.output",
            Self::Cache { source, .. } | Self::Write { source, .. } => match source.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    "the disk is full; answers kept so far stay: run the same command again when there is room"
                }
                _ => return None,
            },
            Self::Results { .. } => "give a results.json that `tune eval` of this version wrote",
            Self::Settings { .. } => CHANGE_SETTINGS,
            Self::Asking { .. } | Self::Answers { .. } | Self::Read { .. } => return None,
        };
        Some(hint.to_string())
    }
}

/// For the closures that ask a model, an index or an embedder.
pub(crate) fn asking(doing: impl Into<String>) -> impl FnOnce(anyhow::Error) -> EvalError {
    let doing = doing.into();
    move |source| EvalError::Asking { doing, source }
}
