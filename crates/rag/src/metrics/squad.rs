//! Exact match and token F1 of SQuAD (Rajpurkar et al. 2016), as torchmetrics' `functional.text.squad`.
use super::{common, counts, harmonic_mean};
use regex::Regex;
use std::sync::LazyLock;

static ARTICLES: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\b(a|an|the)\b").ok());

/// Lower case, no ASCII punctuation, no articles, one space between words.
pub fn normalize(text: &str) -> String {
    tokens(text).join(" ")
}

pub fn tokens(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let bare: String = lower.chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let bare = match &*ARTICLES {
        Some(articles) => articles.replace_all(&bare, " ").into_owned(),
        None => bare,
    };
    bare.split_whitespace().map(str::to_string).collect()
}

pub fn exact_match(answer: &str, reference: &str) -> f64 {
    f64::from(normalize(answer) == normalize(reference))
}

pub fn f1(answer: &str, reference: &str) -> f64 {
    let (answer, reference) = (tokens(answer), tokens(reference));
    if answer.is_empty() || reference.is_empty() {
        return f64::from(answer == reference);
    }
    let same = common(&counts(&answer), &counts(&reference)) as f64;
    harmonic_mean(same / answer.len() as f64, same / reference.len() as f64)
}

/// Whether the reference's normalised tokens stand in the answer, in order and side by side.
pub fn contains(answer: &str, reference: &str) -> bool {
    let (answer, reference) = (tokens(answer), tokens(reference));
    !reference.is_empty() && answer.windows(reference.len()).any(|window| window == reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_found_whole_or_not() {
        assert!(contains("You have 14 days, from delivery.", "14 days"));
        assert!(!contains("You have 314 days.", "14 days"));
        assert!(!contains("14 working days", "14 days"));
        assert!(!contains("anything", "the"));
    }
}
