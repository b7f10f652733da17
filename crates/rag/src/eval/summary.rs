//! All answers of all arms to means with intervals, contrasts, and counts.
use super::arm::{Arm, Context};
use super::cost::arm_cost;
use super::settings::Eval;
use super::{perplexity, scored};
use crate::Weights;
use crate::metrics::retrieval::{RankScores, rank_scores};
use crate::metrics::{Metric, abstention::abstention, bleu, chrf, harm::harm};
use crate::question::Stratum;
use crate::results::{ArmSummary, Asked, Contrast, Finding, Given, RetrieverSummary};
use crate::retrieve::Timings;
use crate::stats::{Estimate, bootstrap, holm, mcnemar};
use std::collections::BTreeMap;

/// Fewer groups than this draw intervals that are too narrow to be called anything.
pub const MIN_CLUSTERS: usize = 5;

type Pair<'a> = (&'a Asked, &'a Given);

fn given(asked: &[Asked], arm: Arm) -> impl Iterator<Item = Pair<'_>> + Clone {
    asked
        .iter()
        .filter_map(move |asked| Some((asked, asked.answers.get(&arm)?)))
}

fn right(given: &Given) -> bool {
    given.scores.get(&Metric::Right) == Some(&1.0)
}

pub fn arms(arms: &[Arm], asked: &[Asked], settings: &Eval) -> Vec<ArmSummary> {
    arms.iter().map(|&arm| summarize(arm, arms, asked, settings)).collect()
}

fn summarize(arm: Arm, arms: &[Arm], asked: &[Asked], settings: &Eval) -> ArmSummary {
    let all: Vec<Pair> = given(asked, arm).collect();
    let estimate = |metric: Metric, keep: &dyn Fn(&Asked) -> bool| {
        let kept = all.iter().filter(|(asked, _)| keep(asked));
        let values = kept.filter_map(|(asked, given)| Some((asked.question.cluster(), *given.scores.get(&metric)?)));
        bootstrap(&values.collect::<Vec<_>>(), settings.resamples, settings.seed)
    };
    let scores = Metric::ALL
        .into_iter()
        .filter_map(|metric| Some((metric, estimate(metric, &|_| true)?)));
    let strata = Stratum::ALL.into_iter().filter_map(|stratum| {
        Some((
            stratum,
            estimate(settings.metric, &|asked| asked.question.stratum == stratum)?,
        ))
    });
    let overlapping = asked.iter().any(|asked| !asked.overlaps.is_empty());
    let clean = if overlapping {
        estimate(settings.metric, &|asked| asked.overlaps.is_empty())
    } else {
        None
    };
    let compared = || {
        let pairs = all.iter().filter(|(asked, _)| scored(&asked.question));
        pairs.map(|(asked, given)| (given.answer.text.as_str(), asked.question.answers.as_slice()))
    };
    let harm_against = closed_book(arm, arms);
    let mut failed = BTreeMap::new();
    for stage in all.iter().filter_map(|(_, given)| given.failed) {
        *failed.entry(stage).or_insert(0) += 1;
    }
    ArmSummary {
        arm,
        answered: all.len(),
        scores: scores.collect(),
        strata: strata.collect(),
        clean,
        bleu: compared().next().map(|_| bleu::bleu(compared())),
        chrf: compared().next().map(|_| chrf::chrf(compared())),
        abstention: abstention(all.iter().map(|(asked, given)| {
            let nothing_tells = asked.question.stratum == Stratum::NotInCorpus || arm.context == Context::Distractors;
            (nothing_tells, given.abstained)
        })),
        harm: harm_against.map(|other| {
            harm(
                all.iter()
                    .filter_map(|(asked, given)| Some((right(asked.answers.get(&other)?), right(given)))),
            )
        }),
        harm_against,
        perplexity: perplexity(all.iter().filter_map(|(_, given)| given.likelihood)),
        gold_in_prompt: gold_in_prompt(arm, &all),
        failed,
        cost: cost(arm, &all, settings),
    }
}

