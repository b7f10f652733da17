//! ROUGE-L (Lin 2004) as rouge-score 0.1.2 computes it.
use super::{harmonic_mean, porter::stem};

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RougeL {
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
}

/// `stemmed`: words of more than three characters by Porter's stemmer, in NLTK's form.
pub fn rouge_l(answer: &str, reference: &str, stemmed: bool) -> RougeL {
    let (answer, reference) = (tokens(answer, stemmed), tokens(reference, stemmed));
    if answer.is_empty() || reference.is_empty() {
        return RougeL {
            precision: 0.0,
            recall: 0.0,
            f1: 0.0,
        };
    }
    let common = longest_common_subsequence(&answer, &reference) as f64;
    let (precision, recall) = (common / answer.len() as f64, common / reference.len() as f64);
    RougeL {
        precision,
        recall,
        f1: harmonic_mean(precision, recall),
    }
}

fn tokens(text: &str, stemmed: bool) -> Vec<String> {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit()));
    let words = words.filter(|word| !word.is_empty());
    words
        .map(|word| {
            if stemmed && word.len() > 3 {
                stem(word)
            } else {
                word.to_string()
            }
        })
        .collect()
}

fn longest_common_subsequence(one: &[String], other: &[String]) -> usize {
    let mut above = vec![0; other.len() + 1];
    for a in one {
        let mut diagonal = 0;
        for (j, b) in other.iter().enumerate() {
            let here = if a == b {
                diagonal + 1
            } else {
                above[j].max(above[j + 1])
            };
            diagonal = above[j + 1];
            above[j + 1] = here;
        }
    }
    above[other.len()]
}
