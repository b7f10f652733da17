//! BM25 over postings in memory: FTS5's own ranking reads every row that has any word of a question, half a second at
//! 1e5 chunks.
use super::dense::top;
use rayon::prelude::*;

/// Robertson's constants as FTS5 and Lucene have them.
pub(super) const K1: f32 = 1.2;
pub(super) const B: f32 = 0.75;

/// Terms of one text by their ids, each with how often it occurs, in the order of ids.
pub(super) type Bag = Vec<(u32, u32)>;

/// Eight bytes a posting, sorted: term's id, chunk, count. The postings of a term stand together.
pub(super) struct Postings {
    sorted: Vec<u64>,
    /// `k1·(1 - b + b·words / average)` of each chunk.
    lengths: Vec<f32>,
}

const CHUNK_BITS: u32 = 24;
const COUNT_BITS: u32 = 8;
/// What a posting has room for; what an index has beyond is not found by its words.
const MAX_CHUNKS: usize = 1 << CHUNK_BITS;

impl Postings {
    /// `bags[i]` as [`packed`] are those of chunk `i`.
    pub fn new<'b>(bags: impl Iterator<Item = &'b [u8]>) -> Self {
        let (mut sorted, mut words) = (Vec::new(), Vec::new());
        for (chunk, bag) in bags.take(MAX_CHUNKS).enumerate() {
            let mut total = 0;
            for entry in bag.as_chunks::<5>().0 {
                let [a, b, c, d, count] = *entry;
                let term = u64::from(u32::from_le_bytes([a, b, c, d]));
                sorted.push(term << 32 | (chunk as u64) << COUNT_BITS | u64::from(count));
                total += u32::from(count);
            }
            words.push(total as f32);
        }
        sorted.par_sort_unstable();
        let average = words.iter().sum::<f32>() / words.len().max(1) as f32;
        let lengths = words
            .iter()
            .map(|words| K1 * (1.0 - B + B * words / average.max(1.0)))
            .collect();
        Self { sorted, lengths }
    }

    /// Chunks with any of the terms and their scores, as Lucene has them: the sum of
    /// `rarity·count / (count + length)`, best first, ties in the order of chunks.
    pub fn best(&self, terms: &[u32], k: usize, wanted: impl Fn(usize) -> bool) -> Vec<(usize, f32)> {
        let mut scores = vec![0.0f32; self.lengths.len()];
        for postings in terms.iter().map(|term| self.postings(*term)) {
            let rarity = rarity(self.lengths.len(), postings.len());
            for posting in postings {
                let chunk = (posting >> COUNT_BITS) as usize % MAX_CHUNKS;
                let count = (posting & 0xFF) as f32;
                scores[chunk] += rarity * count / (count + self.lengths[chunk]);
            }
        }
        let found = scores
            .into_iter()
            .enumerate()
            .filter(|(chunk, score)| *score > 0.0 && wanted(*chunk));
        top(found.collect(), k)
    }

    fn postings(&self, term: u32) -> &[u64] {
        let begin = self.sorted.partition_point(|posting| posting >> 32 < u64::from(term));
        let rest = &self.sorted[begin..];
        &rest[..rest.partition_point(|posting| posting >> 32 == u64::from(term))]
    }
}

/// Lucene's, which is never negative: `ln(1 + (chunks - with + ½) / (with + ½))`.
fn rarity(chunks: usize, with: usize) -> f32 {
    let (chunks, with) = (chunks as f32, with as f32);
    (1.0 + (chunks - with + 0.5) / (with + 0.5)).ln()
}

/// Five bytes a term; a count of more than 255 is as good as 255.
pub(super) fn packed(bag: &Bag) -> Vec<u8> {
    let entry = |(term, count): &(u32, u32)| {
        let [a, b, c, d] = term.to_le_bytes();
        [a, b, c, d, (*count).min(255) as u8]
    };
    bag.iter().flat_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// bm25s 0.3.16, method "lucene", k1 1.2, b 0.75, on ["a b b", "b c", "c c c d"] asked for "b d".
    #[test]
    fn scores_are_those_of_bm25s() {
        let bags: [Bag; 3] = [vec![(1, 1), (2, 2)], vec![(2, 1), (3, 1)], vec![(3, 3), (4, 1)]];
        let packed: Vec<Vec<u8>> = bags.iter().map(packed).collect();
        let postings = Postings::new(packed.iter().map(Vec::as_slice));
        let found = postings.best(&[2, 4, 9], 3, |_| true);
        let wanted = [(2, 0.392_332), (0, 0.293_752), (1, 0.247_370)];
        assert_eq!(found.len(), 3);
        for ((chunk, score), (wanted_chunk, wanted_score)) in found.iter().zip(wanted) {
            assert_eq!(*chunk, wanted_chunk);
            assert!((score - wanted_score).abs() < 1e-5, "{score} for {wanted_score}");
        }
        assert_eq!(postings.best(&[2], 3, |chunk| chunk != 0)[0].0, 1);
        assert!(postings.best(&[9], 3, |_| true).is_empty());
    }
}
