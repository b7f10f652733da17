//! Prompting, RAG, fine-tuning or both: the decision tree, from facts about the task or from what was measured.
use crate::Weights;
use crate::eval::arm::{Arm, Context};
use crate::metrics::Metric;
use crate::results::{Contrast, Finding, Results};
use crate::verdict::{MOST_QUESTIONS, Outcome, needed, rounded};
use serde::{Deserialize, Serialize};

/// Fewer rows rarely teach a form that a prompt with a few examples does not.
pub const FEW_EXAMPLES: usize = 100;
/// Passages that are not found help no model.
pub const GOOD_RECALL: f64 = 0.8;
/// A difference in adherence worth a training run.
const FORM_GAP: f64 = 0.1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Approach {
    Prompting,
    Rag,
    FineTuning,
    Hybrid,
}

impl Approach {
    pub fn label(self) -> &'static str {
        match self {
            Approach::Prompting => "a better prompt",
            Approach::Rag => "RAG",
            Approach::FineTuning => "fine-tuning",
            Approach::Hybrid => "hybrid: fine-tuning with RAG",
        }
    }
}

/// How often what is true changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    Never,
    Yearly,
    Monthly,
    Weekly,
    Daily,
}

impl Change {
    /// From how many days lie between two changes of a document, on average.
    pub fn from_days(days: f64) -> Change {
        match days {
            days if days <= 2.0 => Change::Daily,
            days if days <= 14.0 => Change::Weekly,
            days if days <= 100.0 => Change::Monthly,
            days if days <= 1000.0 => Change::Yearly,
            _ => Change::Never,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Change::Never => "never",
            Change::Yearly => "about once a year",
            Change::Monthly => "every few weeks",
            Change::Weekly => "every week",
            Change::Daily => "every day",
        }
    }
}

/// What is known of a task before anything is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Task {
    /// Answers need facts that the base was not trained on: of a company, of a case, of last week.
    pub own_facts: bool,
    pub change: Change,
    /// Every claim must name its source.
    pub must_cite: bool,
    /// A tone, a format or a jargon that a prompt does not bring about reliably.
    pub own_form: bool,
    /// Good pairs of question and answer at hand.
    pub examples: usize,
    pub documents: usize,
    /// Longest wait for an answer that is acceptable, in seconds; 0 = any.
    pub latency_seconds: f64,
    /// Whether training on a GPU, or for hours on a CPU, can be paid for.
    pub can_train: bool,
}

