//! One pass forward, one backward, rows over all cores.
use super::{Rows, rows_per_task, simd, tensor, unwritten};
use crate::ops::rms_norm::RmsNormOp;
use burn::backend::{Flex, tensor::FloatTensor};
use rayon::prelude::*;

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (simd::dot(x, x) / x.len() as f32 + eps).sqrt()
}

impl RmsNormOp for Flex {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        let (x, weight) = (Rows::new(x), Rows::new(weight));
        let (rows, d) = x.dims();
        let (xs, w) = (x.as_slice(), weight.as_slice());
        let mut out = unwritten(rows * d);
        let step = rows_per_task(d) * d;
        out.par_chunks_mut(step).zip(xs.par_chunks(step)).for_each(|(out, x)| {
            simd::vectorized(
                #[inline(always)]
                || {
                    for (out, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
                        let inv = inverse_rms(x, eps as f32);
                        for ((o, x), w) in out.iter_mut().zip(x).zip(w) {
                            *o = x * inv * w;
                        }
                    }
                },
            )
        });
        tensor(out, [rows, d])
    }

    /// `dx = inv · (w∘dy − x · inv² · mean(x∘w∘dy))`
    fn rms_norm_backward(
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
                            let inv = inverse_rms(x, eps as f32);
                            let shared = simd::sum(d, |i| x[i] * w[i] * dy[i]) * inv * inv * inv / d as f32;
                            for (((o, x), w), dy) in out.iter_mut().zip(x).zip(w).zip(dy) {
                                *o = inv * w * dy - x * shared;
                            }
                        }
                    },
                )
            });
        tensor(out, [rows, d])
    }
}
