//! The base product, then the low-rank one added in place; nothing dense of the update's size.
use super::frozen::Matrix;
use super::low_rank::from_rank;
use super::matmul::{FEW_ROWS, View, matmul, parallel, times_transposed};
use super::{Rows, rows_per_task, tensor, unwritten};
use crate::frozen::Weight;
use crate::noise;
use crate::ops::lora_linear::{LoraCfg, LoraLinearOp};
use burn::backend::{Flex, tensor::FloatTensor};
use rayon::prelude::*;
use std::borrow::Cow;

/// Multiplies `x` by the dropout mask; the identity without dropout.
fn dropped<'a>(x: &'a [f32], columns: usize, cfg: &LoraCfg) -> Cow<'a, [f32]> {
    if cfg.dropout == 0.0 {
        return Cow::Borrowed(x);
    }
    let mut out = x.to_vec();
    mask(&mut out, columns, cfg);
    Cow::Owned(out)
}

fn mask(x: &mut [f32], columns: usize, cfg: &LoraCfg) {
    let step = rows_per_task(columns) * columns;
    x.par_chunks_mut(step).enumerate().for_each(|(task, chunk)| {
        for (i, v) in chunk.iter_mut().enumerate() {
            *v *= noise::keep(cfg.seed, (task * step + i) as u64, cfg.dropout);
        }
    });
}

impl LoraLinearOp for Flex {
    fn lora_linear(
        x: FloatTensor<Self>,
        weight: Weight<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        cfg: LoraCfg,
    ) -> FloatTensor<Self> {
        Self::lora_linear_forward(x, weight, a, b, cfg).0
    }

    fn lora_linear_forward(
        x: FloatTensor<Self>,
        weight: Weight<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        cfg: LoraCfg,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (x, weight, a, b) = (Rows::new(x), Matrix::from(weight), Rows::new(a), Rows::new(b));
        let ((n, inputs), (outputs, _), (r, _)) = (x.dims(), weight.dims(), a.dims());
        let mut y = unwritten(n * outputs);
        weight.forward(&mut y, x.as_slice());
        let (into_a, scale) = (dropped(x.as_slice(), inputs, &cfg), cfg.scale as f32);
        let (a, b) = (a.as_slice(), b.as_slice());
        let mut u = unwritten(n * r);
        times_transposed(&mut u, 0.0, &into_a, a, inputs, 1.0);
        if n > FEW_ROWS {
            from_rank(&mut y, true, &u, View::new(b, outputs, r).t(), scale);
        } else {
            times_transposed(&mut y, 1.0, &u, b, r, scale);
        }
        (tensor(y, [n, outputs]), tensor(u, [n, r]))
    }

    /// `du = s·dy·B`, `db = s·dyᵀ·u`, `da = duᵀ·dropout(x)`, `dx = dy·W + dropout(du·A)`.
    fn lora_linear_backward(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        u: FloatTensor<Self>,
        weight: Weight<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        cfg: LoraCfg,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (dy, x, u) = (Rows::new(dy), Rows::new(x), Rows::new(u));
        let (weight, a, b) = (Matrix::from(weight), Rows::new(a), Rows::new(b));
        let ((n, inputs), (outputs, _), (r, _)) = (x.dims(), weight.dims(), a.dims());
        let scale = cfg.scale as f32;
        let dys = View::new(dy.as_slice(), n, outputs);
        let (a, b) = (View::new(a.as_slice(), r, inputs), View::new(b.as_slice(), outputs, r));

        let product = |rows: usize, columns: usize, lhs, rhs, factor| {
            let mut out = unwritten(rows * columns);
            matmul(&mut out, columns, 0.0, lhs, rhs, factor, parallel());
            out
        };
        let db = product(outputs, r, dys.t(), View::new(u.as_slice(), n, r), scale);
        let du = product(n, r, dys, b, scale);
        let into_a = dropped(x.as_slice(), inputs, &cfg);
        let da = product(r, inputs, View::new(&du, n, r).t(), View::new(&into_a, n, inputs), 1.0);

        let mut dx = unwritten(n * inputs);
        if cfg.dropout == 0.0 {
            weight.backward(&mut dx, false, dy.as_slice());
            from_rank(&mut dx, true, &du, a, 1.0);
        } else {
            from_rank(&mut dx, false, &du, a, 1.0);
            mask(&mut dx, inputs, &cfg);
            weight.backward(&mut dx, true, dy.as_slice());
        }
        (
            tensor(dx, [n, inputs]),
            tensor(da, [r, inputs]),
            tensor(db, [outputs, r]),
        )
    }
}
