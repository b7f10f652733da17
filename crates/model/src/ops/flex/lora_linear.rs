//! The base product, then the low-rank one added in place; nothing dense of the update's size.
use super::matmul::{View, matmul, parallel, times_transposed};
use super::{Rows, dense::Dense, rows_per_task, tensor, unwritten};
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
        let (x, weight, a, b) = (Rows::new(x), Dense::new(weight), Rows::new(a), Rows::new(b));
        let ((n, inputs), (outputs, _), (r, _)) = (x.dims(), weight.dims(), a.dims());
        let mut y = unwritten(n * outputs);
        times_transposed(&mut y, 0.0, x.as_slice(), weight.as_slice(), inputs, 1.0);
        let mut u = unwritten(n * r);
        times_transposed(
            &mut u,
            0.0,
            &dropped(x.as_slice(), inputs, &cfg),
            a.as_slice(),
            inputs,
            1.0,
        );
        times_transposed(&mut y, 1.0, &u, b.as_slice(), r, cfg.scale as f32);
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
        let (weight, a, b) = (Dense::new(weight), Rows::new(a), Rows::new(b));
        let ((n, inputs), (outputs, _), (r, _)) = (x.dims(), weight.dims(), a.dims());
        let scale = cfg.scale as f32;
        let dys = View::new(dy.as_slice(), n, outputs);
        let w = View::new(weight.as_slice(), outputs, inputs);
        let (a, b) = (View::new(a.as_slice(), r, inputs), View::new(b.as_slice(), outputs, r));

        let mut db = unwritten(outputs * r);
        matmul(
            &mut db,
            r,
            0.0,
            dys.t(),
            View::new(u.as_slice(), n, r),
            scale,
            parallel(),
        );
        let mut du = unwritten(n * r);
        matmul(&mut du, r, 0.0, dys, b, scale, parallel());
        let into_a = dropped(x.as_slice(), inputs, &cfg);
        let mut da = unwritten(r * inputs);
        matmul(
            &mut da,
            inputs,
            0.0,
            View::new(&du, n, r).t(),
            View::new(&into_a, n, inputs),
            1.0,
            parallel(),
        );

        let mut dx = unwritten(n * inputs);
        let du = View::new(&du, n, r);
        if cfg.dropout == 0.0 {
            matmul(&mut dx, inputs, 0.0, dys, w, 1.0, parallel());
            matmul(&mut dx, inputs, 1.0, du, a, 1.0, parallel());
        } else {
            matmul(&mut dx, inputs, 0.0, du, a, 1.0, parallel());
            mask(&mut dx, inputs, &cfg);
            matmul(&mut dx, inputs, 1.0, dys, w, 1.0, parallel());
        }
        (
            tensor(dx, [n, inputs]),
            tensor(da, [r, inputs]),
            tensor(db, [outputs, r]),
        )
    }
}
