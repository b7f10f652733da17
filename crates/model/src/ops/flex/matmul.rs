//! Strided f32 matrix products on slices, by the `gemm` crate.
use gemm::Parallelism;

/// `rows x columns` elements of `data`, element (i, j) at `i * row_stride + j * column_stride`.
#[derive(Clone, Copy)]
pub struct View<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
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
