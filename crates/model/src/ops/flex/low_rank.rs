//! An adapter's update added to the base's product: so few multiplications an element that `gemm` spends its time packing.
use super::matmul::View;
use super::unwritten;
use pulp::Simd;
use rayon::prelude::*;

/// Multiplications a task has at least.
const TASK: usize = 1 << 19;

/// `out = factor · u · b`, added to what `out` holds or not: `u` `[m, r]` narrow, `b` `[r, n]`, `out` `[m, n]`.
pub fn from_rank(out: &mut [f32], add: bool, u: &[f32], b: View<'_>, factor: f32) {
    let (r, n) = (b.rows, b.columns);
    let mut rows_of_b = unwritten(r * n);
    for j in 0..n {
        for i in 0..r {
            rows_of_b[i * n + j] = factor * b.get(i, j);
        }
    }
    let rows = (TASK / (r * n).max(1)).next_multiple_of(4);
    out.par_chunks_mut((rows * n).max(1))
        .zip(u.par_chunks((rows * r).max(1)))
        .for_each(|(out, u)| {
            pulp::Arch::new().dispatch(FromRank {
                out,
                add,
                u,
                b: &rows_of_b,
                r,
                n,
            })
        });
}

struct FromRank<'a> {
    out: &'a mut [f32],
    add: bool,
    u: &'a [f32],
    b: &'a [f32],
    r: usize,
    n: usize,
}

impl pulp::WithSimd for FromRank<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let rows = self.u.len() / self.r;
        let mut row = 0;
        while row + 4 <= rows {
            self.rows::<S, 4>(simd, row);
            row += 4;
        }
        for row in row..rows {
            self.rows::<S, 1>(simd, row);
        }
    }
}

impl FromRank<'_> {
    #[inline(always)]
    fn rows<S: Simd, const M: usize>(&mut self, simd: S, row: usize) {
        let (four, one) = (4 * S::F32_LANES, S::F32_LANES);
        let mut column = 0;
        while column + four <= self.n {
            self.columns::<S, M, 4>(simd, row, column);
            column += four;
        }
        while column + one <= self.n {
            self.columns::<S, M, 1>(simd, row, column);
            column += one;
        }
        for (row, column) in (row..row + M).flat_map(|row| (column..self.n).map(move |column| (row, column))) {
            let out = &mut self.out[row * self.n + column];
            let dot = (0..self.r).fold(0f32, |sum, q| {
                sum + self.u[row * self.r + q] * self.b[q * self.n + column]
            });
            *out = if self.add { *out } else { 0.0 } + dot;
        }
    }

    /// `M` rows of `N` registers.
    #[inline(always)]
    fn columns<S: Simd, const M: usize, const N: usize>(&mut self, simd: S, row: usize, column: usize) {
        let at = |row: usize| row * self.n + column..row * self.n + column + N * S::F32_LANES;
        let mut sums = [[simd.splat_f32s(0.0); N]; M];
        for q in 0..self.r {
            let b = S::as_simd_f32s(&self.b[at(q)]).0;
            for (i, sums) in sums.iter_mut().enumerate() {
                let u = simd.splat_f32s(self.u[(row + i) * self.r + q]);
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = simd.mul_add_f32s(u, *b, *sum);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            let out = S::as_mut_simd_f32s(&mut self.out[at(row + i)]).0;
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = if self.add { simd.add_f32s(*out, *sum) } else { *sum };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::flex::matmul::{matmul, parallel};
    use crate::ops::testing::random;

    fn values(seed: u64, n: usize) -> Vec<f32> {
        random::<1>(seed, [n]).into_data().iter::<f32>().collect()
    }

    #[test]
    fn equals_gemm_at_any_size() {
        for (m, r, n) in [(1, 1, 1), (7, 3, 5), (37, 16, 100), (70, 20, 41), (19, 33, 67)] {
            let (u, b) = (values(1, m * r), values(2, n * r));
            let b = View::new(&b, n, r).t();
            for (add, keep) in [(false, 0.0), (true, 1.0)] {
                let (mut out, mut wanted) = (vec![1.0; m * n], vec![1.0; m * n]);
                from_rank(&mut out, add, &u, b, 2.0);
                matmul(&mut wanted, n, keep, View::new(&u, m, r), b, 2.0, parallel());
                let near = out.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-5);
                assert!(near, "{m} {r} {n} {add}");
            }
        }
    }
}
