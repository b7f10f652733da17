//! Citations `[n]` of numbered passages, and whether they point at the gold ones.
use regex::Regex;
use std::collections::BTreeSet;
use std::sync::LazyLock;

static CITATION: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]").ok());

/// Passage numbers in the answer, from 1, each once: of `[2]`, `[1][3]`, `[1, 3]`.
pub fn cited(answer: &str) -> BTreeSet<usize> {
    let Some(pattern) = &*CITATION else {
        return BTreeSet::new();
    };
    let groups = pattern.captures_iter(answer).filter_map(|found| found.get(1));
    groups
        .flat_map(|group| group.as_str().split(','))
        .filter_map(|number| number.trim().parse().ok())
        .collect()
}

/// `gold[i]` says whether passage `i + 1` of the prompt is gold. Precision is `None` without a citation, recall
/// without a gold passage in the prompt. A number that no passage has is a wrong citation.
pub fn citation_scores(answer: &str, gold: &[bool]) -> (Option<f64>, Option<f64>) {
    let cited = cited(answer);
    let right = cited
        .iter()
        .filter(|&&number| number > 0 && gold.get(number - 1) == Some(&true))
        .count() as f64;
    let wanted = gold.iter().filter(|&&gold| gold).count();
    let precision = (!cited.is_empty()).then(|| right / cited.len() as f64);
    let recall = (wanted > 0).then(|| right / wanted as f64);
    (precision, recall)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn citations_point_at_passages() {
        let gold = [true, false, true];
        assert_eq!(citation_scores("Six [1, 2][2].", &gold), (Some(0.5), Some(0.5)));
        assert_eq!(citation_scores("Six [9] [0].", &gold), (Some(0.0), Some(0.0)));
        assert_eq!(citation_scores("Six.", &gold), (None, Some(0.0)));
        assert_eq!(citation_scores("Six [2].", &[false, false]), (Some(0.0), None));
    }
}
