//! One pass forward, one backward, rows over all cores.
use super::{Rows, rows_per_task, simd, tensor, unwritten};
use crate::ops::layer_norm::LayerNormOp;
use burn::backend::{Flex, tensor::FloatTensor};
use rayon::prelude::*;

/// Mean and `1 / sqrt(variance + eps)`.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = simd::total(x) / n;
    let variance = simd::sum(x.len(), |i| (x[i] - mean) * (x[i] - mean)) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}

impl LayerNormOp for Flex {
    fn frozen_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        let (x, weight, bias) = (Rows::new(x), Rows::new(weight), Rows::new(bias));
        let (rows, d) = x.dims();
        let (xs, w, b) = (x.as_slice(), weight.as_slice(), bias.as_slice());
        let mut out = unwritten(rows * d);
        let step = rows_per_task(d) * d;
        out.par_chunks_mut(step).zip(xs.par_chunks(step)).for_each(|(out, x)| {
            simd::vectorized(
                #[inline(always)]
                || {
                    for (out, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
                        let (mean, inv) = moments(x, eps as f32);
                        for (((o, x), w), b) in out.iter_mut().zip(x).zip(w).zip(b) {
                            *o = (x - mean) * inv * w + b;
                        }
                    }
                },
            )
        });
        tensor(out, [rows, d])
    }

    /// `dx = inv · (g − mean(g) − x̂ · mean(g∘x̂))` with `g = w∘dy` and `x̂` the normalized row.
    fn frozen_layer_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        let (x, weight, dy) = (Rows::new(x), Rows::new(weight), Rows::new(dy));
        let (rows, d) = x.dims();
        let (xs, w, dys) = (x.as_slice(), weight.as_slice(), dy.as_slice());
        let mut out = unwritten(rows * d);
        let step = rows_per_task(d) * d;
        out.par_chunks_mut(step)
            .zip(xs.par_chunks(step))
            .zip(dys.par_chunks(step))
            .for_each(|((out, x), dy)| {
                simd::vectorized(
                    #[inline(always)]
                    || {
                        for ((out, x), dy) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(dy.chunks_exact(d)) {
                            let (mean, inv) = moments(x, eps as f32);
                            let g_mean = simd::dot(w, dy) / d as f32;
                            let gx_mean = simd::sum(d, |i| w[i] * dy[i] * (x[i] - mean) * inv) / d as f32;
                            for (((o, x), w), dy) in out.iter_mut().zip(x).zip(w).zip(dy) {
                                *o = inv * (w * dy - g_mean - (x - mean) * inv * gx_mean);
                            }
                        }
                    },
                )
            });
        tensor(out, [rows, d])
    }
}
