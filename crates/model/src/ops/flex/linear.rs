//! Base products on all cores, low-rank ones added in place; nothing dense of an update's size.
use super::frozen::Matrix;
use super::low_rank::from_rank;
use super::matmul::{FEW_ROWS, View, matmul, parallel, times_transposed};
use super::{Rows, rows_per_task, tensor, unwritten};
use crate::noise;
use crate::ops::activation::Source;
use crate::ops::linear::{Backpassed, LinearKernels, LinearsOp, LoraCfg, Outputs, Part, Parts, plain};
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

fn product(lhs: View<'_>, rhs: View<'_>, factor: f32) -> Vec<f32> {
    let mut out = unwritten(lhs.rows * rhs.columns);
    matmul(&mut out, rhs.columns, 0.0, lhs, rhs, factor, parallel());
    out
}

impl LinearsOp for Flex {
    fn linears(x: Source<Self>, parts: Parts<Self>, residual: bool) -> Outputs<Self> {
        plain(x, parts, residual)
    }
}

/// What it keeps of each adapted part: `u = dropout(x)·Aᵀ`, then `v = s·dy·B`.
impl LinearKernels for Flex {
    fn linears_forward(x: FloatTensor<Self>, parts: &[Part<Self>]) -> (Vec<FloatTensor<Self>>, Vec<FloatTensor<Self>>) {
        let x = Rows::new(x);
        let (n, inputs) = x.dims();
        let (mut ys, mut us) = (Vec::new(), Vec::new());
        for part in parts {
            let weight = Matrix::from(part.weight().clone());
            let outputs = weight.dims().0;
            let mut y = unwritten(n * outputs);
            weight.forward(&mut y, x.as_slice());
            if let Some((a, b, cfg)) = part.update() {
                let (a, b) = (Rows::new(a.clone()), Rows::new(b.clone()));
                let (r, b, scale) = (a.dims().0, b.as_slice(), cfg.scale as f32);
                let mut u = unwritten(n * r);
                let into_a = dropped(x.as_slice(), inputs, &cfg);
                times_transposed(&mut u, 0.0, &into_a, a.as_slice(), inputs, 1.0);
                if n > FEW_ROWS {
                    from_rank(&mut y, true, &u, View::new(b, outputs, r).t(), scale);
                } else {
                    times_transposed(&mut y, 1.0, &u, b, r, scale);
                }
                us.push(tensor(u, [n, r]));
            }
            ys.push(tensor(y, [n, outputs]));
        }
        (ys, us)
    }

    /// `db = s·dyᵀ·u`, `dx = Σ dy·W + dropout(v·A)`.
    fn linears_backward(
        dys: &[FloatTensor<Self>],
        inner: &[FloatTensor<Self>],
        parts: &[Part<Self>],
        to_x: bool,
    ) -> Backpassed<Self> {
        let (mut dx, mut db, mut vs, mut inner) = (Vec::new(), Vec::new(), Vec::new(), inner.iter());
        let (mut n, mut inputs) = (0, 0);
        for (dy, part) in dys.iter().zip(parts) {
            let (dy, weight) = (Rows::new(dy.clone()), Matrix::from(part.weight().clone()));
            let outputs;
            (n, (outputs, inputs)) = (dy.dims().0, weight.dims());
            let mut add = !dx.is_empty();
            if !add && to_x {
                dx = unwritten(n * inputs);
            }
            if let Some(((a, b, cfg), u)) = part.update().and_then(|update| Some((update, inner.next()?))) {
                let (a, b, u) = (Rows::new(a.clone()), Rows::new(b.clone()), Rows::new(u.clone()));
                let (r, scale) = (a.dims().0, cfg.scale as f32);
                let dys = View::new(dy.as_slice(), n, outputs);
                db.push(tensor(
                    product(dys.t(), View::new(u.as_slice(), n, r), scale),
                    [outputs, r],
                ));
                let v = product(dys, View::new(b.as_slice(), outputs, r), scale);
                let a = View::new(a.as_slice(), r, inputs);
                if to_x && add && cfg.dropout > 0.0 {
                    let mut update = unwritten(n * inputs);
                    from_rank(&mut update, false, &v, a, 1.0);
                    mask(&mut update, inputs, &cfg);
                    dx.par_iter_mut().zip(update).for_each(|(dx, update)| *dx += update);
                } else if to_x {
                    from_rank(&mut dx, add, &v, a, 1.0);
                    if cfg.dropout > 0.0 {
                        mask(&mut dx, inputs, &cfg);
                    }
                }
                add = true;
                vs.push(tensor(v, [n, r]));
            }
            if to_x {
                weight.backward(&mut dx, add, dy.as_slice());
            }
        }
        Backpassed {
            dx: to_x.then(|| tensor(dx, [n, inputs])),
            db,
            inner: vs,
        }
    }

    /// `da = vᵀ·dropout(x)`
    fn linears_backward_a(
        x: FloatTensor<Self>,
        inner: Vec<FloatTensor<Self>>,
        parts: &[Part<Self>],
    ) -> Vec<FloatTensor<Self>> {
        let x = Rows::new(x);
        let (n, inputs) = x.dims();
        let updates = parts.iter().filter_map(Part::update);
        let da = |((_, _, cfg), v): (_, FloatTensor<Self>)| {
            let v = Rows::new(v);
            let r = v.dims().1;
            let into_a = dropped(x.as_slice(), inputs, &cfg);
            let da = product(View::new(v.as_slice(), n, r).t(), View::new(&into_a, n, inputs), 1.0);
            tensor(da, [r, inputs])
        };
        updates.zip(inner).map(da).collect()
    }
}
