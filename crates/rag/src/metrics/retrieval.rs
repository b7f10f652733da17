//! Ranking metrics over binary relevance, in trec_eval's form (linear gain, log2 discount).
use crate::{Passage, question::Gold};
use serde::{Deserialize, Serialize};

/// Which ranks bring something new: `true` where a passage covers a gold span that none above it covers.
///
/// The item that is wanted is the span (or the whole document, where no span is given), so a label outlives a change of
/// chunk size, and a second chunk over the same span earns nothing.
pub fn relevance(ranking: &[Passage], gold: &[Gold]) -> Vec<bool> {
    let mut found = vec![false; gold.len()];
    let brings_new = |passage: &Passage| {
        let mut new = false;
        for (gold, found) in gold.iter().zip(&mut found) {
            if gold.covered_by(passage) {
                new |= !*found;
                *found = true;
            }
        }
        new
    };
    ranking.iter().map(brings_new).collect()
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct RankScores {
    /// 1 if anything relevant is among the first k.
    pub hit: f64,
    /// Relevant items among the first k, of all there are.
    pub recall: f64,
    /// Relevant ranks among the first k, of k.
    pub precision: f64,
    /// 1 / rank of the first relevant item, 0 if it is not among the first k (Voorhees 1999).
    pub mrr: f64,
    /// Järvelin & Kekäläinen 2002.
    pub ndcg: f64,
}

/// `relevant`: how many relevant items there are. All 0 where there are none.
pub fn rank_scores(relevance: &[bool], relevant: usize, k: usize) -> RankScores {
    if relevant == 0 || k == 0 {
        return RankScores::default();
    }
    let discount = |rank: usize| 1.0 / ((rank + 2) as f64).log2();
    let found: Vec<usize> = (0..relevance.len().min(k)).filter(|&rank| relevance[rank]).collect();
    let gain: f64 = found.iter().map(|&rank| discount(rank)).sum();
    let ideal: f64 = (0..relevant.min(k)).map(discount).sum();
    RankScores {
        hit: f64::from(!found.is_empty()),
        recall: found.len() as f64 / relevant as f64,
        precision: found.len() as f64 / k as f64,
        mrr: found.first().map_or(0.0, |&rank| 1.0 / (rank + 1) as f64),
        ndcg: gain / ideal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passage(document: &str, start: usize, end: usize) -> Passage {
        Passage {
            id: format!("{document}:{start}"),
            document: document.into(),
            start,
            end,
            title: String::new(),
            heading: String::new(),
            page: None,
            text: String::new(),
            score: 0.0,
        }
    }

    #[test]
    fn a_span_is_found_once() {
        let gold = [
            Gold {
                document: "a".into(),
                start: Some(10),
                end: Some(20),
            },
            Gold {
                document: "b".into(),
                start: None,
                end: None,
            },
        ];
        let ranking = [
            passage("a", 20, 40),
            passage("a", 0, 11),
            passage("a", 15, 30),
            passage("b", 0, 5),
        ];
        assert_eq!(relevance(&ranking, &gold), [false, true, false, true]);
    }
}
