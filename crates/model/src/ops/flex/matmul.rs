//! Strided f32 matrix products on slices, by the `gemm` crate.
use gemm::Parallelism;
use rayon::prelude::*;
use std::ops::Range;

/// `rows x columns` elements of `data`, element (i, j) at `i * row_stride + j * column_stride`.
#[derive(Clone, Copy)]
pub struct View<'a> {
    data: &'a [f32],
    pub rows: usize,
    pub columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> View<'a> {
    /// A row-major matrix.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }
    /// A row-major matrix whose rows start `row_stride` apart (one head of `[tokens, heads * dim]`).
    pub fn strided(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(rows == 0 || columns == 0 || (rows - 1) * row_stride + columns <= data.len());
        Self {
            data,
            rows,
            columns,
            row_stride,
            column_stride: 1,
        }
    }
    pub fn get(&self, i: usize, j: usize) -> f32 {
        self.data[i * self.row_stride + j * self.column_stride]
    }
    pub fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// Rows up to which a product with a transposed weight is bound by reading the weight, and packing it first, as `gemm`
/// does, costs more than the product.
pub const FEW_ROWS: usize = 16;

/// `out = keep * out + factor * x · weightᵀ` on all cores, all three row-major and contiguous: `x` `[n, inputs]`, `weight`
/// `[outputs, inputs]`, `out` `[n, outputs]`.
pub fn times_transposed(out: &mut [f32], keep: f32, x: &[f32], weight: &[f32], inputs: usize, factor: f32) {
    let (n, outputs) = (x.len() / inputs, weight.len() / inputs);
    if n > FEW_ROWS {
        let (x, w) = (View::new(x, n, inputs), View::new(weight, outputs, inputs));
        return matmul(out, outputs, keep, x, w.t(), factor, parallel());
    }
    few_rows(out, keep, x, inputs, factor, |rows, products| {
        products.with(&weight[rows.start * inputs..rows.end * inputs]);
    });
}

/// The same, of up to [`FEW_ROWS`] rows of `x`, with a weight that `give` gives some rows of at a time, in their order.
pub fn few_rows(
    out: &mut [f32],
    keep: f32,
    x: &[f32],
    inputs: usize,
    factor: f32,
    give: impl Fn(Range<usize>, &mut Products<'_>) + Sync,
) {
    let n = x.len() / inputs;
    let outputs = out.len().checked_div(n).unwrap_or(0);
    let step = (32_768 / inputs.max(1)).max(1);
    let columns: Vec<Vec<f32>> = (0..outputs.div_ceil(step))
        .into_par_iter()
        .map(|task| {
            let rows = task * step..outputs.min((task + 1) * step);
            let mut dots = vec![0.0; rows.len() * n];
            let products = &mut Products {
                x,
                inputs,
                dots: &mut dots,
            };
            give(rows, products);
            dots
        })
        .collect();
    for (o, dots) in columns.iter().flat_map(|part| part.chunks_exact(n)).enumerate() {
        for (row, dot) in dots.iter().enumerate() {
            let out = &mut out[row * outputs + o];
            *out = if keep == 0.0 { 0.0 } else { keep * *out } + factor * dot;
        }
    }
}

/// Takes rows of a weight, and makes their products with all rows of `x`.
pub struct Products<'a> {
    x: &'a [f32],
    inputs: usize,
    /// Those that are to come.
    dots: &'a mut [f32],
}

impl Products<'_> {
    pub fn with(&mut self, weight: &[f32]) {
        let (x, inputs) = (self.x, self.inputs);
        let made = weight.len() / inputs * (x.len() / inputs);
        let (dots, to_come) = std::mem::take(&mut self.dots).split_at_mut(made);
        self.dots = to_come;
        pulp::Arch::new().dispatch(FewRows {
            x,
            weight,
            inputs,
            dots,
        });
    }
}

/// Products of each row of `weight` with each row of `x`, `dots` `[outputs, n]`. Each is summed in the same order however many
/// rows there are, so that a prompt in a batch is answered as it is alone.
struct FewRows<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    inputs: usize,
    dots: &'a mut [f32],
}

impl pulp::WithSimd for FewRows<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        let n = self.x.len() / self.inputs;
        for (dots, w) in self.dots.chunks_exact_mut(n).zip(self.weight.chunks_exact(self.inputs)) {
            let mut fours = dots.chunks_exact_mut(4);
            let mut x_fours = self.x.chunks_exact(4 * self.inputs);
            for (dots, x) in (&mut fours).zip(&mut x_fours) {
                let row = |i: usize| &x[i * self.inputs..(i + 1) * self.inputs];
                dots.copy_from_slice(&dots_of(simd, [row(0), row(1), row(2), row(3)], w));
            }
            let rest = x_fours.remainder().chunks_exact(self.inputs);
            for (dot, x) in fours.into_remainder().iter_mut().zip(rest) {
                [*dot] = dots_of(simd, [x], w);
            }
        }
    }
}

#[inline(always)]
fn dots_of<S: pulp::Simd, const R: usize>(simd: S, rows: [&[f32]; R], w: &[f32]) -> [f32; R] {
    let (w_wide, w_rest) = S::as_simd_f32s(w);
    let rows = rows.map(|x| S::as_simd_f32s(x));
    let mut sums = [simd.splat_f32s(0.0); R];
    for (i, w) in w_wide.iter().enumerate() {
        for (sum, (x, _)) in sums.iter_mut().zip(&rows) {
            *sum = simd.mul_add_f32s(x[i], *w, *sum);
        }
    }
    std::array::from_fn(|r| {
        let rest = rows[r].1.iter().zip(w_rest).fold(0f32, |sum, (x, w)| sum + x * w);
        simd.reduce_sum_f32s(sums[r]) + rest
    })
}

/// All cores.
pub fn parallel() -> Parallelism {
    Parallelism::Rayon(0)
}

/// `out = keep * out + factor * lhs · rhs`; `out` is row-major, its rows `out_stride` apart. With `keep` 0 what `out` held is
/// never read.
pub fn matmul(
    out: &mut [f32],
    out_stride: usize,
    keep: f32,
    lhs: View<'_>,
    rhs: View<'_>,
    factor: f32,
    parallelism: Parallelism,
) {
    assert_eq!(lhs.columns, rhs.rows);
    let (m, n, k) = (lhs.rows, rhs.columns, lhs.columns);
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * out_stride + n <= out.len());
    // SAFETY: the three views were checked against their slices above and in `View::strided`; `out` is borrowed mutably, so
    // it overlaps neither.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            keep != 0.0,
            lhs.data.as_ptr(),
            lhs.column_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.column_stride as isize,
            rhs.row_stride as isize,
            keep,
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}
