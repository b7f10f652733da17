//! Prompting, RAG, fine-tuning or both: the decision tree, from facts about the task or from what was measured.
use crate::Weights;
use crate::eval::arm::{Arm, Context};
use crate::eval::settings::Rates;
use crate::metrics::Metric;
use crate::report::money;
use crate::results::{Contrast, Finding, Results};
use crate::verdict::{MOST_QUESTIONS, Outcome, needed, rounded};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Fewer rows rarely teach a form that a prompt with a few examples does not.
pub const FEW_EXAMPLES: usize = 100;
/// Passages that are not found help no model.
pub const GOOD_RECALL: f64 = 0.8;
/// A difference in adherence worth a training run.
const FORM_GAP: f64 = 0.1;
/// A form kept less often than this is missing.
const GOOD_FORM: f64 = 0.9;

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
    /// Not told: by the dates of the documents, where these tell.
    Auto,
    Never,
    Yearly,
    Monthly,
    Weekly,
    Daily,
}

impl Change {
    pub const KNOWN: [Change; 5] = [
        Change::Never,
        Change::Yearly,
        Change::Monthly,
        Change::Weekly,
        Change::Daily,
    ];

    /// As written in a config.
    pub fn name(self) -> &'static str {
        match self {
            Change::Auto => "auto",
            Change::Never => "never",
            Change::Yearly => "yearly",
            Change::Monthly => "monthly",
            Change::Weekly => "weekly",
            Change::Daily => "daily",
        }
    }

    /// From how many days ago something changed last: where changes come at random, the best guess of the days between two.
    fn from_days(days: f64) -> Change {
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
            Change::Auto => "now and then",
            Change::Never => "never",
            Change::Yearly => "about once a year",
            Change::Monthly => "every few weeks",
            Change::Weekly => "every week",
            Change::Daily => "every day",
        }
    }
}

/// When documents changed, by the dates of their files.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dates {
    pub documents: usize,
    /// Since the newest of them changed.
    pub days: f64,
}

impl Dates {
    /// `None` where they tell nothing: all within a minute, as a checkout or an archive leaves them.
    pub fn of(changed: &[SystemTime], now: SystemTime) -> Option<Dates> {
        let (oldest, newest) = (changed.iter().min()?, changed.iter().max()?);
        let spread = newest.duration_since(*oldest).unwrap_or_default();
        (spread.as_secs() > 60).then(|| Dates {
            documents: changed.len(),
            days: now.duration_since(*newest).unwrap_or_default().as_secs_f64() / 86_400.0,
        })
    }

    pub fn change(&self) -> Change {
        Change::from_days(self.days)
    }

