//! Corpus chrF (Popović 2015): character n-grams up to 6, beta 2, as sacrebleu 2.6.0.
use super::{bleu::reference_count, common, counts};

const ORDER: usize = 6;
const BETA: f64 = 2.0;

/// 0 to 100, over all pairs of an answer and its references; of several references the one that fits best counts.
pub fn chrf<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a [String])>) -> f64 {
    let mut sum = Matches::default();
    for (answer, references) in pairs {
        let each = references.iter().map(|reference| Matches::of(answer, reference));
        // The first of equals: `max_by` would give the last.
        if let Some(best) = each.reduce(|best, next| if next.score() > best.score() { next } else { best }) {
            sum.add(&best);
        }
    }
    sum.score()
}

/// As sacrebleu prints it for the same settings.
pub fn signature<'a>(references: impl IntoIterator<Item = &'a [String]>) -> String {
    format!(
        "nrefs:{}|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0",
        reference_count(references)
    )
}

#[derive(Default)]
struct Matches {
    answer: [usize; ORDER],
    reference: [usize; ORDER],
    both: [usize; ORDER],
}

impl Matches {
    fn of(answer: &str, reference: &str) -> Self {
        let characters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<Vec<char>>();
        let (answer, reference) = (characters(answer), characters(reference));
        let mut matches = Self::default();
        for order in 1..=ORDER {
            let (mine, theirs) = (counts(answer.windows(order)), counts(reference.windows(order)));
            matches.reference[order - 1] = theirs.values().sum();
            // An order the reference is too short for does not count against the answer.
            matches.answer[order - 1] = if theirs.is_empty() { 0 } else { mine.values().sum() };
            matches.both[order - 1] = common(&mine, &theirs);
        }
        matches
    }

    fn add(&mut self, other: &Self) {
        for order in 0..ORDER {
            self.answer[order] += other.answer[order];
            self.reference[order] += other.reference[order];
            self.both[order] += other.both[order];
        }
    }

    /// Of mean precision and mean recall over the orders that both sides have.
    fn score(&self) -> f64 {
        let (mut precision, mut recall, mut orders) = (0.0, 0.0, 0.0);
        for order in 0..ORDER {
            if self.answer[order] > 0 && self.reference[order] > 0 {
                precision += self.both[order] as f64 / self.answer[order] as f64;
                recall += self.both[order] as f64 / self.reference[order] as f64;
                orders += 1.0;
            }
        }
        if precision + recall == 0.0 {
            return 0.0;
        }
        let (precision, recall) = (precision / orders, recall / orders);
        let weight = BETA * BETA;
        100.0 * (1.0 + weight) * precision * recall / (weight * precision + recall)
    }
}
