//! `[eval]` of the config: every setting of an evaluation, with its default and its limits.
use super::arm::Arm;
use super::error::{EvalError, Result};
use crate::metrics::{Metric, abstention::PHRASES};
use crate::stats::RESAMPLES;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Every key is always present when written; "none" is an empty string or list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Eval {
    /// JSONL, see [`crate::question::Question`].
    pub questions: PathBuf,
    /// `base`, `rag`, `tuned`, `hybrid`, other cells as `tuned+oracle`, or `matrix` for all twelve.
    pub arms: Vec<String>,
    /// Trained on questions and answers.
    pub adapter: PathBuf,
    /// Trained on questions, passages and answers (`tune data raft`).
    pub hybrid_adapter: PathBuf,
    pub max_new_tokens: usize,
    /// Folder of the answers, `results.json` and the reports.
    pub output: PathBuf,
    /// What the verdict is about.
    pub metric: Metric,
    /// The arm the verdict judges; empty = whichever arm is shown best.
    pub candidate: String,
    /// The arm it is compared with; empty = the best of the others.
    pub baseline: String,
    /// Conversations answered together.
    pub batch_size: usize,
    /// Measure how likely each arm finds the reference answer.
    pub perplexity: bool,
    /// Plain text whose perplexity tells how much a trained model forgot; empty = not measured.
    pub general: PathBuf,
    /// Phrases that say that one does not know.
    pub abstentions: Vec<String>,
    pub resamples: usize,
    /// Below this nothing is called shown.
    pub min_questions: usize,
    /// Evaluate although documents changed since they were indexed.
    pub allow_stale: bool,
    pub seed: u64,
    pub rates: Rates,
    pub judge: Judge,
}

/// What things cost; all 0 = prices are not measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rates {
    pub currency: String,
    /// Per million prompt tokens.
    pub prompt: f64,
    /// Per million answer tokens.
    pub answer: f64,
    /// Per hour of the machine that trains, indexes and answers.
    pub machine_hour: f64,
}

/// A model that compares answers, behind a URL that speaks OpenAI's chat completions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Judge {
    /// Up to and with `/v1`; empty = no judge.
    pub url: String,
    pub model: String,
    /// Name of the environment variable that holds the key; empty = none.
    pub key_variable: String,
    pub timeout_seconds: u64,
}

impl Default for Eval {
    fn default() -> Self {
        Self {
            questions: PathBuf::new(),
            arms: Arm::NAMED.map(Arm::name).to_vec(),
            adapter: PathBuf::new(),
            hybrid_adapter: PathBuf::new(),
            max_new_tokens: 64,
            output: PathBuf::new(),
            metric: Metric::Right,
            candidate: String::new(),
            baseline: String::new(),
            batch_size: 8,
            perplexity: true,
            general: PathBuf::new(),
            abstentions: PHRASES.map(str::to_string).to_vec(),
            resamples: RESAMPLES,
            min_questions: 50,
            allow_stale: false,
            seed: 42,
            rates: Rates::default(),
            judge: Judge::default(),
        }
    }
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            currency: "USD".into(),
            prompt: 0.0,
            answer: 0.0,
            machine_hour: 0.0,
        }
    }
}

impl Default for Judge {
    fn default() -> Self {
        Self {
            url: String::new(),
            model: String::new(),
            key_variable: String::new(),
            timeout_seconds: 60,
        }
    }
}

impl Rates {
    pub fn given(&self) -> bool {
        self.prompt > 0.0 || self.answer > 0.0 || self.machine_hour > 0.0
    }
}

impl Eval {
    /// The arms asked for, each once. Names without an arm are left to [`Eval::validate`].
    pub fn chosen(&self) -> Vec<Arm> {
        let mut arms = Vec::new();
        for name in &self.arms {
            let named = if name == "matrix" {
                Arm::all()
            } else {
                Arm::parse(name).into_iter().collect()
            };
            for arm in named {
                if !arms.contains(&arm) {
                    arms.push(arm);
                }
            }
        }
        arms
    }

    /// What one answer needs of it.
    pub fn validate_answer(&self) -> Result<()> {
        if self.max_new_tokens > 0 {
            return Ok(());
        }
        Err(EvalError::Settings {
            problems: vec!["eval.max_new_tokens: found 0, wanted 1 or more".into()],
        })
    }

