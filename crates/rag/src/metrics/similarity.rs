//! Closeness of texts by their embeddings. Both use the retriever's own embedder; neither is BERTScore.
use crate::{Embedder, TextKind};

/// Of two vectors of length 1.
pub fn cosine(one: &[f32], other: &[f32]) -> f64 {
    one.iter().zip(other).map(|(a, b)| f64::from(a * b)).sum()
}

/// Mean over the answer's sentences of the best cosine to a sentence of the context; `None` where either has none.
pub fn groundedness(answer: &[&[f32]], context: &[&[f32]]) -> Option<f64> {
    let closest = |sentence: &&[f32]| context.iter().map(|other| cosine(sentence, other)).reduce(f64::max);
    let best: Option<Vec<f64>> = answer.iter().map(closest).collect();
    let best = best.filter(|best| !best.is_empty())?;
    Some(best.iter().sum::<f64>() / best.len() as f64)
}

pub fn embed(embedder: &dyn Embedder, texts: &[&str]) -> anyhow::Result<Vec<Vec<f32>>> {
    embedder.embed(texts, TextKind::Passage)
}

/// Lines, cut after `.`, `!` or `?` before a space; those without a letter or digit are left out.
pub fn sentences(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut start = 0;
        let mut last = ' ';
        for (at, character) in line.char_indices() {
            if character.is_whitespace() && matches!(last, '.' | '!' | '?') {
                found.push(&line[start..at]);
                start = at;
            }
            last = character;
        }
        found.push(&line[start..]);
    }
    let trimmed = found.into_iter().map(str::trim);
    trimmed
        .filter(|sentence| sentence.chars().any(char::is_alphanumeric))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_cut_at_their_ends() {
        assert_eq!(
            sentences("One. Two 3.5 kg!  Three?\n---\nFour"),
            ["One.", "Two 3.5 kg!", "Three?", "Four"]
        );
    }

    #[test]
    fn groundedness_is_the_mean_of_the_best() {
        let context: [&[f32]; 2] = [&[1.0, 0.0], &[0.0, 1.0]];
        let answer: [&[f32]; 2] = [&[1.0, 0.0], &[0.6, 0.8]];
        assert!((groundedness(&answer, &context).unwrap() - 0.9).abs() < 1e-6);
        assert_eq!(groundedness(&answer, &[]), None);
        assert_eq!(groundedness(&[], &context), None);
    }
}
