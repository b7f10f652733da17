//! Rows to one flat batch: no padding anywhere, segments by cumulative lengths.
use crate::*;

/// ```text
/// segment   0  0  0  0  0  1  1  2  2  2        starts = [0, 5, 7, 10]
/// position  0  1  2  3  4  0  1  0  1  2
/// learn     -  -  -  x  x  -  x  -  -  x
/// token     Q  :  ?  A  <e Q  A  Q  :  A
/// ```
/// `tokens`, `positions`, `learn` have equal length N; `starts` has one entry a segment plus N.
/// At least one token is learned.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    pub tokens: Vec<u32>,
    pub positions: Vec<u32>,
    pub learn: Vec<bool>,
    pub starts: Vec<usize>,
    /// Where each segment came from.
    pub origins: Vec<Origin>,
}

/// Width of the picture before it wraps.
const WIDTH: usize = 100;

impl Batch {
    /// Errors where no token would be learned.
    pub fn new(rows: &[&Row], samples: &[Sample]) -> Result<Self> {
        let mut batch = Self {
            tokens: vec![],
            positions: vec![],
            learn: vec![],
            starts: vec![0],
            origins: vec![],
        };
        for piece in rows.iter().flat_map(|row| &row.pieces) {
            let sample = &samples[piece.sample];
            batch.tokens.extend(&sample.tokens[piece.start..piece.end]);
            batch.positions.extend(0..piece.len() as u32);
            batch.learn.extend(&sample.learn[piece.start..piece.end]);
            if let Some(&start) = batch.starts.last().filter(|_| !piece.is_empty()) {
                batch.learn[start] = false;
            }
            batch.starts.push(batch.tokens.len());
            batch.origins.push(sample.origin.clone());
        }
        if batch.learned() == 0 {
            let total = batch.origins.len();
            return Err(DataError::NothingLearned {
                origins: batch.origins,
                total,
            });
        }
        Ok(batch)
    }

    pub fn learned(&self) -> usize {
        self.learn.iter().filter(|l| **l).count()
    }

    /// Both halves with the index of their first token, cut between segments as near the middle as can be; one segment is not
    /// cut. A half may have no learned token.
    pub fn halves(&self) -> Vec<(usize, Self)> {
        let (tokens, segments) = (self.tokens.len(), self.starts.len() - 1);
        let cut = (1..segments).min_by_key(|segment| (2 * self.starts[*segment]).abs_diff(tokens));
        let parts = match cut {
            None => std::iter::once(0..segments).collect(),
            Some(cut) => vec![0..cut, cut..segments],
        };
        let part = |segments: std::ops::Range<usize>| {
            let (start, end) = (self.starts[segments.start], self.starts[segments.end]);
            let half = Self {
                tokens: self.tokens[start..end].to_vec(),
                positions: self.positions[start..end].to_vec(),
                learn: self.learn[start..end].to_vec(),
                starts: self.starts[segments.start..=segments.end]
                    .iter()
                    .map(|at| at - start)
                    .collect(),
                origins: self.origins[segments].to_vec(),
            };
            (start, half)
        };
        parts.into_iter().map(part).collect()
    }

    /// The picture above, with token texts by `decode`.
    pub fn picture(&self, decode: &dyn Fn(u32) -> String) -> String {
        let columns = self.starts.windows(2).enumerate().flat_map(|(segment, ends)| {
            (ends[0]..ends[1]).map(move |i| {
                let learn = if self.learn[i] { "x" } else { "-" };
                [
                    segment.to_string(),
                    self.positions[i].to_string(),
                    learn.into(),
                    visible(&decode(self.tokens[i])),
                ]
            })
        });
        let mut out = String::new();
        let mut lines = new_lines();
        for column in columns {
            let width = column.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
            if lines[0].chars().count() + width + 1 > WIDTH {
                finish(&mut out, &std::mem::replace(&mut lines, new_lines()));
                out.push('\n');
            }
            for (line, cell) in lines.iter_mut().zip(&column) {
                line.push_str(&format!(" {cell:<width$}"));
            }
        }
        finish(&mut out, &lines);
        out
    }
}

fn new_lines() -> [String; 4] {
    ["segment ", "position", "learn   ", "token   "].map(String::from)
}

fn finish(out: &mut String, lines: &[String]) {
    for line in lines {
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

/// Blank space made visible, as it would tear the columns.
fn visible(token: &str) -> String {
    token.replace('\n', "⏎").replace('\t', "⇥").replace(' ', "·")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::Piece;

    fn sample(text: &str, learn: &str) -> Sample {
        let tokens = text.chars().map(u32::from).collect();
        Sample::new(
            tokens,
            learn.chars().map(|c| c == 'x').collect(),
            Origin {
                file: "f".into(),
                line: 1,
            },
        )
    }

    fn row(pieces: &[(usize, usize, usize)]) -> Row {
        Row {
            pieces: pieces
                .iter()
                .map(|&(sample, start, end)| Piece { sample, start, end })
                .collect(),
        }
    }

    #[test]
    fn picture() {
        let samples = [sample("Q:?A\n", "---xx"), sample("QA", "-x"), sample("Q: AB", "---xx")];
        let rows = [row(&[(0, 0, 5), (1, 0, 2)]), row(&[(2, 1, 5)])];
        let batch = Batch::new(&rows.iter().collect::<Vec<_>>(), &samples).unwrap();
        assert_eq!(batch.starts, [0, 5, 7, 11]);
        let text = |token| char::from_u32(token).map(String::from).unwrap_or_default();
        insta::assert_snapshot!(batch.picture(&text), @r"
        segment  0 0 0 0 0 1 1 2 2 2 2
        position 0 1 2 3 4 0 1 0 1 2 3
        learn    - - - x x - x - - x x
        token    Q : ? A ⏎ Q A : · A B
        ");
    }

    #[test]
    fn halves_are_cut_between_segments() {
        let samples = [sample("abc", "-xx"), sample("de", "-x"), sample("fghi", "--xx")];
        let batch = Batch::new(&[&row(&[(0, 0, 3), (1, 0, 2), (2, 0, 4)])], &samples).unwrap();
        let [(0, first), (5, second)] = &batch.halves()[..] else {
            panic!("{:?}", batch.halves());
        };
        assert_eq!(first.starts, [0, 3, 5]);
        assert_eq!((second.starts.as_slice(), second.origins.len()), (&[0, 4][..], 1));
        assert_eq!([first.tokens.clone(), second.tokens.clone()].concat(), batch.tokens);
        assert_eq!(first.learned() + second.learned(), batch.learned());
        assert_eq!(second.halves(), [(0, second.clone())]);
    }

    #[test]
    fn the_first_token_of_a_piece_is_no_target() {
        let samples = [sample("abcd", "-xxx")];
        let batch = Batch::new(&[&row(&[(0, 2, 4)])], &samples).unwrap();
        assert_eq!(batch.learn, [false, true]);
        assert!(matches!(
            Batch::new(&[&row(&[(0, 3, 4)])], &samples),
            Err(DataError::NothingLearned { .. })
        ));
    }
}
