//! Samples to rows of at most `max_length` tokens: best fit, block-diagonal. The length policy lives here.
use crate::*;
use std::collections::BTreeSet;

/// One packed row: pieces of samples, each its own attention segment with positions from 0.
///
/// ```text
/// samples    0: aaaaa   1: bb   2: ccc   3: dddd        max_length = 8
/// row 0      a a a a a c c c
/// row 1      d d d d b b
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub pieces: Vec<Piece>,
}

/// Tokens `start..end` of sample `sample`. The first one is context alone, never a target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Piece {
    pub sample: usize,
    pub start: usize,
    pub end: usize,
}

impl Piece {
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Targets in this piece.
    pub fn learned(&self, samples: &[Sample]) -> usize {
        let mask = samples[self.sample]
            .learn
            .get(self.start + 1..self.end)
            .unwrap_or_default();
        mask.iter().filter(|l| **l).count()
    }
}

impl Row {
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Piece::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}

/// Rows and what the length policy did to get them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Packed {
    pub rows: Vec<Row>,
    /// Samples of which only the beginning is left.
    pub cut: usize,
    /// Samples that became several pieces.
    pub split: usize,
    /// Samples of which nothing is left: too long, or nothing to learn in what would be left.
    pub dropped: usize,
    /// Tokens of samples that are in no row.
    pub tokens_lost: usize,
}

/// Packs by best-fit decreasing: pieces by falling length, each into the fullest row that has room.
/// O(n log n); equal input gives equal rows. `packing = false`: one piece a row, in the samples' order.
///
/// A split sample's pieces overlap by one token: the last target of one piece is the context of the next, so no
/// target is lost.
pub fn pack(samples: &[Sample], max_length: usize, packing: bool, too_long: TooLong) -> Result<Packed> {
    if max_length < 2 {
        let problem = format!("max_length = {max_length}; wanted at least 2, one token of context and one to learn");
        return Err(DataError::Spec {
            problem,
            hint: "set data.max_length = 1024",
        });
    }
    if too_long == TooLong::Refuse {
        refuse(samples, max_length)?;
    }
    let mut packed = Packed::default();
    let pieces: Vec<Piece> = (0..samples.len())
        .flat_map(|i| packed.pieces(samples, i, max_length, too_long))
        .collect();
    packed.rows = match packing {
        true => best_fit(pieces, max_length),
        false => pieces.into_iter().map(|piece| Row { pieces: vec![piece] }).collect(),
    };
    if packed.rows.is_empty() {
        let problem = match packed.dropped {
            0 => "there are no samples".to_owned(),
            n => format!("all {n} samples were dropped at max_length = {max_length}"),
        };
        let hint = "raise data.max_length, or set data.too_long = \"split\"";
        return Err(DataError::NothingLeft { problem, hint });
    }
    Ok(packed)
}

fn refuse(samples: &[Sample], max_length: usize) -> Result<()> {
    let long: Vec<_> = samples.iter().filter(|s| s.tokens.len() > max_length).collect();
    let Some(longest) = long.iter().map(|s| s.tokens.len()).max() else {
        return Ok(());
    };
    let samples = long
        .iter()
        .map(|s| format!("{}: {} tokens", s.origin, s.tokens.len()))
        .collect();
    Err(DataError::TooLong {
        samples,
        max_length,
        longest,
    })
}

impl Packed {
    /// The pieces of sample `i` that are kept; what is not is counted.
    fn pieces(&mut self, samples: &[Sample], i: usize, max_length: usize, too_long: TooLong) -> Vec<Piece> {
        let length = samples[i].tokens.len();
        let mut pieces = match too_long {
            _ if length <= max_length => vec![Piece {
                sample: i,
                start: 0,
                end: length,
            }],
            TooLong::Cut => vec![Piece {
                sample: i,
                start: 0,
                end: max_length,
            }],
            TooLong::Split => split(i, length, max_length),
            TooLong::Drop | TooLong::Refuse => Vec::new(),
        };
        pieces.retain(|piece| piece.learned(samples) > 0);
        match too_long {
            _ if pieces.is_empty() => self.dropped += 1,
            TooLong::Cut if length > max_length => self.cut += 1,
            TooLong::Split if length > max_length => self.split += 1,
            _ => {}
        }
        self.tokens_lost += length - covered(&pieces);
        pieces
    }
}

fn split(sample: usize, length: usize, max_length: usize) -> Vec<Piece> {
    let starts = (0..length - 1).step_by(max_length - 1);
    starts
        .map(|start| Piece {
            sample,
            start,
            end: (start + max_length).min(length),
        })
        .collect()
}

/// Distinct tokens in pieces of one sample, in order.
fn covered(pieces: &[Piece]) -> usize {
    let mut end = 0;
    pieces.iter().fold(0, |sum, piece| {
        let new = piece.end - piece.start.max(end);
        end = piece.end;
        sum + new
    })
}