/// The arm without context that an arm with context is held against.
fn closed_book(arm: Arm, arms: &[Arm]) -> Option<Arm> {
    let candidates = [arm.without_context(), Arm::BASE];
    (arm.context != Context::None).then(|| candidates.into_iter().find(|other| arms.contains(other)))?
}

fn gold_in_prompt(arm: Arm, all: &[Pair]) -> Option<f64> {
    let shown = all.iter().filter(|(asked, _)| asked.indexed.is_some());
    let shown = shown.filter_map(|(asked, _)| Some((asked, asked.contexts.get(&arm.context)?)));
    let held: Vec<bool> = shown
        .map(|(asked, shown)| shown.passages.iter().any(|&i| asked.passages[i].gold))
        .collect();
    (!held.is_empty()).then(|| held.iter().filter(|&&held| held).count() as f64 / held.len() as f64)
}

fn cost(arm: Arm, all: &[Pair], settings: &Eval) -> super::cost::ArmCost {
    let answers: Vec<_> = all.iter().map(|(_, given)| &given.answer).collect();
    let times: Vec<Timings> = match arm.context {
        Context::Retrieved => all
            .iter()
            .map(|(asked, _)| asked.retrieval.unwrap_or_default())
            .collect(),
        _ => Vec::new(),
    };
    arm_cost(&answers, &times, &settings.rates, settings.batch_size)
}

/// The comparisons decided on before any answer is seen; Holm's adjustment is over these.
pub fn planned(arms: &[Arm], settings: &Eval) -> Vec<(Arm, Arm)> {
    let naive = Arm {
        weights: Weights::Tuned,
        context: Context::Retrieved,
    };
    let mut planned = vec![
        (Arm::TUNED, Arm::BASE),
        (Arm::RAG, Arm::BASE),
        (Arm::HYBRID, Arm::BASE),
        (Arm::HYBRID, Arm::RAG),
        (Arm::HYBRID, Arm::TUNED),
        (Arm::RAG, Arm::TUNED),
        (naive, Arm::RAG),
    ];
    if let Some(candidate) = Arm::parse(&settings.candidate) {
        let others = match Arm::parse(&settings.baseline) {
            Some(baseline) => vec![baseline],
            None => Arm::NAMED.to_vec(),
        };
        for other in others.into_iter().filter(|&other| other != candidate) {
            if !planned.contains(&(candidate, other)) && !planned.contains(&(other, candidate)) {
                planned.push((candidate, other));
            }
        }
    }
    planned.retain(|(first, second)| arms.contains(first) && arms.contains(second));
    planned
}

/// The planned ones over all questions, adjusted, then the same within each stratum.
pub fn contrasts(arms: &[Arm], asked: &[Asked], settings: &Eval) -> Vec<Contrast> {
    let pairs = planned(arms, settings);
    let overall = pairs.iter().filter_map(|&pair| contrast(pair, None, asked, settings));
    let mut overall: Vec<Contrast> = overall.collect();
    let p: Vec<f64> = overall.iter().map(|contrast| contrast.difference.p).collect();
    for (contrast, adjusted) in overall.iter_mut().zip(holm(&p)) {
        contrast.adjusted_p = Some(adjusted);
        contrast.shown = finding(&contrast.difference, adjusted, settings.min_questions);
    }
    for stratum in Stratum::ALL {
        overall.extend(
            pairs
                .iter()
                .filter_map(|&pair| contrast(pair, Some(stratum), asked, settings)),
        );
    }
    overall
}

