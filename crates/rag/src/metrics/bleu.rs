//! Corpus BLEU (Papineni et al. 2002) with the `13a` tokenizer and exponential smoothing, as sacrebleu 2.6.0 (Post 2018).
use super::{common, counts};
use regex::Regex;
use std::collections::HashMap;
use std::sync::LazyLock;

const ORDER: usize = 4;

/// In the order they are applied; `mteval-v13a`'s part for Western languages.
static SPLITS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let rules = [
        (r"([\{-~\[-` -\&\(-\+:-@/])", " $1 "),
        (r"([^0-9])([\.,])", "$1 $2 "),
        (r"([\.,])([^0-9])", " $1 $2"),
        (r"([0-9])(-)", "$1 $2 "),
    ];
    rules
        .into_iter()
        .filter_map(|(pattern, by)| Some((Regex::new(pattern).ok()?, by)))
        .collect()
});

/// 0 to 100, over all pairs of an answer and its references.
pub fn bleu<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a [String])>) -> f64 {
    let mut sum = Matches::default();
    for (answer, references) in pairs {
        sum.add(answer, references);
    }
    sum.score()
}

/// As sacrebleu prints it for the same settings.
pub fn signature<'a>(references: impl IntoIterator<Item = &'a [String]>) -> String {
    format!(
        "nrefs:{}|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0",
        reference_count(references)
    )
}

pub(super) fn reference_count<'a>(references: impl IntoIterator<Item = &'a [String]>) -> String {
    let mut lengths = references.into_iter().map(<[String]>::len);
    match lengths.next() {
        Some(first) if lengths.all(|length| length == first) => first.to_string(),
        _ => "var".to_string(),
    }
}

#[derive(Default)]
struct Matches {
    answer_length: usize,
    reference_length: usize,
    correct: [usize; ORDER],
    total: [usize; ORDER],
}

impl Matches {
    fn add(&mut self, answer: &str, references: &[String]) {
        let answer = tokens(answer);
        let references: Vec<Vec<String>> = references.iter().map(|reference| tokens(reference)).collect();
        let lengths = references.iter().map(Vec::len);
        // The closest length, and of two equally close the shorter.
        self.reference_length += lengths.min_by_key(|n| (n.abs_diff(answer.len()), *n)).unwrap_or(0);
        self.answer_length += answer.len();
        for order in 1..=ORDER {
            let mut wanted: HashMap<&[String], usize> = HashMap::new();
            for reference in &references {
                for (gram, count) in counts(reference.windows(order)) {
                    let most = wanted.entry(gram).or_insert(0);
                    *most = count.max(*most);
                }
            }
            self.correct[order - 1] += common(&counts(answer.windows(order)), &wanted);
            self.total[order - 1] += (answer.len() + 1).saturating_sub(order);
        }
    }

    fn score(&self) -> f64 {
        if self.correct.iter().all(|&correct| correct == 0) || self.total.contains(&0) {
            return 0.0;
        }
        let mut smoothing = 1.0;
        let logs = self.correct.iter().zip(self.total).map(|(&correct, total)| {
            if correct == 0 {
                smoothing *= 2.0;
                (100.0 / (smoothing * total as f64)).ln()
            } else {
                (100.0 * correct as f64 / total as f64).ln()
            }
        });
        let mean = logs.sum::<f64>() / ORDER as f64;
        let (answer, reference) = (self.answer_length as f64, self.reference_length as f64);
        let brevity = if answer < reference {
            (1.0 - reference / answer).exp()
        } else {
            1.0
        };
        brevity * mean.exp()
    }
}

fn tokens(text: &str) -> Vec<String> {
    let mut line = text
        .trim_end()
        .replace("<skipped>", "")
        .replace("-\n", "")
        .replace('\n', " ");
    for (entity, character) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
        line = line.replace(entity, character);
    }
    let mut line = format!(" {line} ");
    for (pattern, by) in &*SPLITS {
        line = pattern.replace_all(&line, *by).into_owned();
    }
    line.split_whitespace().map(str::to_string).collect()
}