fn best_fit(mut pieces: Vec<Piece>, max_length: usize) -> Vec<Row> {
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.len()));
    let mut rows: Vec<Row> = Vec::new();
    let mut room: BTreeSet<(usize, usize)> = BTreeSet::new();
    for piece in pieces {
        let fullest = room.range((piece.len(), 0)..).next().copied();
        let (left, row) = match fullest {
            Some(entry) => {
                room.remove(&entry);
                entry
            }
            None => {
                rows.push(Row { pieces: Vec::new() });
                (max_length, rows.len() - 1)
            }
        };
        rows[row].pieces.push(piece);
        room.insert((left - piece.len(), row));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(learn: Vec<bool>) -> Sample {
        let tokens = (0..learn.len() as u32).collect();
        Sample::new(
            tokens,
            learn,
            Origin {
                file: "f".into(),
                line: 1,
            },
        )
    }

    fn learned(lengths: &[usize]) -> Vec<Sample> {
        lengths.iter().map(|n| sample(vec![true; *n])).collect()
    }

    fn pieces(packed: &Packed) -> Vec<Vec<(usize, usize, usize)>> {
        let row = |row: &Row| row.pieces.iter().map(|p| (p.sample, p.start, p.end)).collect();
        packed.rows.iter().map(row).collect()
    }

    #[test]
    fn the_picture() {
        let packed = pack(&learned(&[5, 2, 3, 4]), 8, true, TooLong::Refuse).unwrap();
        assert_eq!(
            pieces(&packed),
            [vec![(0, 0, 5), (2, 0, 3)], vec![(3, 0, 4), (1, 0, 2)]]
        );
    }

    #[test]
    fn each_policy_counts_what_it_does() {
        let samples = learned(&[10, 3]);
        let cut = pack(&samples, 4, true, TooLong::Cut).unwrap();
        assert_eq!(
            (cut.cut, cut.tokens_lost, pieces(&cut)),
            (1, 6, vec![vec![(0, 0, 4)], vec![(1, 0, 3)]])
        );
        let split = pack(&samples, 4, true, TooLong::Split).unwrap();
        assert_eq!((split.split, split.tokens_lost), (1, 0));
        assert_eq!(
            pieces(&split)[..3],
            [vec![(0, 0, 4)], vec![(0, 3, 7)], vec![(0, 6, 10)]]
        );
        let drop = pack(&samples, 4, true, TooLong::Drop).unwrap();
        assert_eq!((drop.dropped, drop.tokens_lost), (1, 10));
        let refused = pack(&samples, 4, true, TooLong::Refuse).unwrap_err();
        insta::assert_snapshot!(format!("{refused}\n\nhint: {}", refused.hint().unwrap()), @r#"
        longer than max_length = 4 tokens: 1 of the samples, the longest 10
          f:1: 10 tokens

        hint: set data.max_length = 10, or data.too_long = "cut", "split" or "drop"
        "#);
    }

    #[test]
    fn a_cut_that_leaves_nothing_to_learn_is_a_drop() {
        let prompt_fills_it = sample(vec![false, false, false, false, true]);
        let packed = pack(&[prompt_fills_it, sample(vec![true; 3])], 4, true, TooLong::Cut).unwrap();
        assert_eq!((packed.cut, packed.dropped, packed.tokens_lost), (0, 1, 5));
    }

    #[test]
    fn nothing_left_is_an_error() {
        assert!(matches!(
            pack(&learned(&[9]), 4, true, TooLong::Drop),
            Err(DataError::NothingLeft { .. })
        ));
    }

    proptest! {
        #[test]
        fn no_token_is_lost_unless_counted(
            masks in prop::collection::vec(prop::collection::vec(any::<bool>(), 1..40), 1..40),
            max_length in 2usize..30,
            packing: bool,
            policy in prop::sample::select(vec![TooLong::Cut, TooLong::Split, TooLong::Drop]),
        ) {
            let samples: Vec<_> = masks.into_iter().map(sample).collect();
            let Ok(packed) = pack(&samples, max_length, packing, policy) else { return Ok(()) };
            let mut present: Vec<_> = samples.iter().map(|s| vec![false; s.tokens.len()]).collect();
            let mut targets = 0;
            for row in &packed.rows {
                prop_assert!(row.len() <= max_length);
                for piece in &row.pieces {
                    prop_assert!(piece.learned(&samples) > 0);
                    targets += piece.learned(&samples);
                    present[piece.sample][piece.start..piece.end].fill(true);
                }
            }
            let lost = present.iter().flatten().filter(|p| !**p).count();
            prop_assert_eq!(lost, packed.tokens_lost);
            let all: usize = samples.iter().map(Sample::learned).sum();
            if policy == TooLong::Split {
                prop_assert_eq!(targets, all);
            }
            prop_assert!(targets <= all);
        }

        #[test]
        fn few_rows_are_half_empty(lengths in prop::collection::vec(1usize..64, 1..200)) {
            let samples = learned(&lengths.iter().map(|n| n + 1).collect::<Vec<_>>());
            let packed = pack(&samples, 64, true, TooLong::Drop).unwrap();
            let half_empty = packed.rows.iter().filter(|row| row.len() < 32).count();
            prop_assert!(half_empty <= 1, "{half_empty} rows less than half full");
        }
    }
}
