//! One answer to its scores, and to the stage at which it failed.
use super::arm::Context;
use crate::metrics::{self, Metric, abstention, citation, format, numeric, overlap, rouge, squad};
use crate::question::{Question, Stratum};
use crate::results::Stage;
use regex::Regex;
use serde_json::Value;
use std::collections::BTreeMap;

/// What an answer is scored by, besides its question.
pub struct Evidence<'a> {
    pub context: Context,
    /// Text of each passage in the prompt, and whether it is gold.
    pub passages: Vec<(&'a str, bool)>,
    /// Whether gold is in the index, and among the retrieved; `None` without gold.
    pub indexed: Option<bool>,
    pub retrieved: bool,
}

pub struct Scored {
    pub scores: BTreeMap<Metric, f64>,
    pub abstained: bool,
    pub failed: Option<Stage>,
}

/// All scores that need no embeddings.
pub fn score(question: &Question, answer: &str, evidence: &Evidence, abstentions: &[String]) -> Scored {
    let abstained = abstention::abstains(answer, abstentions);
    let checks = checks(question, answer);
    let keeps_form = checks.values().all(|&kept| kept == 1.0);
    let nothing_tells = question.stratum == Stratum::NotInCorpus || evidence.context == Context::Distractors;
    let knows = knows(question, answer) || abstained && nothing_tells;
    let mut scores = checks;
    scores.insert(Metric::Right, f64::from(knows && keeps_form));
    if question.stratum != Stratum::NotInCorpus {
        scores.extend(against_references(question, answer));
    }
    scores.extend(against_passages(answer, evidence));
    let failed = match (knows, keeps_form) {
        (true, true) => None,
        (true, false) => Some(Stage::WrongFormat),
        (false, _) => Some(failed_stage(question, evidence)),
    };
    Scored {
        scores,
        abstained,
        failed,
    }
}

/// Whether the answer says what it should, whatever its form.
fn knows(question: &Question, answer: &str) -> bool {
    let contained = question
        .answers
        .iter()
        .any(|reference| squad::contains(answer, reference) || squad::contains(&spelled(answer), &spelled(reference)));
    // A number within tolerance need not be written as the reference is.
    match within(question, answer) {
        Some(close) => close,
        None => contained || question.answers.is_empty() && question.stratum != Stratum::NotInCorpus,
    }
}

/// `12%` and `12 %` as `12 percent`; SQuAD drops the sign.
fn spelled(text: &str) -> String {
    text.replace('%', " percent ").replace("per cent", "percent")
}

fn within(question: &Question, answer: &str) -> Option<bool> {
    numeric::within(answer, &question.answers, question.tolerance?)
}

/// The form the question asks for: 1 kept, 0 not.
fn checks(question: &Question, answer: &str) -> BTreeMap<Metric, f64> {
    let mut checks = BTreeMap::new();
    if let Some(pattern) = question.regex.as_ref().and_then(|pattern| Regex::new(pattern).ok()) {
        checks.insert(Metric::Regex, f64::from(pattern.is_match(answer)));
    }
    if let Some(schema) = &question.json_schema {
        let adheres = |value: Value| format::adheres(&value, schema);
        checks.insert(Metric::Json, f64::from(format::json(answer).is_some_and(adheres)));
    }
    checks
}

fn against_references(question: &Question, answer: &str) -> BTreeMap<Metric, f64> {
    let best = |score: fn(&str, &str) -> f64| metrics::best(&question.answers, |reference| score(answer, reference));
    let all = [
        (Metric::ExactMatch, best(squad::exact_match)),
        (Metric::F1, best(squad::f1)),
        (Metric::AnswerRecall, best(overlap::answer_recall)),
        (
            Metric::RougeL,
            best(|answer, reference| rouge::rouge_l(answer, reference, true).f1),
        ),
        (Metric::Numeric, within(question, answer).map(f64::from)),
    ];
    all.into_iter()
        .filter_map(|(metric, score)| Some((metric, score?)))
        .collect()
}

fn against_passages(answer: &str, evidence: &Evidence) -> BTreeMap<Metric, f64> {
    if evidence.passages.is_empty() {
        return BTreeMap::new();
    }
    let knowledge: Vec<&str> = evidence.passages.iter().map(|(text, _)| *text).collect();
    let gold: Vec<bool> = evidence.passages.iter().map(|(_, gold)| *gold).collect();
    let (precision, recall) = citation::citation_scores(answer, &gold);
    let all = [
        (
            Metric::KPrecision,
            Some(overlap::k_precision(answer, &knowledge.join("\n"))),
        ),
        (Metric::CitationPrecision, precision),
        (Metric::CitationRecall, recall),
    ];
    all.into_iter()
        .filter_map(|(metric, score)| Some((metric, score?)))
        .collect()
}