impl Default for Task {
    fn default() -> Self {
        Self {
            own_facts: true,
            change: Change::Monthly,
            must_cite: false,
            own_form: false,
            examples: 0,
            documents: 0,
            latency_seconds: 0.0,
            can_train: true,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Advice {
    pub approach: Approach,
    /// The approach, or how far ahead it is where that is not shown yet.
    pub headline: String,
    /// Each with the fact or the number it rests on.
    pub reasons: Vec<String>,
    /// What to mend or to watch.
    pub cautions: Vec<String>,
    /// In order; `CONFIG` stands for the config file.
    pub next: Vec<String>,
}

/// From what is known of the task.
pub fn advise(task: &Task) -> Advice {
    let mut reasons = Vec::new();
    let mut cautions = Vec::new();
    let facts = needs_retrieval(task, &mut reasons, &mut cautions);
    let form = needs_training(task, &mut reasons, &mut cautions);
    let approach = match (facts, form) {
        (true, true) => Approach::Hybrid,
        (true, false) => Approach::Rag,
        (false, true) => Approach::FineTuning,
        (false, false) => Approach::Prompting,
    };
    if facts && task.latency_seconds > 0.0 {
        let seconds = task.latency_seconds;
        cautions.push(format!(
            "passages make prompts longer: check the total time of rag against {seconds} s in the report"
        ));
    }
    if reasons.is_empty() {
        reasons.push("no fact and no form is missing that a prompt could not bring".into());
    }
    Advice {
        approach,
        headline: approach.label().into(),
        reasons,
        cautions,
        next: next_commands(approach),
    }
}

fn needs_retrieval(task: &Task, reasons: &mut Vec<String>, cautions: &mut Vec<String>) -> bool {
    if task.must_cite {
        reasons.push("answers must name their sources: only passages in the prompt can be cited".into());
    }
    if task.own_facts {
        reasons.push("answers need facts the base does not have; passages bring them better than training does".into());
        if task.change >= Change::Monthly {
            let often = task.change.label();
            reasons.push(format!(
                "facts change {often}: an index follows in seconds, weights need another training run"
            ));
        }
    }
    let needed = task.must_cite || task.own_facts;
    if needed && task.documents == 0 {
        cautions.push("there are no documents yet to retrieve from: write down what answers rest on".into());
    }
    needed
}

fn needs_training(task: &Task, reasons: &mut Vec<String>, cautions: &mut Vec<String>) -> bool {
    if !task.own_form {
        return false;
    }
    let examples = task.examples;
    if examples < FEW_EXAMPLES {
        cautions.push(format!(
            "a form of your own is wanted, but {examples} examples are few: put some into the prompt, collect \
             {FEW_EXAMPLES} or more from the log, then train"
        ));
        return false;
    }
    if !task.can_train {
        cautions
            .push("a form of your own is wanted, but training cannot be paid for: put examples into the prompt".into());
        return false;
    }
    reasons.push(format!(
        "tone or format of your own, and {examples} examples to learn it from: that is what training is good at"
    ));
    true
}

fn next_commands(approach: Approach) -> Vec<String> {
    let commands: &[&str] = match approach {
        Approach::Prompting => &["tune chat --base BASE", "tune eval CONFIG --set 'eval.arms=[\"base\"]'"],
        Approach::Rag => &[
            "tune index CONFIG",
            "tune eval CONFIG --set 'eval.arms=[\"base\", \"rag\"]'",
        ],
        Approach::FineTuning => &[
            "tune train CONFIG",
            "tune eval CONFIG --set 'eval.arms=[\"base\", \"tuned\"]'",
        ],
        Approach::Hybrid => &[
            "tune index CONFIG",
            "tune data raft CONFIG --questions QUESTIONS.jsonl --out ROWS.jsonl",
            "tune train CONFIG --set data.train=ROWS.jsonl",
            "tune eval CONFIG",
        ],
    };
    commands.iter().map(|command| command.to_string()).collect()
}

/// From an evaluation: the same tree with numbers for facts. `latency_seconds` 0 = any.
pub fn advise_from(results: &Results, latency_seconds: f64) -> Advice {
    let measured = Measured { results };
    let (mut reasons, mut cautions) = (vec![results.verdict.line.clone()], Vec::new());
    measured.knowledge(&mut reasons);
    measured.form(&mut reasons);
    measured.retrieval(&mut cautions);
    measured.hybrid(&mut reasons);
    measured.latency(latency_seconds, &mut cautions);
    let lead = measured.lead();
    let approach = approach_of(lead.as_ref().map_or(results.verdict.ship, |lead| lead.first));
    let headline = match &lead {
        Some(lead) => not_shown_yet(lead, results.settings.min_questions),
        None => approach.label().into(),
    };
    let next = match results.verdict.outcome {
        Outcome::ShownBetter => vec![format!("tune ask CONFIG --arm {} \"…\"", results.verdict.ship)],
        _ if !cautions.is_empty() => vec![
            "tune search CONFIG \"…\"".into(),
            "tune index CONFIG".into(),
            "tune eval CONFIG".into(),
        ],
        _ => vec!["tune log export LOG.jsonl".into(), "tune eval CONFIG".into()],
    };
    Advice {
        approach,
        headline,
        reasons,
        cautions,
        next,
    }
}

fn approach_of(arm: Arm) -> Approach {
    match (arm.weights, arm.context) {
        (Weights::Base, Context::None) => Approach::Prompting,
        (Weights::Base, _) => Approach::Rag,
        (_, Context::None) => Approach::FineTuning,
        _ => Approach::Hybrid,
    }
}

/// `hybrid leads base by 4.2 points, not shown yet: about 300 questions would tell`
fn not_shown_yet(lead: &Contrast, least: usize) -> String {
    let Contrast { first, second, .. } = lead;
    let ahead = format!(
        "{first} leads {second} by {:.1} points, not shown yet",
        100.0 * lead.difference.mean
    );
    let wanted = needed(lead).max(least as f64);
    if wanted <= lead.difference.n as f64 || wanted > MOST_QUESTIONS {
        return ahead;
    }
    format!("{ahead}: about {} questions would tell", rounded(wanted))
}

struct Measured<'a> {
    results: &'a Results,
}

impl Measured<'_> {
    fn mean(&self, arm: Arm, metric: Metric) -> Option<f64> {
        Some(self.results.arm(arm)?.scores.get(&metric)?.mean)
    }

    /// Where no arm is shown to be better, the one that is ahead of what is kept; of equals the simplest.
    fn lead(&self) -> Option<Contrast> {
        let verdict = &self.results.verdict;
        let others = Arm::NAMED
            .into_iter()
            .filter_map(|arm| self.results.contrast(arm, verdict.ship));
        let ahead = others.filter(|contrast| verdict.outcome == Outcome::NotShown && contrast.difference.mean > 0.0);
        ahead.reduce(|best, next| match next.difference.mean > best.difference.mean {
            true => next,
            false => best,
        })
    }

    /// How much the right passage in the prompt would bring.
    fn knowledge(&self, reasons: &mut Vec<String>) {
        let metric = self.results.settings.metric;
        let oracle = Arm {
            weights: Weights::Base,
            context: Context::Oracle,
        };
        let best = [oracle, Arm::RAG]
            .into_iter()
            .find_map(|arm| Some((arm, self.mean(arm, metric)?)));
        if let (Some((arm, with)), Some(without)) = (best, self.mean(Arm::BASE, metric)) {
            let (with, without) = (100.0 * with, 100.0 * without);
            reasons.push(format!("passages: base {without:.0} without, {with:.0} with ({arm})"));
        }
    }

    fn form(&self, reasons: &mut Vec<String>) {
        for metric in [Metric::Regex, Metric::Json] {
            if let (Some(base), Some(tuned)) = (self.mean(Arm::BASE, metric), self.mean(Arm::TUNED, metric)) {
                let finds = if tuned - base > FORM_GAP {
                    "training brings the form"
                } else {
                    "training changes the form little"
                };
                let label = metric.label();
                reasons.push(format!(
                    "{finds}: {label} {:.0} for base, {:.0} for tuned",
                    100.0 * base,
                    100.0 * tuned
                ));
            }
        }
    }

    fn retrieval(&self, cautions: &mut Vec<String>) {
        for summary in &self.results.retrieval {
            let Some((k, scores)) = summary.by_k.range(..=5).next_back() else {
                continue;
            };
            if scores.recall < GOOD_RECALL {
                cautions.push(format!(
                    "{} finds {:.0} % of the gold passages among the first {k} (wanted {:.0} %): mend retrieval first — \
                     chunk size, weights of the retrievers, a reranker",
                    summary.retriever,
                    100.0 * scores.recall,
                    100.0 * GOOD_RECALL
                ));
            }
        }
    }

    fn hybrid(&self, reasons: &mut Vec<String>) {
        for single in [Arm::RAG, Arm::TUNED] {
            if let Some(contrast) = self.results.contrast(Arm::HYBRID, single) {
                let mean = 100.0 * contrast.difference.mean;
                reasons.push(match contrast.shown {
                    Finding::Better => format!("hybrid is shown better than {single} by {mean:.1} points"),
                    Finding::Worse => format!("hybrid is shown worse than {single} by {:.1} points", -mean),
                    Finding::NotShown => format!("hybrid is not shown better than {single}: the simpler one will do"),
                });
            }
        }
    }

    fn latency(&self, limit: f64, cautions: &mut Vec<String>) {
        let ship = self.results.verdict.ship;
        let total = self.results.arm(ship).and_then(|summary| summary.cost.total);
        if let Some(total) = total.filter(|total| limit > 0.0 && total.p95 > limit) {
            cautions.push(format!(
                "{ship} takes {:.1} s at the 95th percentile, wanted {limit} s: fewer passages (rag.top_k) or fewer new tokens",
                total.p95
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(change: impl Fn(&mut Task)) -> Advice {
        let mut task = Task {
            own_facts: false,
            change: Change::Never,
            documents: 40,
            examples: 400,
            ..Task::default()
        };
        change(&mut task);
        advise(&task)
    }

    #[test]
    fn the_tree() {
        assert_eq!(task(|_| {}).approach, Approach::Prompting);
        assert_eq!(task(|task| task.own_facts = true).approach, Approach::Rag);
        assert_eq!(task(|task| task.must_cite = true).approach, Approach::Rag);
        assert_eq!(task(|task| task.own_form = true).approach, Approach::FineTuning);
        let both = task(|task| (task.own_facts, task.own_form, task.change) = (true, true, Change::Weekly));
        assert_eq!(both.approach, Approach::Hybrid);
        assert!(both.reasons.iter().any(|reason| reason.contains("every week")));
    }

    #[test]
    fn what_is_missing_is_said_and_the_cheaper_way_taken() {
        let few = task(|task| (task.own_facts, task.own_form, task.examples) = (true, true, 20));
        assert_eq!(few.approach, Approach::Rag);
        assert!(few.cautions[0].contains("20 examples are few"), "{few:?}");
        let poor = task(|task| (task.own_form, task.can_train) = (true, false));
        assert_eq!(poor.approach, Approach::Prompting);
        let bare = task(|task| (task.own_facts, task.documents, task.latency_seconds) = (true, 0, 0.5));
        assert_eq!(bare.cautions.len(), 2, "{bare:?}");
    }

    #[test]
    fn days_between_changes() {
        assert_eq!(Change::from_days(1.0), Change::Daily);
        assert_eq!(Change::from_days(f64::INFINITY), Change::Never);
    }
}
