//! What is measured of an answer or of a ranking. One file a metric, each pinned to the program its numbers are
//! compared with (`tests/goldens/metrics`).
pub mod abstention;
pub mod bleu;
pub mod chrf;
pub mod citation;
pub mod format;
pub mod harm;
pub mod numeric;
pub mod overlap;
mod porter;
pub mod retrieval;
pub mod rouge;
pub mod similarity;
pub mod squad;

use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::hash::Hash;

/// A score one answer has by itself. What only a set of answers has (BLEU, abstention precision, harm rate) stands in
/// the files of this folder alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// 1 when the answer is what the question's stratum wants, see `eval/score.rs`.
    Right,
    ExactMatch,
    F1,
    AnswerRecall,
    RougeL,
    Cosine,
    KPrecision,
    Groundedness,
    CitationPrecision,
    CitationRecall,
    Numeric,
    Regex,
    Json,
}

impl Metric {
    pub const ALL: [Metric; 13] = [
        Metric::Right,
        Metric::ExactMatch,
        Metric::F1,
        Metric::AnswerRecall,
        Metric::RougeL,
        Metric::Cosine,
        Metric::KPrecision,
        Metric::Groundedness,
        Metric::CitationPrecision,
        Metric::CitationRecall,
        Metric::Numeric,
        Metric::Regex,
        Metric::Json,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Metric::Right => "Right",
            Metric::ExactMatch => "Exact match",
            Metric::F1 => "Token F1",
            Metric::AnswerRecall => "Answer recall",
            Metric::RougeL => "ROUGE-L",
            Metric::Cosine => "Embedding cosine",
            Metric::KPrecision => "K-precision",
            Metric::Groundedness => "Groundedness",
            Metric::CitationPrecision => "Citation precision",
            Metric::CitationRecall => "Citation recall",
            Metric::Numeric => "Number within tolerance",
            Metric::Regex => "Regex adherence",
            Metric::Json => "JSON adherence",
        }
    }

    /// One line for people who have not met the metric.
    pub fn meaning(self) -> &'static str {
        match self {
            Metric::Right => "The answer holds a reference, passes its checks, or rightly says it does not know",
            Metric::ExactMatch => "Equal to a reference after SQuAD normalisation",
            Metric::F1 => "Harmonic mean of token precision and recall (SQuAD)",
            Metric::AnswerRecall => "Share of the reference's tokens in the answer (Adlakha 2023)",
            Metric::RougeL => "F1 of the longest common subsequence, stemmed (as rouge-score)",
            Metric::Cosine => "Cosine of the embeddings of answer and reference",
            Metric::KPrecision => "Share of the answer's tokens found in its passages (Adlakha 2023)",
            Metric::Groundedness => "Mean over the answer's sentences of the best cosine to a sentence of its passages",
            Metric::CitationPrecision => "Share of cited passages that are gold",
            Metric::CitationRecall => "Share of gold passages in the prompt that are cited",
            Metric::Numeric => "A number of the answer is within the question's tolerance",
            Metric::Regex => "The question's regular expression matches",
            Metric::Json => "Valid JSON that keeps to the question's schema",
        }
    }
}

/// How often each item occurs.
fn counts<T: Eq + Hash>(items: impl IntoIterator<Item = T>) -> HashMap<T, usize> {
    let mut counts = HashMap::new();
    for item in items {
        *counts.entry(item).or_insert(0) += 1;
    }
    counts
}

/// Size of the intersection of two multisets.
fn common<T: Eq + Hash>(one: &HashMap<T, usize>, other: &HashMap<T, usize>) -> usize {
    let shared = |(item, count): (&T, &usize)| other.get(item).map_or(0, |theirs| *count.min(theirs));
    one.iter().map(shared).sum()
}

/// The best of `score` over all references; `None` without any.
pub fn best(references: &[String], score: impl Fn(&str) -> f64) -> Option<f64> {
    references.iter().map(|reference| score(reference)).reduce(f64::max)
}

/// 2PR / (P + R); 0 where both are 0.
fn harmonic_mean(precision: f64, recall: f64) -> f64 {
    if precision + recall > 0.0 {
        2.0 * precision * recall / (precision + recall)
    } else {
        0.0
    }
}
