//! What both reports show as tables, as plain cells.
use super::text::{NOT_MEASURED, bytes, grouped, money, percent, seconds, signed_interval};
use crate::Weights;
use crate::eval::arm::{Arm, Context};
use crate::eval::cost::Quantiles;
use crate::metrics::Metric;
use crate::question::Stratum;
use crate::results::{ArmSummary, Contrast, Finding, Results, Stage};

pub struct Table {
    pub head: Vec<String>,
    /// Label, then a cell for each further column of the head.
    pub rows: Vec<(String, Vec<String>)>,
}

/// Cost, latency and maintenance of the arms one would ship.
pub fn costs(results: &Results) -> Table {
    let arms: Vec<&ArmSummary> = Arm::NAMED.into_iter().filter_map(|arm| results.arm(arm)).collect();
    let row = |label: &str, cell: &dyn Fn(&ArmSummary) -> Option<String>| {
        let cells = arms.iter().map(|arm| cell(arm).unwrap_or_else(|| NOT_MEASURED.into()));
        (label.to_string(), cells.collect())
    };
    let currency = &results.settings.rates.currency;
    let rows = vec![
        row("Cost: to set up", &|arm| setup(arm.arm, results)),
        row("Cost: per 1,000 answers", &|arm| {
            Some(money(arm.cost.price_per_1000?, currency))
        }),
        row("Cost: tokens of prompt + answer", &|arm| {
            Some(format!("{:.0} + {:.0}", arm.cost.prompt_tokens, arm.cost.answer_tokens))
        }),
        row("Latency: first token, p50 / p95", &|arm| {
            quantiles(arm.cost.first_token)
        }),
        row("Latency: whole answer, p50 / p95", &|arm| quantiles(arm.cost.total)),
        row("Latency: of it embedding, p50 / p95", &|arm| stage(arm, arm.cost.embed)),
        row("Latency: of it search, p50 / p95", &|arm| stage(arm, arm.cost.search)),
        row("Latency: of it reranking, p50 / p95", &|arm| {
            stage(arm, arm.cost.rerank)
        }),
        row("Latency: tokens/s of one answer", &|arm| {
            Some(format!("{:.1}", arm.cost.tokens_per_second?))
        }),
        row("Maintenance: a document changes", &|arm| change(arm.arm, results)),
        row("Maintenance: kept on disk", &|arm| kept(arm.arm, results)),
        row("Data it needs", &|arm| data(arm.arm, results)),
    ];
    Table {
        head: head("", &arms),
        rows,
    }
}

fn head(first: &str, arms: &[&ArmSummary]) -> Vec<String> {
    [first.to_string()]
        .into_iter()
        .chain(arms.iter().map(|arm| arm.arm.name()))
        .collect()
}

fn quantiles(quantiles: Option<Quantiles>) -> Option<String> {
    quantiles.map(|Quantiles { p50, p95 }| format!("{} / {}", seconds(p50), seconds(p95)))
}

/// Of retrieval. Where that was timed, a stage without a time did not run.
fn stage(arm: &ArmSummary, took: Option<Quantiles>) -> Option<String> {
    let timed = [arm.cost.embed, arm.cost.search, arm.cost.rerank]
        .iter()
        .any(Option::is_some);
    let none = timed || arm.arm.context != Context::Retrieved;
    quantiles(took).or(none.then(|| "none".into()))
}

/// Why no arm is told to pay for itself, where none is.
pub fn no_break_even(results: &Results) -> Option<&'static str> {
    let facts = &results.facts;
    let arms = || results.arms.iter().map(|summary| summary.arm);
    let timed = arms().all(|arm| {
        (arm.weights == Weights::Base || facts.training_seconds.contains_key(&arm.weights))
            && (arm.context != Context::Retrieved || facts.index_seconds.is_some())
    });
    let why = match (results.settings.rates.machine_hour > 0.0, timed) {
        (false, _) => "Break-even number of answers: not measured, eval.rates.machine_hour is not given.",
        (_, false) => "Break-even number of answers: not measured, what training or indexing took is not known.",
        (true, true) => "Break-even: no arm that costs more to set up costs less an answer.",
    };
    results.break_even.is_empty().then_some(why)
}