    fn label(&self) -> String {
        let ago = match self.days.round() {
            days if days < 1.0 => "today".into(),
            1.0 => "1 day ago".into(),
            days => format!("{days:.0} days ago"),
        };
        format!("the newest of {} documents changed {ago}", self.documents)
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
    /// Most that 1,000 answers may cost, in the currency of `eval.rates`; 0 = any.
    pub budget_per_1000: f64,
    /// Whether training on a GPU, or for hours on a CPU, can be paid for.
    pub can_train: bool,
}

impl Default for Task {
    fn default() -> Self {
        Self {
            own_facts: true,
            change: Change::Auto,
            must_cite: false,
            own_form: false,
            examples: 0,
            documents: 0,
            latency_seconds: 0.0,
            budget_per_1000: 0.0,
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
    /// Commands, in order; what only the user knows stands in `<>`.
    pub next: Vec<String>,
}

/// What commands name, each as a shell takes it.
#[derive(Debug, Clone)]
pub struct Names {
    pub config: String,
    /// The run folder of the hybrid adapter, where the config names one.
    pub hybrid_run: Option<String>,
    pub log: String,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            config: "<your config>".into(),
            hybrid_run: None,
            log: "<your log>".into(),
        }
    }
}

/// The run folder that leaves its adapter at `adapter`.
pub fn run_of(adapter: &Path) -> PathBuf {
    match (adapter.file_name(), adapter.parent()) {
        (Some(name), Some(run)) if name == "adapter" => run.to_path_buf(),
        _ => adapter.to_path_buf(),
    }
}

/// From what is known of the task.
pub fn advise(task: &Task, dates: Option<Dates>, rates: &Rates, names: &Names) -> Advice {
    let mut reasons = Vec::new();
    let mut cautions = Vec::new();
    let facts = needs_retrieval(task, dates, &mut reasons, &mut cautions);
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
    if task.budget_per_1000 > 0.0 {
        let Task { budget_per_1000, .. } = task;
        cautions.push(match rates.given() {
            true => format!(
                "check the price of 1,000 answers against {budget_per_1000} {} in the report",
                rates.currency
            ),
            false => {
                "a budget is given, but no prices: set eval.rates, and tune eval tells what 1,000 answers cost".into()
            }
        });
    }
    if reasons.is_empty() {
        reasons.push("no fact and no form is missing that a prompt could not bring".into());
    }
    Advice {
        approach,
        headline: approach.label().into(),
        reasons,
        cautions,
        next: next_commands(approach, names),
    }
}

fn needs_retrieval(task: &Task, dates: Option<Dates>, reasons: &mut Vec<String>, cautions: &mut Vec<String>) -> bool {
    if task.must_cite {
        reasons.push("answers must name their sources: only passages in the prompt can be cited".into());
    }
    if task.own_facts {
        reasons.push("answers need facts the base does not have; passages bring them better than training does".into());
        let (change, seen) = match (task.change, dates) {
            (Change::Auto, Some(dates)) => (dates.change(), format!(" ({})", dates.label())),
            (told, _) => (told, String::new()),
        };
        if change >= Change::Monthly {
            let often = change.label();
            reasons.push(format!(
                "facts change {often}{seen}: an index follows in seconds, weights need another training run"
            ));
        } else if !seen.is_empty() {
            reasons.push(format!("facts change {}{seen}", change.label()));
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

fn next_commands(approach: Approach, names: &Names) -> Vec<String> {
    let config = &names.config;
    let arms = |arms: &str| format!("tune eval {config} --set eval.arms={arms}");
    match approach {
        // Whether one prompt is better than another, no arm of tune eval tells.
        Approach::Prompting => vec![format!(
            "tune ask {config} --arm base \"…\" --set rag.system=\"…\" --set rag.plain_template=\"… {{question}}\""
        )],
        Approach::Rag => vec![format!("tune index {config}"), arms("base,rag")],
        Approach::FineTuning => vec![format!("tune train {config}"), arms("base,tuned")],
        Approach::Hybrid => {
            let run = names.hybrid_run.as_deref().unwrap_or("runs/hybrid");
            let told = match names.hybrid_run {
                Some(_) => String::new(),
                None => format!(" --set eval.hybrid_adapter={run}/adapter"),
            };
            vec![
                format!("tune index {config}"),
                format!("tune data raft {config} --questions <questions to train on> --out {run}-rows.jsonl"),
                format!("tune train {config} --set data.train={run}-rows.jsonl --set output.dir={run}"),
                format!("tune eval {config}{told}"),
            ]
        }
    }
}

/// What an answer may take and cost; 0 = any.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    pub latency_seconds: f64,
    /// Of 1,000 answers, in the currency of the results.
    pub budget_per_1000: f64,
}

/// From an evaluation: the same tree with numbers for facts.
pub fn advise_from(results: &Results, limits: &Limits, names: &Names) -> Advice {
    let measured = Measured { results };
    let (mut reasons, mut cautions) = (vec![results.verdict.line.clone()], Vec::new());
    measured.knowledge(&mut reasons);
    measured.form(&mut reasons);
    measured.retrieval(&mut reasons, &mut cautions);
    measured.hybrid(&mut reasons);
    measured.latency(limits.latency_seconds, &mut cautions);
    measured.price(limits.budget_per_1000, &mut reasons, &mut cautions);
    let lead = measured.lead();
    let approach = approach_of(lead.as_ref().map_or(results.verdict.ship, |lead| lead.first));
    let headline = match &lead {
        Some(lead) => not_shown_yet(lead, results.settings.min_questions),
        None => approach.label().into(),
    };
    let Names { config, log, .. } = names;
    let next = match results.verdict.outcome {
        Outcome::ShownBetter => vec![format!("tune ask {config} --arm {} \"…\"", results.verdict.ship)],
        _ if !cautions.is_empty() => vec![
            format!("tune search {config} \"…\""),
            format!("tune index {config}"),
            format!("tune eval {config}"),
        ],
        _ => vec![format!("tune log export {log}"), format!("tune eval {config}")],
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
            let Some(base) = self.mean(Arm::BASE, metric) else {
                continue;
            };
            let (label, percent) = (metric.label(), 100.0 * base);
            reasons.push(match self.mean(Arm::TUNED, metric) {
                None if base < GOOD_FORM => {
                    format!("the form is missing: {label} {percent:.0} for base; training may bring it")
                }
                None => format!("base keeps the form: {label} {percent:.0}"),
                Some(tuned) => {
                    let finds = if tuned - base > FORM_GAP {
                        "training brings the form"
                    } else {
                        "training changes the form little"
                    };
                    format!("{finds}: {label} {percent:.0} for base, {:.0} for tuned", 100.0 * tuned)
                }
            });
        }
    }

    /// Of the retriever whose passages stood in the prompts.
    fn retrieval(&self, reasons: &mut Vec<String>, cautions: &mut Vec<String>) {
        let used = &self.results.facts.retriever;
        let Some(summary) = self.results.retrieval.iter().find(|known| known.retriever == *used) else {
            return;
        };
        let Some((k, scores)) = summary.by_k.range(..=5).next_back() else {
            return;
        };
        let finds = format!(
            "{used} finds {:.0} % of the gold passages among the first {k}",
            100.0 * scores.recall
        );
        if scores.recall < GOOD_RECALL {
            cautions.push(format!(
                "{finds} (wanted {:.0} %): mend retrieval first — chunk size, weights of the retrievers, a reranker",
                100.0 * GOOD_RECALL
            ));
        } else {
            reasons.push(finds);
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
        let Some(summary) = self.results.arm(ship) else { return };
        let total = summary.cost.total.filter(|total| limit > 0.0 && total.p95 > limit);
        if let Some(total) = total {
            let (alone, together) = match self.results.settings.batch_size.min(summary.answered) {
                0 | 1 => ("", String::new()),
                many => (
                    "eval.batch_size = 1 to see what one takes, ",
                    format!(" for {many} answers at once"),
                ),
            };
            cautions.push(format!(
                "{ship} takes {:.1} s{together} at the 95th percentile, wanted {limit} s: {alone}fewer passages (rag.top_k) \
                 or fewer new tokens",
                total.p95
            ));
        }
    }

    fn price(&self, budget: f64, reasons: &mut Vec<String>, cautions: &mut Vec<String>) {
        let ship = self.results.verdict.ship;
        let currency = &self.results.settings.rates.currency;
        match self.results.arm(ship).and_then(|summary| summary.cost.price_per_1000) {
            None if budget > 0.0 => {
                cautions.push("prices are not measured: set eval.rates, then run tune eval again".into());
            }
            None => {}
            Some(price) => {
                let costs = format!("1,000 answers of {ship} cost {}", money(price, currency));
                if budget > 0.0 && price > budget {
                    let wanted = money(budget, currency);
                    cautions.push(format!(
                        "{costs}, wanted {wanted} at most: fewer passages (rag.top_k), or the cheapest arm that will do"
                    ));
                } else {
                    reasons.push(costs);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn task(change: impl Fn(&mut Task)) -> Advice {
        let mut task = Task {
            own_facts: false,
            change: Change::Never,
            documents: 40,
            examples: 400,
            ..Task::default()
        };
        change(&mut task);
        advise(&task, None, &Rates::default(), &Names::default())
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
    fn dates_of_files_tell_how_often_they_change_unless_a_checkout_made_them() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let ago = |days: u64| now - Duration::from_secs(86_400 * days);
        let dates = Dates::of(&[ago(3), ago(400), ago(30)], now).unwrap();
        assert_eq!((dates.documents, dates.change()), (3, Change::Weekly));
        assert_eq!(Dates::of(&[ago(3), ago(3) - Duration::from_secs(50)], now), None);
        assert_eq!(Dates::of(&[], now), None);
        assert_eq!(Dates::of(&[ago(0), ago(2)], now).unwrap().change(), Change::Daily);
        assert_eq!(Dates::of(&[ago(2000), ago(3000)], now).unwrap().change(), Change::Never);

        let said = |change, dates| {
            let task = Task {
                change,
                documents: 3,
                ..Task::default()
            };
            let advice = advise(&task, dates, &Rates::default(), &Names::default());
            advice.reasons.join("\n")
        };
        let by_dates = said(Change::Auto, Some(dates));
        assert!(
            by_dates.contains("every week (the newest of 3 documents changed 3 days ago)"),
            "{by_dates}"
        );
        assert!(!said(Change::Auto, None).contains("change"));
        assert!(said(Change::Daily, Some(dates)).contains("facts change every day: "));
    }

    #[test]
    fn a_budget_needs_prices() {
        let budget = |task: &mut Task| task.budget_per_1000 = 2.0;
        assert!(task(budget).cautions[0].contains("set eval.rates"));
    }

    /// Trained into the folder where the hybrid arm's adapter is looked for, never into that of the tuned arm.
    #[test]
    fn the_hybrid_adapter_is_trained_where_it_is_looked_for() {
        assert_eq!(run_of(Path::new("runs/h/adapter")), Path::new("runs/h"));
        assert_eq!(run_of(Path::new("runs/h")), Path::new("runs/h"));
        let names = Names {
            config: "c.toml".into(),
            hybrid_run: Some("runs/h".into()),
            ..Names::default()
        };
        let next = next_commands(Approach::Hybrid, &names);
        assert_eq!(
            next[2],
            "tune train c.toml --set data.train=runs/h-rows.jsonl --set output.dir=runs/h"
        );
        assert_eq!(next[3], "tune eval c.toml");
        let unnamed = next_commands(Approach::Hybrid, &Names::default());
        assert!(
            unnamed[3].ends_with("--set eval.hybrid_adapter=runs/hybrid/adapter"),
            "{unnamed:?}"
        );
        let prompt = next_commands(Approach::Prompting, &names);
        assert!(
            prompt.iter().all(|command| !command.contains("tune eval")),
            "{prompt:?}"
        );
    }
}
