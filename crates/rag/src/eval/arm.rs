//! The cells of the matrix: which weights answer, and what stands in their prompt.
use crate::Weights;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Context {
    /// The question alone.
    None,
    /// What the retriever gives.
    Retrieved,
    /// The passages that hold the answer: the most that retrieval could do.
    Oracle,
    /// The best ranked passages that do not hold it: how easily the model is misled.
    Distractors,
}

impl Context {
    pub const ALL: [Context; 4] = [Context::None, Context::Retrieved, Context::Oracle, Context::Distractors];

    pub fn label(self) -> &'static str {
        match self {
            Context::None => "no context",
            Context::Retrieved => "retrieved",
            Context::Oracle => "oracle passage",
            Context::Distractors => "distractors only",
        }
    }
}

pub const WEIGHTS: [Weights; 3] = [Weights::Base, Weights::Tuned, Weights::Hybrid];

pub fn weights_label(weights: Weights) -> &'static str {
    match weights {
        Weights::Base => "base",
        Weights::Tuned => "tuned",
        Weights::Hybrid => "hybrid-trained",
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Arm {
    pub weights: Weights,
    pub context: Context,
}

impl Arm {
    pub const BASE: Arm = Arm {
        weights: Weights::Base,
        context: Context::None,
    };
    pub const RAG: Arm = Arm {
        weights: Weights::Base,
        context: Context::Retrieved,
    };
    pub const TUNED: Arm = Arm {
        weights: Weights::Tuned,
        context: Context::None,
    };
    pub const HYBRID: Arm = Arm {
        weights: Weights::Hybrid,
        context: Context::Retrieved,
    };

    /// The four one would ship, the simplest to keep running first.
    pub const NAMED: [Arm; 4] = [Arm::BASE, Arm::TUNED, Arm::RAG, Arm::HYBRID];

    /// The whole matrix, row by row.
    pub fn all() -> Vec<Arm> {
        let row = |weights| Context::ALL.map(|context| Arm { weights, context });
        WEIGHTS.into_iter().flat_map(row).collect()
    }

    /// `base`, `rag`, `tuned`, `hybrid`; the other cells by weights and context, as `tuned+retrieved`.
    pub fn name(self) -> String {
        match self {
            Arm::BASE => "base".into(),
            Arm::RAG => "rag".into(),
            Arm::TUNED => "tuned".into(),
            Arm::HYBRID => "hybrid".into(),
            Arm { weights, context } => {
                let weights = match weights {
                    Weights::Base => "base",
                    Weights::Tuned => "tuned",
                    Weights::Hybrid => "hybrid",
                };
                let context = match context {
                    Context::None => "none",
                    Context::Retrieved => "retrieved",
                    Context::Oracle => "oracle",
                    Context::Distractors => "distractors",
                };
                format!("{weights}+{context}")
            }
        }
    }

    pub fn parse(name: &str) -> Option<Arm> {
        Arm::all().into_iter().find(|arm| arm.name() == name)
    }

    /// Names that [`Arm::parse`] takes, for messages.
    pub fn names() -> String {
        Arm::all().into_iter().map(Arm::name).collect::<Vec<_>>().join(", ")
    }

    pub fn without_context(self) -> Arm {
        Arm {
            context: Context::None,
            ..self
        }
    }
}

impl From<Arm> for String {
    fn from(arm: Arm) -> String {
        arm.name()
    }
}

impl TryFrom<String> for Arm {
    type Error = String;

    fn try_from(name: String) -> Result<Arm, String> {
        Arm::parse(&name).ok_or_else(|| format!("no arm `{name}`; there are {}", Arm::names()))
    }
}

impl std::fmt::Display for Arm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_has_one_name() {
        let names: std::collections::BTreeSet<String> = Arm::all().into_iter().map(Arm::name).collect();
        assert_eq!(names.len(), 12);
        assert!(Arm::all().into_iter().all(|arm| Arm::parse(&arm.name()) == Some(arm)));
        assert_eq!(Arm::parse("hybrid+retrieved"), None);
    }
}
