//! Whether two models are the same: logits, likeliest tokens, perplexity and greedy answers on a few texts.
use crate::evaluate::Probe as Question;
use crate::{Result, TrainError};
use safetensors::tensor::{Dtype, TensorView};
use serde::Serialize;
use std::path::Path;
use tune_data::Sample;
use tune_model::checkpoint::StoredType;
use tune_model::generate::{GenerateOptions, generate};
use tune_model::{CausalLm, Input, Loss, staging};

/// Tokens of a text that are compared: bounds the logits held at once to this times the vocabulary.
const TOKENS: usize = 96;
/// Tokens of an answer that are compared.
const ANSWER_TOKENS: usize = 32;

/// What was written, reloaded and compared with the adapted model it came from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// The form that was read back, or `trained`: the merged model against the quantized base the adapter was trained on.
    pub what: String,
    pub prompts: usize,
    /// Infinite where one of them is not a number or the vocabularies differ.
    pub max_logit_difference: f64,
    /// Share of positions with the same likeliest token.
    pub top1_agreement: f64,
    pub perplexity_before: f64,
    pub perplexity_after: f64,
    /// Prompts of which the greedy answers are equal, token by token.
    pub equal_texts: usize,
    /// On `max_logit_difference`.
    pub bound: f64,
    pub passed: bool,
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            what,
            prompts,
            max_logit_difference,
            top1_agreement,
            equal_texts,
            bound,
            ..
        } = self;
        write!(
            f,
            "{what}: logits differ by {max_logit_difference:.2e} (bound {bound:.2e}), likeliest token equal in {:.2} % of \
             places, answers equal on {equal_texts} of {prompts} prompts",
            top1_agreement * 100.0
        )
    }
}

/// One text to compare on.
#[derive(Debug, Clone)]
pub struct Probe {
    /// At most [`TOKENS`]; what is learned counts for the perplexity.
    input: Input,
    prompt: Vec<u32>,
}

impl Probe {
    /// `None` for a text too short to say anything.
    pub fn of(sample: &Sample) -> Option<Self> {
        let length = sample.tokens.len().min(TOKENS);
        if length < 2 {
            return None;
        }
        let mut input = Input::sequence(&sample.tokens[..length]);
        if sample.learn[1..length].contains(&true) {
            input.learn = sample.learn[..length].to_vec();
        }
        let prompt = Question::of(sample).map(|question| question.prompt);
        let prompt = prompt
            .filter(|prompt| prompt.len() < TOKENS)
            .unwrap_or_else(|| input.tokens.clone());
        Some(Self { input, prompt })
    }
}

/// How a model answers the probes.
pub struct Measured {
    /// `[tokens, vocabulary]` of each probe.
    logits: Vec<Vec<f32>>,
    vocab: usize,
    loss: Loss,
    answers: Vec<Vec<u32>>,
}

impl Measured {
    pub fn of(model: &CausalLm, probes: &[Probe], stop: &[u32]) -> Result<Self> {
        let mut measured = Self {
            logits: Vec::new(),
            vocab: model.vocab_size(),
            loss: Loss::default(),
            answers: Vec::new(),
        };
        for probe in probes {
            measured.logits.push(model.logits(&probe.input)?);
            let loss = model.loss(&probe.input)?;
            measured.loss.sum += loss.sum;
            measured.loss.learned += loss.learned;
        }
        let options = GenerateOptions {
            stop: stop.to_vec(),
            ..GenerateOptions::greedy(ANSWER_TOKENS)
        };
        let prompts: Vec<_> = probes.iter().map(|probe| probe.prompt.clone()).collect();
        let answers = generate(model, &prompts, &options, &mut |_, _| true)?;
        measured.answers = answers.into_iter().map(|answer| answer.tokens).collect();
        Ok(measured)
    }

    fn perplexity(&self) -> f64 {
        (self.loss.sum / self.loss.learned as f64).exp()
    }

    fn largest_logit(&self) -> f64 {
        self.logits
            .iter()
            .flatten()
            .fold(0.0, |largest: f64, logit| largest.max(f64::from(logit.abs())))
    }

    /// How far the logits of a model merged and stored in `dtype` may be from these.
    ///
    /// In f32 only the order of additions differs. In half precision every weight is off by up to one rounding `u`, and
    /// the errors of the blocks add up like a random walk: twice `u * largest logit * sqrt(blocks)`.
    pub fn merged_bound(&self, dtype: StoredType, blocks: usize) -> f64 {
        let rounding = match dtype {
            StoredType::BF16 => 2f64.powi(-9),
            StoredType::F16 => 2f64.powi(-12),
            // A step of 1/127 of the largest of 32 numbers.
            StoredType::Ggml(_) => 2f64.powi(-7),
            _ => return 1e-2,
        };
        2.0 * rounding * self.largest_logit() * (blocks as f64).sqrt()
    }