fn failed_stage(question: &Question, evidence: &Evidence) -> Stage {
    if question.stratum == Stratum::NotInCorpus {
        return Stage::NotAbstained;
    }
    let in_prompt = evidence.passages.iter().any(|(_, gold)| *gold);
    match (evidence.context, evidence.indexed) {
        (Context::Distractors, _) => Stage::NotAbstained,
        (Context::None, _) | (_, None) => Stage::Wrong,
        (_, Some(false)) => Stage::NotIndexed,
        _ if in_prompt => Stage::NotUsed,
        (Context::Retrieved, _) if !evidence.retrieved => Stage::NotRetrieved,
        _ => Stage::CutByBudget,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn question(extra: Value) -> Question {
        let mut line = json!({
            "id": "q", "question": "How long?", "answers": ["14 days"], "stratum": "unseen-in-corpus",
            "gold": [{"document": "a"}],
        });
        line.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value(line).unwrap()
    }

    fn failed(
        extra: Value,
        answer: &str,
        context: Context,
        passages: &[(&'static str, bool)],
        found: [bool; 2],
    ) -> Option<Stage> {
        let evidence = Evidence {
            context,
            passages: passages.to_vec(),
            indexed: Some(found[0]),
            retrieved: found[1],
        };
        let phrases = ["do not know".to_string()];
        score(&question(extra), answer, &evidence, &phrases).failed
    }

    #[test]
    fn a_percent_sign_is_as_right_as_the_word() {
        let right = |reference: &str, answer: &str| knows(&question(json!({"answers": [reference]})), answer);
        for answer in ["It costs 12%.", "It costs 12 %.", "It costs 12 per cent.", "12 percent"] {
            assert!(
                right("12 percent", answer) && right("12 %", answer) && right("12", answer),
                "{answer}"
            );
        }
        assert!(!right("12 percent", "12 dollars") && !right("12 percent", "112%"));
        assert!(right("12 %", "12"), "as before");
    }

    #[test]
    fn the_first_stage_that_failed_is_named() {
        let none = json!({});
        let gold = [("You have 14 days.", true)];
        let other = [("Six weeks.", false)];
        let retrieved = Context::Retrieved;
        assert_eq!(failed(none.clone(), "14 days", retrieved, &gold, [true, true]), None);
        assert_eq!(
            failed(none.clone(), "9 days", retrieved, &gold, [true, true]),
            Some(Stage::NotUsed)
        );
        assert_eq!(
            failed(none.clone(), "9 days", retrieved, &other, [true, true]),
            Some(Stage::CutByBudget)
        );
        assert_eq!(
            failed(none.clone(), "9 days", retrieved, &other, [true, false]),
            Some(Stage::NotRetrieved)
        );
        assert_eq!(
            failed(none.clone(), "9 days", retrieved, &other, [false, false]),
            Some(Stage::NotIndexed)
        );
        assert_eq!(
            failed(none.clone(), "9 days", Context::None, &[], [true, true]),
            Some(Stage::Wrong)
        );
        let distractors = Context::Distractors;
        assert_eq!(
            failed(none.clone(), "9 days", distractors, &other, [true, true]),
            Some(Stage::NotAbstained)
        );
        assert_eq!(
            failed(none.clone(), "I do not know", distractors, &other, [true, true]),
            None
        );
        let form = json!({"regex": "^In "});
        assert_eq!(
            failed(form.clone(), "14 days", retrieved, &gold, [true, true]),
            Some(Stage::WrongFormat)
        );
        assert_eq!(failed(form, "In 14 days", retrieved, &gold, [true, true]), None);
        let absent = json!({"stratum": "not-in-corpus", "gold": [], "answers": []});
        assert_eq!(
            failed(absent.clone(), "9 days", retrieved, &other, [true, true]),
            Some(Stage::NotAbstained)
        );
        assert_eq!(failed(absent, "I do not know.", retrieved, &other, [true, true]), None);
    }

    #[test]
    fn a_number_within_tolerance_is_right_however_written() {
        let number = json!({"answers": ["1,000 euros"], "tolerance": 0.01});
        assert_eq!(
            failed(number.clone(), "about 1005", Context::None, &[], [true, true]),
            None
        );
        assert_eq!(
            failed(number, "about 1020", Context::None, &[], [true, true]),
            Some(Stage::Wrong)
        );
    }

    #[test]
    fn metrics_apply_where_they_mean_something() {
        let evidence = Evidence {
            context: Context::None,
            passages: vec![],
            indexed: None,
            retrieved: false,
        };
        let scored = score(&question(json!({})), "14 days", &evidence, &[]);
        assert_eq!(scored.scores.get(&Metric::KPrecision), None);
        assert_eq!(scored.scores[&Metric::ExactMatch], 1.0);
        let absent = question(json!({"stratum": "not-in-corpus", "gold": []}));
        assert_eq!(score(&absent, "no", &evidence, &[]).scores.len(), 1);
    }
}
