//! Our numbers against those of other programs, to 1e-6 (`scripts/make_metric_goldens.py`).
use serde_json::Value;
use tune_rag::metrics::{bleu, chrf, format, overlap, retrieval::rank_scores, rouge, squad};
use tune_rag::stats;

fn golden(name: &str) -> Value {
    let path = format!("{}/../../tests/goldens/metrics/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&fs_err::read_to_string(path).unwrap()).unwrap()
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn texts(value: &Value) -> Vec<String> {
    list(value).iter().map(|item| text(item).to_string()).collect()
}

#[track_caller]
fn close(found: f64, wanted: &Value, what: &str) {
    let wanted = number(wanted);
    assert!(
        (found - wanted).abs() <= 1e-6 * wanted.abs().max(1.0),
        "{what}: {found}, wanted {wanted}"
    );
}

#[test]
fn answers_are_scored_as_by_torchmetrics_and_rouge_score() {
    for case in list(&golden("answers")) {
        let answer = text(&case["answer"]);
        let references = texts(&case["references"]);
        let best = |score: fn(&str, &str) -> f64| {
            references
                .iter()
                .map(|reference| score(answer, reference))
                .reduce(f64::max)
                .unwrap()
        };
        close(best(squad::exact_match), &case["exact_match"], answer);
        close(best(squad::f1), &case["f1"], answer);
        close(best(overlap::answer_recall), &case["answer_recall"], answer);
        close(best(overlap::k_precision), &case["k_precision"], answer);
        for (stemmed, key) in [(false, "rouge_l"), (true, "rouge_l_stemmed")] {
            for (reference, wanted) in references.iter().zip(list(&case[key])) {
                let found = rouge::rouge_l(answer, reference, stemmed);
                close(found.precision, &wanted[0], answer);
                close(found.recall, &wanted[1], answer);
                close(found.f1, &wanted[2], answer);
            }
        }
    }
}

#[test]
fn corpora_are_scored_as_by_sacrebleu() {
    let answers = golden("answers");
    for case in list(&golden("corpora")) {
        let rows = list(&case["rows"])
            .iter()
            .map(|row| &answers[row.as_u64().unwrap() as usize]);
        let pairs: Vec<(String, Vec<String>)> = rows
            .map(|row| (text(&row["answer"]).to_string(), texts(&row["references"])))
            .collect();
        let each = || {
            pairs
                .iter()
                .map(|(answer, references)| (answer.as_str(), references.as_slice()))
        };
        let references = || pairs.iter().map(|(_, references)| references.as_slice());
        close(bleu::bleu(each()), &case["bleu"], "BLEU");
        close(chrf::chrf(each()), &case["chrf"], "chrF");
        assert_eq!(bleu::signature(references()), text(&case["bleu_signature"]));
        assert_eq!(chrf::signature(references()), text(&case["chrf_signature"]));
    }
}

#[test]
fn rankings_are_scored_as_by_trec_eval() {
    for case in list(&golden("rankings")) {
        let relevance: Vec<bool> = list(&case["relevance"])
            .iter()
            .map(|hit| hit.as_bool().unwrap())
            .collect();
        let whole = |key: &str| case[key].as_u64().unwrap() as usize;
        let found = rank_scores(&relevance, whole("relevant"), whole("k"));
        close(found.hit, &case["hit"], "hit");
        close(found.recall, &case["recall"], "recall");
        close(found.precision, &case["precision"], "precision");
        close(found.mrr, &case["mrr"], "mrr");
        close(found.ndcg, &case["ndcg"], "ndcg");
    }
}

#[test]
fn schemas_hold_as_by_jsonschema() {
    for case in list(&golden("schemas")) {
        assert_eq!(format::schema_problems(&case["schema"]), Vec::<String>::new());
        for value in list(&case["values"]) {
            assert_eq!(
                format::adheres(&value[0], &case["schema"]),
                value[1].as_bool().unwrap(),
                "{value} {}",
                case["schema"]
            );
        }
    }
}

#[test]
fn statistics_are_those_of_scipy_and_statsmodels() {
    let golden = golden("statistics");
    for case in list(&golden["mcnemar"]) {
        let count = |i: usize| case[i].as_u64().unwrap() as usize;
        close(stats::mcnemar(count(0), count(1)), &case[2], "McNemar");
    }
    let p: Vec<f64> = list(&golden["holm"]["p"]).iter().map(number).collect();
    for (found, wanted) in stats::holm(&p).into_iter().zip(list(&golden["holm"]["adjusted"])) {
        close(found, wanted, "Holm");
    }
    for case in list(&golden["percentile"]) {
        close(
            stats::percentile(&[1.0, 2.0, 4.0, 8.0, 16.0], number(&case[0])),
            &case[1],
            "percentile",
        );
    }
    for case in list(&golden["bootstrap"]) {
        let names: Vec<String> = (0..list(&case["values"]).len()).map(|i| i.to_string()).collect();
        let values: Vec<f64> = list(&case["values"]).iter().map(number).collect();
        let values: Vec<(&str, f64)> = names.iter().map(String::as_str).zip(values).collect();
        let found = stats::bootstrap(&values, stats::RESAMPLES, 1).unwrap();
        // Random on both sides: a few hundredths of the standard error at 10,000 resamples.
        let error = number(&case["error"]);
        for (found, wanted) in [
            (found.low, &case["low"]),
            (found.high, &case["high"]),
            (found.error, &case["error"]),
        ] {
            assert!(
                (found - number(wanted)).abs() < 0.08 * error,
                "{found} {wanted} {error}"
            );
        }
        assert!((found.smallest_difference() / found.error - number(&golden["power"])).abs() < 1e-9);
    }
}