/// All parts, or nothing where one of them was not measured.
fn parts(parts: Vec<Option<String>>) -> Option<String> {
    let parts: Option<Vec<String>> = parts.into_iter().collect();
    Some(parts?.join(" + "))
}

fn setup(arm: Arm, results: &Results) -> Option<String> {
    let facts = &results.facts;
    let mut all = Vec::new();
    if arm.weights != Weights::Base {
        all.push(
            facts
                .training_seconds
                .get(&arm.weights)
                .map(|&time| format!("training {}", seconds(time))),
        );
    }
    if arm.context == Context::Retrieved {
        all.push(facts.index_seconds.map(|time| format!("indexing {}", seconds(time))));
    }
    if all.is_empty() {
        Some("nothing".into())
    } else {
        parts(all)
    }
}

fn change(arm: Arm, results: &Results) -> Option<String> {
    let facts = &results.facts;
    match (arm.weights, arm.context) {
        (_, Context::Retrieved) => {
            let last = facts.reindex?;
            let count = grouped(last.documents as u64);
            Some(format!("re-index, {} for {count} changed", seconds(last.seconds)))
        }
        (Weights::Base, _) => Some("cannot follow".into()),
        (weights, _) => Some(format!(
            "train again, {}",
            seconds(*facts.training_seconds.get(&weights)?)
        )),
    }
}

fn kept(arm: Arm, results: &Results) -> Option<String> {
    let facts = &results.facts;
    let mut all = Vec::new();
    if arm.weights != Weights::Base {
        all.push(
            facts
                .adapter_bytes
                .get(&arm.weights)
                .map(|&size| format!("adapter {}", bytes(size))),
        );
    }
    if arm.context == Context::Retrieved {
        all.push(facts.index_bytes.map(|size| format!("index {}", bytes(size))));
    }
    if all.is_empty() {
        Some("nothing".into())
    } else {
        parts(all)
    }
}

fn data(arm: Arm, results: &Results) -> Option<String> {
    let facts = &results.facts;
    let mut all = Vec::new();
    if arm.weights != Weights::Base {
        all.push(
            facts
                .training_rows
                .get(&arm.weights)
                .map(|&rows| format!("{} rows", grouped(rows as u64))),
        );
    }
    if arm.context == Context::Retrieved {
        all.push(
            facts
                .documents
                .map(|count| format!("{} documents", grouped(count as u64))),
        );
    }
    if all.is_empty() {
        Some("none".into())
    } else {
        parts(all)
    }
}

/// Every metric of every arm, out of 100 but for perplexity.
pub fn scores(results: &Results) -> Table {
    let arms: Vec<&ArmSummary> = results.arms.iter().collect();
    let mut rows = Vec::new();
    for metric in Metric::ALL {
        if arms.iter().any(|arm| arm.scores.contains_key(&metric)) {
            let cell = |arm: &&ArmSummary| arm.scores.get(&metric).map_or("–".into(), |score| percent(score.mean));
            rows.push((metric.label().to_string(), arms.iter().map(cell).collect()));
        }
    }
    let mut add = |label: &str, of: &dyn Fn(&ArmSummary) -> Option<String>| {
        let cells: Vec<Option<String>> = arms.iter().map(|arm| of(arm)).collect();
        let missing = if cells.iter().any(Option::is_some) {
            "–"
        } else {
            NOT_MEASURED
        };
        let cells = cells.into_iter().map(|cell| cell.unwrap_or(missing.into()));
        rows.push((label.into(), cells.collect()));
    };
    add("BLEU", &|arm| Some(format!("{:.1}", arm.bleu?)));
    add("chrF", &|arm| Some(format!("{:.1}", arm.chrf?)));
    add("Perplexity of the reference", &|arm| {
        Some(format!("{:.2}", arm.perplexity?))
    });
    add("Abstention precision", &|arm| Some(percent(arm.abstention.precision?)));
    add("Abstention recall", &|arm| Some(percent(arm.abstention.recall?)));
    add("Gold in the prompt", &|arm| Some(percent(arm.gold_in_prompt?)));
    add("Harm rate", &|arm| Some(percent(arm.harm?.rate?)));
    add("Perplexity of a general text", &|arm| {
        Some(format!("{:.2}", results.forgetting.get(&arm.arm.weights)?))
    });
    Table {
        head: head("", &arms),
        rows,
    }
}

