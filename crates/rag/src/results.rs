//! `results.json`: everything an evaluation found. Reports, verdict and advice are made from it alone, without a model.
use crate::eval::arm::{Arm, Context};
use crate::eval::cache::Likelihood;
use crate::eval::cost::{ArmCost, BreakEven, Facts};
use crate::eval::error::{EvalError, Result};
use crate::eval::integrity::{Overlap, Repeats};
use crate::eval::settings::Eval;
use crate::judge::Judgements;
use crate::metrics::{Metric, abstention::Abstention, harm::Harm, retrieval::RankScores};
use crate::question::{Question, Stratum};
use crate::retrieve::Timings;
use crate::stats::Estimate;
use crate::verdict::Verdict;
use crate::{Answer, Passage, Weights, staging};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Raised when older files can no longer be read.
pub const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    pub format: u32,
    pub settings: Eval,
    pub identity: Identity,
    pub facts: Facts,
    pub verdict: Verdict,
    pub arms: Vec<ArmSummary>,
    pub left_out: Vec<LeftOut>,
    pub contrasts: Vec<Contrast>,
    pub retrieval: Vec<RetrieverSummary>,
    pub forgetting: BTreeMap<Weights, f64>,
    /// Training rows that teach what documents say; empty without documents, and in files from before it was counted.
    #[serde(default)]
    pub repeats: BTreeMap<Weights, Repeats>,
    pub break_even: Vec<BreakEven>,
    pub judgements: Vec<Judgements>,
    /// As sacrebleu prints them.
    pub bleu_signature: String,
    pub chrf_signature: String,
    pub questions: Vec<Asked>,
}

/// Hashes of what was compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    pub weights: BTreeMap<Weights, String>,
    pub index: Option<String>,
    /// Documents that changed since the index was made, where that was allowed.
    pub stale: Vec<String>,
    pub embedder: Option<String>,
    pub questions: String,
    /// Of all conversations of all arms.
    pub prompts: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    pub arm: Arm,
    pub reason: String,
}

/// One question with all that happened to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    pub question: Question,
    pub overlaps: Vec<Overlap>,
    /// Whether any gold span is in the index; `None` without gold or index.
    pub indexed: Option<bool>,
    /// Every passage that stood in a prompt or was cut from one, each once.
    pub passages: Vec<Seen>,
    pub retrieval: Option<Timings>,
    /// Of each retriever: which ranks brought new gold.
    pub relevance: BTreeMap<String, Vec<bool>>,
    pub contexts: BTreeMap<Context, Shown>,
    pub answers: BTreeMap<Arm, Given>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    #[serde(flatten)]
    pub passage: Passage,
    pub gold: bool,
}

/// What a prompt held, as places in [`Asked::passages`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// In the prompt's order: the first is `[1]`.
    pub passages: Vec<usize>,
    /// Over the budget.
    pub left_out: Vec<usize>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Given {
    #[serde(flatten)]
    pub answer: Answer,
    pub abstained: bool,
    pub scores: BTreeMap<Metric, f64>,
    pub likelihood: Option<Likelihood>,
    /// Where it went wrong; `None` where it did not.
    pub failed: Option<Stage>,
}

/// The first stage that failed, in the order they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    NotIndexed,
    NotRetrieved,
    CutByBudget,
    /// The gold passage stood in the prompt.
    NotUsed,
    WrongFormat,
    /// The documents do not tell, and it did not say so.
    NotAbstained,
    /// No passage could have helped, or no gold is labelled.
    Wrong,
}

