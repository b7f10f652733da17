//! What answers cost: tokens, time, and money at given rates.
use super::arm::Arm;
use super::settings::Rates;
use crate::index::Reindex;
use crate::stats::percentile;
use crate::{Answer, Weights, retrieve::Timings};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What was measured elsewhere: by `tune index`, by `tune train`. `None` is told as "not measured".
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// What the report is headed with.
    pub title: String,
    /// The config file; empty = not told.
    #[serde(default)]
    pub config: PathBuf,
    /// The one whose passages stood in the prompts; empty = not told.
    #[serde(default)]
    pub retriever: String,
    /// Processor, cores, memory, device.
    pub machine: String,
    pub base: String,
    pub documents: Option<usize>,
    pub chunks: Option<usize>,
    pub index_seconds: Option<f64>,
    pub index_bytes: Option<u64>,
    /// The last time that documents had changed.
    pub reindex: Option<Reindex>,
    pub training_rows: BTreeMap<Weights, usize>,
    pub training_seconds: BTreeMap<Weights, f64>,
    pub adapter_bytes: BTreeMap<Weights, u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    pub p50: f64,
    pub p95: f64,
}

impl Quantiles {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Quantiles> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        (!values.is_empty()).then(|| Quantiles {
            p50: percentile(&values, 0.5),
            p95: percentile(&values, 0.95),
        })
    }
}

/// Seconds but for tokens and prices. Times are of the batch an answer came in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ArmCost {
    pub prompt_tokens: f64,
    pub answer_tokens: f64,
    /// From the conversation to its first token, retrieval not counted.
    pub first_token: Option<Quantiles>,
    /// From the question to the last token, retrieval counted.
    pub total: Option<Quantiles>,
    /// Answer tokens of one conversation, after the first.
    pub tokens_per_second: Option<f64>,
    pub embed: Option<Quantiles>,
    pub search: Option<Quantiles>,
    pub rerank: Option<Quantiles>,
    pub price_per_1000: Option<f64>,
}

/// `times[i]` is what retrieval took for `answers[i]`, empty for an arm without it.
pub fn arm_cost(answers: &[&Answer], times: &[Timings], rates: &Rates, batch_size: usize) -> ArmCost {
    let n = answers.len().max(1) as f64;
    let mean = |of: fn(&Answer) -> usize| answers.iter().map(|answer| of(answer) as f64).sum::<f64>() / n;
    let retrieval = |i: usize| {
        times
            .get(i)
            .map_or(0.0, |times| times.embed + times.search + times.rerank)
    };
    let totals: Vec<f64> = answers
        .iter()
        .enumerate()
        .map(|(i, answer)| answer.seconds + retrieval(i))
        .collect();
    let decoding = answers.iter().filter_map(|answer| {
        let seconds = answer.seconds - answer.first_token_seconds;
        (answer.answer_tokens > 1 && seconds > 0.0).then(|| (answer.answer_tokens - 1) as f64 / seconds)
    });
    let (prompt_tokens, answer_tokens) = (mean(|answer| answer.prompt_tokens), mean(|answer| answer.answer_tokens));
    let stage = |of: fn(&Timings) -> f64| Quantiles::of(times.iter().map(of).filter(|&seconds| seconds > 0.0));
    // A batch keeps the machine busy once for all its answers.
    let busy: f64 = (0..answers.len())
        .map(|i| answers[i].seconds / batch_size as f64 + retrieval(i))
        .sum::<f64>()
        / n;
    let price =
        prompt_tokens * rates.prompt / 1e6 + answer_tokens * rates.answer / 1e6 + busy / 3600.0 * rates.machine_hour;
    ArmCost {
        prompt_tokens,
        answer_tokens,
        first_token: Quantiles::of(answers.iter().map(|answer| answer.first_token_seconds)),
        total: Quantiles::of(totals),
        tokens_per_second: Quantiles::of(decoding).map(|quantiles| quantiles.p50),
        embed: stage(|times| times.embed),
        search: stage(|times| times.search),
        rerank: stage(|times| times.rerank),
        price_per_1000: (rates.given() && !answers.is_empty()).then_some(1000.0 * price),
    }
}

/// After how many answers the arm that is dearer to set up has cost as little as the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BreakEven {
    /// Dearer to set up, cheaper an answer.
    pub invest: Arm,
    pub instead_of: Arm,
    pub answers: f64,
}

/// Of all pairs of arms where one costs more before and less after. Arms whose setup was not measured are left out.
pub fn break_even(arms: &[(Arm, &ArmCost)], facts: &Facts, rates: &Rates) -> Vec<BreakEven> {
    let setup = |arm: Arm| {
        let seconds = match arm.weights {
            Weights::Base => 0.0,
            trained => *facts.training_seconds.get(&trained)?,
        };
        let index = if arm.context == super::arm::Context::Retrieved {
            facts.index_seconds?
        } else {
            0.0
        };
        Some((seconds + index) / 3600.0 * rates.machine_hour)
    };
    let priced: Vec<(Arm, f64, f64)> = arms
        .iter()
        .filter_map(|(arm, cost)| Some((*arm, setup(*arm)?, cost.price_per_1000? / 1000.0)))
        .collect();
    let mut found = Vec::new();
    for &(invest, dear, less) in &priced {
        for &(instead_of, cheap, more) in &priced {
            if dear > cheap && less < more {
                found.push(BreakEven {
                    invest,
                    instead_of,
                    answers: (dear - cheap) / (more - less),
                });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(prompt_tokens: usize, seconds: f64) -> Answer {
        Answer {
            text: String::new(),
            prompt_tokens,
            answer_tokens: 11,
            first_token_seconds: 1.0,
            seconds,
        }
    }

    #[test]
    fn a_price_is_tokens_and_machine() {
        let rates = Rates {
            prompt: 1.0,
            answer: 10.0,
            machine_hour: 3.6,
            ..Rates::default()
        };
        let (one, two) = (answer(100, 3.0), answer(300, 5.0));
        let times = [Timings {
            embed: 0.5,
            search: 0.5,
            rerank: 0.0,
        }; 2];
        let cost = arm_cost(&[&one, &two], &times, &rates, 2);
        // 200 prompt tokens, 11 answer tokens, (4 / 2 + 1) seconds at 0.001 a second.
        let wanted = 1000.0 * (200e-6 + 110e-6 + 0.003);
        assert!((cost.price_per_1000.unwrap() - wanted).abs() < 1e-9);
        assert_eq!(cost.total.unwrap().p50, 5.0);
        assert_eq!(cost.rerank, None);
        assert_eq!(arm_cost(&[&one], &[], &Rates::default(), 1).price_per_1000, None);
    }

    #[test]
    fn training_pays_after_enough_answers() {
        let facts = Facts {
            index_seconds: Some(0.0),
            training_seconds: BTreeMap::from([(Weights::Tuned, 3600.0)]),
            ..Facts::default()
        };
        let rates = Rates {
            machine_hour: 2.0,
            ..Rates::default()
        };
        let price = |price| ArmCost {
            price_per_1000: Some(price),
            ..ArmCost::default()
        };
        let (tuned, rag, hybrid) = (price(1.0), price(5.0), price(5.0));
        let found = break_even(
            &[(Arm::TUNED, &tuned), (Arm::RAG, &rag), (Arm::HYBRID, &hybrid)],
            &facts,
            &rates,
        );
        assert_eq!(
            found,
            [BreakEven {
                invest: Arm::TUNED,
                instead_of: Arm::RAG,
                answers: 500.0
            }]
        );
    }
}
