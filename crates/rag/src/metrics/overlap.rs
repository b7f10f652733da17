//! Answer recall and K-precision (Adlakha et al. 2023), for answers longer than their references.
use super::{common, counts, squad::tokens};

/// Share of the reference's tokens that the answer has; 0 for a reference without tokens.
pub fn answer_recall(answer: &str, reference: &str) -> f64 {
    share_found(&tokens(reference), &tokens(answer))
}

/// Share of the answer's tokens that the knowledge has; 0 for an answer without tokens.
pub fn k_precision(answer: &str, knowledge: &str) -> f64 {
    share_found(&tokens(answer), &tokens(knowledge))
}

fn share_found(wanted: &[String], found: &[String]) -> f64 {
    if wanted.is_empty() {
        return 0.0;
    }
    common(&counts(wanted), &counts(found)) as f64 / wanted.len() as f64
}
