//! What the user asks of the data: plain values, resolved, no file format of their own.
use crate::{DataError, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One training file and how often its records are taken: 2.0 twice, 0.5 a seeded half.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    pub path: PathBuf,
    pub weight: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Validation {
    None,
    Share(f64),
    Files(Vec<PathBuf>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FormatChoice {
    Auto,
    PromptResponse,
    Messages,
    Alpaca,
    Sharegpt,
    Text,
}

/// What is learned of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Learn {
    Assistant,
    LastTurn,
    All,
}

/// What happens to a sample longer than `max_length`. Lives in `pack` and nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TooLong {
    Refuse,
    Cut,
    Split,
    Drop,
}

/// A row in which nothing would be learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnEmpty {
    Error,
    Drop,
}

#[derive(Debug, Clone)]
pub struct DataSpec {
    pub train: Vec<Source>,
    pub validation: Validation,
    pub format: FormatChoice,
    pub prompt_key: String,
    pub response_key: String,
    pub max_length: usize,
    pub packing: bool,
    pub too_long: TooLong,
    pub on_empty: OnEmpty,
    pub learn: Learn,
    /// Put before every conversation that has no system message of its own.
    pub system: Option<String>,
    pub seed: u64,
}

impl TooLong {
    /// As written in a config.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Cut => "cut",
            Self::Split => "split",
            Self::Drop => "drop",
        }
    }
}

impl DataSpec {
    /// Files to validate with; none where a share is held back.
    pub fn validation_files(&self) -> &[PathBuf] {
        match &self.validation {
            Validation::Files(files) => files,
            _ => &[],
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |problem: String, hint| Err(DataError::Spec { problem, hint });
        if self.train.is_empty() {
            return wrong("data.train names no file".into(), "set data.train = [\"train.jsonl\"]");
        }
        if let Some(source) = self.train.iter().find(|s| !(s.weight > 0.0 && s.weight <= 1000.0)) {
            let problem = format!(
                "weight {} of {}; wanted more than 0, at most 1000",
                source.weight,
                source.path.display()
            );
            return wrong(problem, "leave a file out instead of giving it weight 0");
        }
        match self.validation {
            Validation::Share(share) if !(0.0..1.0).contains(&share) => wrong(
                format!("data.validation = {share}; wanted a share from 0 to below 1"),
                "set data.validation = 0.05",
            ),
            _ => Ok(()),
        }
    }
}
