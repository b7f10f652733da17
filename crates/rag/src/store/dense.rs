//! Exact nearest neighbours: every vector is compared, by all cores.
use rayon::prelude::*;

/// Rows a core looks at before it takes the next ones.
const ROWS_AT_ONCE: usize = 2048;

/// `[rows, dimensions]`
pub(super) struct Matrix {
    pub dimensions: usize,
    pub values: Vec<f32>,
}

impl Matrix {
    /// Rows and their products with `query`, highest first, ties in the order of rows.
    pub fn nearest(&self, query: &[f32], k: usize, wanted: impl Fn(usize) -> bool + Sync) -> Vec<(usize, f32)> {
        let parts = self.values.par_chunks(ROWS_AT_ONCE * self.dimensions).enumerate();
        let best = parts.map(|(part, vectors)| {
            let rows = vectors.chunks_exact(self.dimensions).enumerate();
            let rows = rows.map(|(row, vector)| (part * ROWS_AT_ONCE + row, vector));
            let scored = rows
                .filter(|(row, _)| wanted(*row))
                .map(|(row, vector)| (row, dot(vector, query)));
            top(scored.collect(), k)
        });
        top(best.flatten().collect(), k)
    }
}

/// The `k` highest scores, ties in the order of rows.
pub(super) fn top(mut scored: Vec<(usize, f32)>, k: usize) -> Vec<(usize, f32)> {
    let order = |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if scored.len() > k && k > 0 {
        scored.select_nth_unstable_by(k - 1, order);
    }
    scored.truncate(k);
    scored.sort_by(order);
    scored
}

/// In sixteen sums, so that the compiler may use wide registers.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let mut sums = [0.0f32; 16];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..16 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_summed_whole() {
        let a: Vec<f32> = (0..37).map(|i| i as f32).collect();
        assert_eq!(dot(&a, &a), (0..37).map(|i| (i * i) as f32).sum::<f32>());
    }

    #[test]
    fn many_rows_are_searched_as_one() {
        let rows = 3 * ROWS_AT_ONCE + 5;
        let values: Vec<f32> = (0..rows).map(|row| (row * 7919 % rows) as f32).collect();
        let matrix = Matrix { dimensions: 1, values };
        let found = matrix.nearest(&[1.0], 3, |row| row != 0);
        let highest: Vec<f32> = found.iter().map(|(_, score)| *score).collect();
        assert_eq!(highest, [rows as f32 - 1.0, rows as f32 - 2.0, rows as f32 - 3.0]);
        let equal = Matrix {
            dimensions: 2,
            values: vec![0.5; 2 * rows],
        };
        let rows: Vec<usize> = equal
            .nearest(&[1.0, 1.0], 3, |_| true)
            .iter()
            .map(|(row, _)| *row)
            .collect();
        assert_eq!(rows, [0, 1, 2]);
    }
}
