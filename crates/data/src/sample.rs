//! Tokens with a learn-mask of equal length, and the mask from spans of text.
use crate::Origin;
use std::ops::Range;

/// `learn[i]` says token `i` is a target: it is predicted from token `i-1` of the same sample.
/// `learn[0]` is always false.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub tokens: Vec<u32>,
    pub learn: Vec<bool>,
    pub origin: Origin,
}

impl Sample {
    /// `learn` is cut or filled up with false to the length of `tokens`; the first token is never a target.
    pub fn new(tokens: Vec<u32>, mut learn: Vec<bool>, origin: Origin) -> Self {
        learn.resize(tokens.len(), false);
        if let Some(first) = learn.first_mut() {
            *first = false;
        }
        Self { tokens, learn, origin }
    }

    pub fn learned(&self) -> usize {
        self.learn.iter().filter(|l| **l).count()
    }
}

/// Which tokens begin inside one of the spans. `starts`: first byte of each token; `spans`: byte ranges; both sorted.
///
/// A token that straddles the beginning of a span belongs to the text before it, and is not learned.
pub fn learn_mask(starts: impl Iterator<Item = usize>, spans: &[Range<usize>]) -> Vec<bool> {
    let mut next = 0;
    let learned = |start| {
        while next < spans.len() && spans[next].end <= start {
            next += 1;
        }
        spans.get(next).is_some_and(|span| span.contains(&start))
    };
    starts.map(learned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_learned_where_it_begins() {
        let starts = [0, 2, 5, 6, 9].into_iter();
        assert_eq!(learn_mask(starts, &[3..6, 9..20]), [false, false, true, false, true]);
    }

    #[test]
    fn the_first_token_is_never_a_target() {
        let origin = Origin {
            file: "a".into(),
            line: 1,
        };
        assert_eq!(Sample::new(vec![1, 2], vec![true, true], origin).learn, [false, true]);
    }
}
