//! One pass forward, one backward; `tanh` by the vectorized `exp`.
use super::{Rows, rows_per_task, simd, tensor, unwritten};
use crate::ops::gelu::GeluOp;
use burn::backend::{Flex, tensor::FloatTensor};
use rayon::prelude::*;

const SCALE: f32 = 0.797_884_6; // sqrt(2/π)
const CUBIC: f32 = 0.044_715;

#[inline(always)]
fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (simd::exp(2.0 * x) + 1.0)
}

impl GeluOp for Flex {
    fn gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let x = Rows::new(x);
        let (rows, d) = x.dims();
        let mut out = unwritten(rows * d);
        let step = rows_per_task(d) * d;
        out.par_chunks_mut(step)
            .zip(x.as_slice().par_chunks(step))
            .for_each(|(out, x)| {
                simd::vectorized(
                    #[inline(always)]
                    || {
                        for (o, &x) in out.iter_mut().zip(x) {
                            *o = 0.5 * x * (1.0 + tanh(SCALE * (x + CUBIC * x * x * x)));
                        }
                    },
                )
            });
        tensor(out, [rows, d])
    }

    fn gelu_tanh_backward(x: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, dy) = (Rows::new(x), Rows::new(dy));
        let (rows, d) = x.dims();
        let mut out = unwritten(rows * d);
        let step = rows_per_task(d) * d;
        let inputs = x.as_slice().par_chunks(step).zip(dy.as_slice().par_chunks(step));
        out.par_chunks_mut(step).zip(inputs).for_each(|(out, (x, dy))| {
            simd::vectorized(
                #[inline(always)]
                || {
                    for ((o, &x), &dy) in out.iter_mut().zip(x).zip(dy) {
                        let t = tanh(SCALE * (x + CUBIC * x * x * x));
                        let inner = SCALE * (1.0 + 3.0 * CUBIC * x * x);
                        *o = dy * (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner);
                    }
                },
            )
        });
        tensor(out, [rows, d])
    }
}