fn contrast(pair: (Arm, Arm), stratum: Option<Stratum>, asked: &[Asked], settings: &Eval) -> Option<Contrast> {
    let (first, second) = pair;
    let both = asked
        .iter()
        .filter(|asked| stratum.is_none_or(|stratum| asked.question.stratum == stratum));
    let score = |asked: &Asked, arm: Arm| asked.answers.get(&arm)?.scores.get(&settings.metric).copied();
    let both: Vec<(&Asked, f64, f64)> = both
        .filter_map(|asked| Some((asked, score(asked, first)?, score(asked, second)?)))
        .collect();
    let estimate = |keep: &dyn Fn(&Asked) -> bool| {
        let kept = both.iter().filter(|(asked, ..)| keep(asked));
        let differences: Vec<_> = kept
            .map(|(asked, one, other)| (asked.question.cluster(), one - other))
            .collect();
        bootstrap(&differences, settings.resamples, settings.seed)
    };
    let difference = estimate(&|_| true)?;
    let wins = both.iter().filter(|(_, one, other)| one > other).count();
    let losses = both.iter().filter(|(_, one, other)| one < other).count();
    let binary = both
        .iter()
        .all(|(_, one, other)| [one, other].iter().all(|score| **score == 0.0 || **score == 1.0));
    let overlapping = both.iter().any(|(asked, ..)| !asked.overlaps.is_empty());
    Some(Contrast {
        first,
        second,
        stratum,
        wins,
        ties: both.len() - wins - losses,
        losses,
        mcnemar: binary.then(|| mcnemar(wins, losses)),
        adjusted_p: None,
        smallest_difference: difference.smallest_difference(),
        shown: finding(&difference, difference.p, settings.min_questions),
        clean: if overlapping {
            estimate(&|asked| asked.overlaps.is_empty())
        } else {
            None
        },
        difference,
    })
}

fn finding(difference: &Estimate, p: f64, min_questions: usize) -> Finding {
    let enough = difference.n >= min_questions && difference.clusters >= MIN_CLUSTERS;
    if !enough || difference.holds_zero() || p >= 0.05 {
        Finding::NotShown
    } else if difference.mean > 0.0 {
        Finding::Better
    } else {
        Finding::Worse
    }
}

/// At 1, 3, 5 and 10, and at what goes into a prompt.
pub fn retrieval(asked: &[Asked], depth: usize) -> Vec<RetrieverSummary> {
    let mut names: Vec<&String> = asked.iter().flat_map(|asked| asked.relevance.keys()).collect();
    names.sort();
    names.dedup();
    let top_k = asked.iter().filter_map(|asked| asked.contexts.get(&Context::Retrieved));
    let top_k = top_k.map(|shown| shown.passages.len() + shown.left_out.len()).max();
    let mut cuts: Vec<usize> = [1, 3, 5, 10]
        .into_iter()
        .chain(top_k)
        .filter(|&k| k > 0 && k <= depth)
        .collect();
    cuts.sort_unstable();
    cuts.dedup();
    let summary = |name: &String| {
        let all: Vec<_> = asked
            .iter()
            .filter_map(|asked| Some((asked, asked.relevance.get(name)?)))
            .collect();
        let at = |k: usize| {
            mean(
                all.iter()
                    .map(|(asked, ranks)| rank_scores(ranks, asked.question.gold.len(), k)),
            )
        };
        RetrieverSummary {
            retriever: name.clone(),
            n: all.len(),
            by_k: cuts.iter().map(|&k| (k, at(k))).collect(),
        }
    };
    names.into_iter().map(summary).collect()
}

fn mean(all: impl ExactSizeIterator<Item = RankScores>) -> RankScores {
    let n = all.len().max(1) as f64;
    let sum = all.fold(RankScores::default(), |sum, next| RankScores {
        hit: sum.hit + next.hit,
        recall: sum.recall + next.recall,
        precision: sum.precision + next.precision,
        mrr: sum.mrr + next.mrr,
        ndcg: sum.ndcg + next.ndcg,
    });
    RankScores {
        hit: sum.hit / n,
        recall: sum.recall / n,
        precision: sum.precision / n,
        mrr: sum.mrr / n,
        ndcg: sum.ndcg / n,
    }
}