impl Stage {
    pub fn label(self) -> &'static str {
        match self {
            Stage::NotIndexed => "not indexed",
            Stage::NotRetrieved => "not retrieved",
            Stage::CutByBudget => "cut by budget",
            Stage::NotUsed => "not used",
            Stage::WrongFormat => "wrong format",
            Stage::NotAbstained => "made up",
            Stage::Wrong => "wrong",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmSummary {
    pub arm: Arm,
    pub answered: usize,
    /// Over the questions a metric applies to.
    pub scores: BTreeMap<Metric, Estimate>,
    /// Of the verdict's metric.
    pub strata: BTreeMap<Stratum, Estimate>,
    /// Of the verdict's metric, without the questions that overlap with training rows or documents; `None` if none does.
    pub clean: Option<Estimate>,
    /// `None` where no answer has a reference, as for chrF.
    pub bleu: Option<f64>,
    pub chrf: Option<f64>,
    pub abstention: Abstention,
    /// With context, against the same weights without it, or base where those were not asked.
    pub harm: Option<Harm>,
    pub harm_against: Option<Arm>,
    /// Of the references, over all their tokens.
    pub perplexity: Option<f64>,
    /// Share of questions with gold whose prompt held it, after the budget.
    pub gold_in_prompt: Option<f64>,
    pub failed: BTreeMap<Stage, usize>,
    pub cost: ArmCost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    Better,
    Worse,
    NotShown,
}

/// `first` minus `second`, question by question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contrast {
    pub first: Arm,
    pub second: Arm,
    /// `None` = all questions that both answered.
    pub stratum: Option<Stratum>,
    pub difference: Estimate,
    pub wins: usize,
    pub ties: usize,
    pub losses: usize,
    /// Exact, for a metric that is right or wrong.
    pub mcnemar: Option<f64>,
    /// By Holm over the planned contrasts; strata are looked at without adjustment.
    pub adjusted_p: Option<f64>,
    /// What 80 % power would show.
    pub smallest_difference: f64,
    pub shown: Finding,
    /// Without the overlapping questions; `None` if there are none.
    pub clean: Option<Estimate>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetrieverSummary {
    pub retriever: String,
    /// Questions with gold.
    pub n: usize,
    pub by_k: BTreeMap<usize, RankScores>,
}

impl Results {
    pub fn arm(&self, arm: Arm) -> Option<&ArmSummary> {
        self.arms.iter().find(|summary| summary.arm == arm)
    }

    /// See [`contrast`].
    pub fn contrast(&self, first: Arm, second: Arm) -> Option<Contrast> {
        contrast(&self.contrasts, first, second)
    }

    pub fn read(path: &Path) -> Result<Results> {
        let bytes = fs_err::read(path).map_err(|source| EvalError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        let bad = |problem: String| EvalError::Results {
            path: path.to_path_buf(),
            problem,
        };
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if format == u64::from(FORMAT) => {}
            found => {
                let found = found.map_or("none".to_string(), |found| found.to_string());
                return Err(bad(format!("results format {found}, wanted {FORMAT}")));
            }
        }
        serde_json::from_value(value).map_err(|error| bad(error.to_string()))
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let failed = |source| EvalError::Write {
            path: path.to_path_buf(),
            source,
        };
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        bytes.push(b'\n');
        staging::write_file(path, &bytes).map_err(failed)
    }
}

/// `first` minus `second` over all strata, whichever way round it was planned.
pub fn contrast(contrasts: &[Contrast], first: Arm, second: Arm) -> Option<Contrast> {
    let mut overall = contrasts.iter().filter(|contrast| contrast.stratum.is_none());
    overall.find_map(|contrast| match (contrast.first, contrast.second) {
        arms if arms == (first, second) => Some(contrast.clone()),
        arms if arms == (second, first) => Some(contrast.turned()),
        _ => None,
    })
}

impl Contrast {
    fn turned(&self) -> Contrast {
        Contrast {
            first: self.second,
            second: self.first,
            difference: self.difference.turned(),
            wins: self.losses,
            losses: self.wins,
            shown: match self.shown {
                Finding::Better => Finding::Worse,
                Finding::Worse => Finding::Better,
                Finding::NotShown => Finding::NotShown,
            },
            clean: self.clean.map(Estimate::turned),
            ..self.clone()
        }
    }
}
