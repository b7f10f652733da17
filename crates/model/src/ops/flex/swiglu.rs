//! One pass forward, one backward that writes both gradients.
use super::{Rows, rows_per_task, simd, tensor, unwritten};
use crate::ops::swiglu::SwigluOp;
use burn::backend::{Flex, tensor::FloatTensor};
use rayon::prelude::*;

impl SwigluOp for Flex {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let (gate, up) = (Rows::new(gate), Rows::new(up));
        let (rows, d) = gate.dims();
        let mut out = unwritten(rows * d);
        let step = rows_per_task(d) * d;
        let inputs = gate.as_slice().par_chunks(step).zip(up.as_slice().par_chunks(step));
        out.par_chunks_mut(step).zip(inputs).for_each(|(out, (gate, up))| {
            simd::vectorized(
                #[inline(always)]
                || {
                    for ((o, &g), &u) in out.iter_mut().zip(gate).zip(up) {
                        *o = g / (1.0 + simd::exp(-g)) * u;
                    }
                },
            )
        });
        tensor(out, [rows, d])
    }

    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (gate, up, dy) = (Rows::new(gate), Rows::new(up), Rows::new(dy));
        let (rows, d) = gate.dims();
        let (mut dgate, mut dup) = (unwritten(rows * d), unwritten(rows * d));
        let step = rows_per_task(d) * d;
        let outputs = dgate.par_chunks_mut(step).zip(dup.par_chunks_mut(step));
        let inputs = gate
            .as_slice()
            .par_chunks(step)
            .zip(up.as_slice().par_chunks(step))
            .zip(dy.as_slice().par_chunks(step));
        outputs.zip(inputs).for_each(|((dgate, dup), ((gate, up), dy))| {
            simd::vectorized(
                #[inline(always)]
                || {
                    let inputs = gate.iter().zip(up).zip(dy);
                    for ((dg, du), ((&g, &u), &dy)) in dgate.iter_mut().zip(dup.iter_mut()).zip(inputs) {
                        let sigmoid = 1.0 / (1.0 + simd::exp(-g));
                        *dg = dy * u * sigmoid * (1.0 + g * (1.0 - sigmoid));
                        *du = dy * g * sigmoid;
                    }
                },
            )
        });
        (tensor(dgate, [rows, d]), tensor(dup, [rows, d]))
    }

    fn swiglu_backward_recompute(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (gate, up, mut dy) = (Rows::new(gate), Rows::new(up), Rows::new(dy));
        let (rows, d) = gate.dims();
        let (mut dgate, mut dup) = (unwritten(rows * d), unwritten(rows * d));
        let step = rows_per_task(d) * d;
        let outputs = dgate.par_chunks_mut(step).zip(dup.par_chunks_mut(step));
        let outputs = outputs.zip(dy.as_mut_slice().par_chunks_mut(step));
        let inputs = gate.as_slice().par_chunks(step).zip(up.as_slice().par_chunks(step));
        outputs.zip(inputs).for_each(|(((dgate, dup), dy), (gate, up))| {
            simd::vectorized(
                #[inline(always)]
                || {
                    let outputs = dgate.iter_mut().zip(dup.iter_mut()).zip(dy.iter_mut());
                    for (((dg, du), dy), (&g, &u)) in outputs.zip(gate.iter().zip(up)) {
                        let sigmoid = 1.0 / (1.0 + simd::exp(-g));
                        *dg = *dy * u * sigmoid * (1.0 + g * (1.0 - sigmoid));
                        *du = *dy * g * sigmoid;
                        *dy = g * sigmoid * u;
                    }
                },
            )
        });
        (tensor(dgate, [rows, d]), tensor(dup, [rows, d]), dy.into_tensor())
    }
}