/// Each comparison within each kind of question, not adjusted; nothing where all questions are of one kind.
pub fn differences_by_stratum(results: &Results) -> Table {
    let overall = results.contrasts.iter().filter(|contrast| contrast.stratum.is_none());
    let within = |stratum: Stratum| move |contrast: &&Contrast| contrast.stratum == Some(stratum);
    let strata: Vec<Stratum> = Stratum::ALL
        .into_iter()
        .filter(|&stratum| results.contrasts.iter().any(|contrast| within(stratum)(&contrast)))
        .collect();
    let row = |pair: &Contrast| {
        let cell = |&stratum: &Stratum| {
            let mut all = results.contrasts.iter().filter(within(stratum));
            let found = all.find(|other| (other.first, other.second) == (pair.first, pair.second));
            found.map_or("–".into(), difference)
        };
        (
            format!("{} − {}", pair.first, pair.second),
            strata.iter().map(cell).collect(),
        )
    };
    Table {
        head: [String::new()]
            .into_iter()
            .chain(strata.iter().map(|stratum| stratum.name().to_string()))
            .collect(),
        rows: if strata.len() < 2 {
            Vec::new()
        } else {
            overall.map(row).collect()
        },
    }
}

/// Points with their interval, and what they show if anything.
fn difference(contrast: &Contrast) -> String {
    let points = signed_interval(&contrast.difference);
    match contrast.shown {
        Finding::NotShown => points,
        _ => format!("{points} {}", finding(contrast)),
    }
}

pub fn finding(contrast: &Contrast) -> &'static str {
    match contrast.shown {
        Finding::Better => "shown better",
        Finding::Worse => "shown worse",
        Finding::NotShown => "not shown",
    }
}

/// Questions by the first stage that failed.
pub fn failures(results: &Results) -> Table {
    let mut stages: Vec<Stage> = results.arms.iter().flat_map(|arm| arm.failed.keys().copied()).collect();
    stages.sort_unstable();
    stages.dedup();
    let labels = stages.iter().map(|stage| stage.label().to_string());
    let row = |arm: &ArmSummary| {
        let right = arm.answered - arm.failed.values().sum::<usize>();
        let counts = stages.iter().map(|stage| arm.failed.get(stage).copied().unwrap_or(0));
        (
            arm.arm.name(),
            [right]
                .into_iter()
                .chain(counts)
                .map(|count| count.to_string())
                .collect(),
        )
    };
    Table {
        head: ["".to_string(), "right".into()].into_iter().chain(labels).collect(),
        rows: results.arms.iter().map(row).collect(),
    }
}

/// What was compared, and how, as pairs.
pub fn identity(results: &Results) -> Vec<(String, String)> {
    let (identity, settings) = (&results.identity, &results.settings);
    // Weights with an adapter are two hashes, an embedder is its name and its hash.
    let short = |hashes: &str| {
        let parts = hashes.split('+').map(|hash| hash.get(..16).unwrap_or(hash));
        parts.collect::<Vec<_>>().join(" + ")
    };
    let named = |name: &str| match name.rsplit_once('@') {
        Some((name, hash)) => format!("{name} ({})", short(hash)),
        None => name.to_string(),
    };
    let mut all = vec![
        ("Questions".to_string(), short(&identity.questions)),
        ("Prompts".into(), short(&identity.prompts)),
    ];
    for (weights, hash) in &identity.weights {
        all.push((
            format!("Weights: {}", crate::eval::arm::weights_label(*weights)),
            short(hash),
        ));
    }
    all.extend(identity.index.iter().map(|hash| ("Index".into(), short(hash))));
    all.extend(identity.embedder.iter().map(|name| ("Embedder".into(), named(name))));
    all.push(("New tokens at most".into(), settings.max_new_tokens.to_string()));
    all.push(("Answered together".into(), settings.batch_size.to_string()));
    all.push((
        "Resamples, seed".into(),
        format!("{}, {}", grouped(settings.resamples as u64), settings.seed),
    ));
    all.push(("BLEU".into(), results.bleu_signature.clone()));
    all.push(("chrF".into(), results.chrf_signature.clone()));
    if !identity.stale.is_empty() {
        all.push(("Changed since indexing".into(), identity.stale.join(", ")));
    }
    all
}