    /// Compares another model's answers with these.
    pub fn check(&self, what: &str, found: &Self, bound: f64) -> Check {
        let difference = if self.vocab == found.vocab {
            difference(&self.logits, &found.logits)
        } else {
            f64::INFINITY
        };
        let rows = |measured: &Self| -> Vec<usize> {
            measured
                .logits
                .iter()
                .flat_map(|logits| logits.chunks(measured.vocab))
                .map(likeliest)
                .collect()
        };
        let (ours, theirs) = (rows(self), rows(found));
        let agreeing = ours.iter().zip(&theirs).filter(|(a, b)| a == b).count();
        Check {
            what: what.into(),
            prompts: self.answers.len(),
            max_logit_difference: difference,
            top1_agreement: agreeing as f64 / ours.len().max(1) as f64,
            perplexity_before: self.perplexity(),
            perplexity_after: found.perplexity(),
            equal_texts: self.answers.iter().zip(&found.answers).filter(|(a, b)| a == b).count(),
            bound,
            passed: difference <= bound,
        }
    }

    /// Token ids and logits for another program to check: `ids.N` `[tokens]` i32, `logits.N` `[tokens, vocabulary]` f32.
    pub fn write(&self, probes: &[Probe], path: &Path) -> Result<()> {
        let mut parts: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
        for (n, (probe, logits)) in probes.iter().zip(&self.logits).enumerate() {
            let tokens = &probe.input.tokens;
            let ids = tokens.iter().flat_map(|token| (*token as i32).to_le_bytes()).collect();
            let values = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
            parts.push((format!("ids.{n}"), Dtype::I32, vec![tokens.len()], ids));
            parts.push((
                format!("logits.{n}"),
                Dtype::F32,
                vec![tokens.len(), self.vocab],
                values,
            ));
        }
        let damaged = |error: safetensors::SafeTensorError| TrainError::Damaged {
            path: path.to_path_buf(),
            problem: error.to_string(),
        };
        let views = parts
            .iter()
            .map(|(name, dtype, shape, bytes)| {
                Ok((name, TensorView::new(*dtype, shape.clone(), bytes).map_err(damaged)?))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(staging::write_file(
            path,
            &safetensors::serialize(views, None).map_err(damaged)?,
        )?)
    }
}

fn difference(ours: &[Vec<f32>], theirs: &[Vec<f32>]) -> f64 {
    let pairs = ours.iter().flatten().zip(theirs.iter().flatten());
    pairs.fold(0.0, |largest: f64, (a, b)| {
        let difference = f64::from((a - b).abs());
        // `max` would pass over NaN.
        if difference.is_nan() {
            f64::INFINITY
        } else {
            largest.max(difference)
        }
    })
}

fn likeliest(logits: &[f32]) -> usize {
    let better = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
    (1..logits.len()).fold(0, better)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(logits: Vec<f32>, answer: u32) -> Measured {
        Measured {
            logits: vec![logits],
            vocab: 2,
            loss: Loss { sum: 1.0, learned: 1 },
            answers: vec![vec![answer]],
        }
    }

    #[test]
    fn differences_are_found_and_not_a_number_never_passes() {
        let reference = measured(vec![1.0, 2.0, 4.0, 3.0], 7);
        let same = reference.check("adapter", &measured(vec![1.0, 2.00005, 4.0, 3.0], 7), 1e-4);
        assert!(
            same.passed && same.top1_agreement == 1.0 && same.equal_texts == 1,
            "{same}"
        );
        let other = reference.check("merged", &measured(vec![1.0, 2.0, 4.0, 5.0], 8), 1e-2);
        assert!(!other.passed && other.max_logit_difference == 2.0, "{other}");
        assert_eq!((other.top1_agreement, other.equal_texts), (0.5, 0));
        assert!(
            !reference
                .check("merged", &measured(vec![1.0, f32::NAN, 4.0, 3.0], 7), 1e9)
                .passed
        );
    }

    #[test]
    fn half_precision_has_a_wider_bound() {
        let reference = measured(vec![1.0, 20.0], 7);
        let bound = |dtype| reference.merged_bound(dtype, 30);
        assert!(bound(StoredType::F32) < bound(StoredType::F16) && bound(StoredType::F16) < bound(StoredType::BF16));
        assert!(
            (0.1..1.0).contains(&bound(StoredType::BF16)),
            "{}",
            bound(StoredType::BF16)
        );
    }
}