    /// All that is wrong, at once.
    pub fn validate(&self) -> Result<()> {
        let mut problems = Vec::new();
        let mut want = |holds: bool, key: &str, found: &dyn std::fmt::Display, wanted: &str| {
            if !holds {
                problems.push(format!("eval.{key}: found {found}, wanted {wanted}"));
            }
        };
        let cells = Arm::names();
        want(
            !self.questions.as_os_str().is_empty(),
            "questions",
            &"\"\"",
            "a JSONL file of questions",
        );
        want(
            !self.output.as_os_str().is_empty(),
            "output",
            &"\"\"",
            "a folder for the results",
        );
        want(!self.arms.is_empty(), "arms", &"[]", "at least one arm");
        for name in &self.arms {
            let known = name == "matrix" || Arm::parse(name).is_some();
            want(known, "arms", &format!("{name:?}"), &format!("matrix, {cells}"));
        }
        for (key, name) in [("candidate", &self.candidate), ("baseline", &self.baseline)] {
            let chosen = name.is_empty() || Arm::parse(name).is_some_and(|arm| self.chosen().contains(&arm));
            want(chosen, key, &format!("{name:?}"), "one of eval.arms, or empty");
        }
        let apart = self.candidate.is_empty() || self.candidate != self.baseline;
        want(
            apart,
            "baseline",
            &format!("{:?}", self.baseline),
            "another arm than eval.candidate",
        );
        want(
            self.baseline.is_empty() || !self.candidate.is_empty(),
            "baseline",
            &format!("{:?}", self.baseline),
            "an eval.candidate to compare with it",
        );
        want(
            self.max_new_tokens > 0,
            "max_new_tokens",
            &self.max_new_tokens,
            "1 or more",
        );
        want(self.batch_size > 0, "batch_size", &self.batch_size, "1 or more");
        want(
            (100..=1_000_000).contains(&self.resamples),
            "resamples",
            &self.resamples,
            "100 to 1000000",
        );
        let empty = self
            .abstentions
            .iter()
            .any(|phrase| !phrase.chars().any(char::is_alphanumeric));
        want(
            !empty,
            "abstentions",
            &"a phrase without a letter",
            "phrases with letters",
        );
        for (key, rate) in [
            ("prompt", self.rates.prompt),
            ("answer", self.rates.answer),
            ("machine_hour", self.rates.machine_hour),
        ] {
            want(
                rate >= 0.0 && rate.is_finite(),
                &format!("rates.{key}"),
                &rate,
                "0 or more",
            );
        }
        let url = &self.judge.url;
        let http = url.is_empty() || url.starts_with("http://") || url.starts_with("https://");
        want(
            http,
            "judge.url",
            &format!("{url:?}"),
            "http://… or https://…, up to and with /v1",
        );
        want(
            url.is_empty() || !self.judge.model.is_empty(),
            "judge.model",
            &"\"\"",
            "the name of the model that judges",
        );
        want(
            self.judge.timeout_seconds > 0,
            "judge.timeout_seconds",
            &self.judge.timeout_seconds,
            "1 or more",
        );
        if problems.is_empty() {
            Ok(())
        } else {
            Err(EvalError::Settings { problems })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> Eval {
        Eval {
            questions: "q.jsonl".into(),
            output: "out".into(),
            ..Eval::default()
        }
    }

    #[test]
    fn defaults_need_only_questions_and_output() {
        valid().validate().unwrap();
        let Err(EvalError::Settings { problems }) = Eval::default().validate() else {
            panic!("accepted")
        };
        assert_eq!(problems.len(), 2);
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let settings = Eval {
            arms: vec!["ragg".into(), "base".into()],
            candidate: "rag".into(),
            max_new_tokens: 0,
            rates: Rates {
                prompt: -1.0,
                ..Rates::default()
            },
            judge: Judge {
                url: "localhost".into(),
                ..Judge::default()
            },
            ..valid()
        };
        let Err(EvalError::Settings { problems }) = settings.validate() else {
            panic!("accepted")
        };
        assert_eq!(problems.len(), 6, "{problems:?}");
    }

    #[test]
    fn matrix_stands_for_all_cells_once() {
        let settings = Eval {
            arms: vec!["rag".into(), "matrix".into()],
            ..valid()
        };
        assert_eq!(settings.chosen().len(), 12);
        assert_eq!(settings.chosen()[0], Arm::RAG);
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(serde_json::from_str::<Eval>(r#"{"armz": []}"#).is_err());
        let written = serde_json::to_string(&valid()).unwrap();
        assert_eq!(serde_json::from_str::<Eval>(&written).unwrap(), valid());
    }
}
