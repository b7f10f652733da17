//! One pass of `exp` over a chunk of logits; its normalization is applied to the `d` columns of the gradient, not to the
//! vocabulary's.
use super::frozen::Matrix;
use super::{Rows, simd, tensor, unwritten};
use crate::frozen::Weight;
use crate::ops::linear_cross_entropy::{LinearCrossEntropyOp, chunk_rows};
use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::{FloatTensor, IntTensor};
use rayon::prelude::*;

/// Losses, and into `gradient` (where given, `[rows, d]`) `softmax·W − W[target]`.
fn run(
    hidden: &Rows,
    weight: &Matrix,
    targets: &[i64],
    softcap: Option<f64>,
    mut gradient: Option<&mut [f32]>,
) -> Vec<f32> {
    let ((rows, d), (vocab, _)) = (hidden.dims(), weight.dims());
    let h = hidden.as_slice();
    let chunk = chunk_rows(vocab, false).min(rows.max(1));
    let mut logits = unwritten(chunk * vocab);
    let mut losses = Vec::with_capacity(rows);
    for start in (0..rows).step_by(chunk) {
        let n = chunk.min(rows - start);
        let (targets, logits) = (&targets[start..start + n], &mut logits[..n * vocab]);
        weight.forward(logits, &h[start * d..(start + n) * d]);
        // Of each row the loss, the sum of its exponentials, and how much the target's own gradient is.
        let totals: Vec<(f32, f32, f32)> = logits
            .par_chunks_exact_mut(vocab)
            .zip(targets)
            .map(|(row, &target)| {
                simd::vectorized(
                    #[inline(always)]
                    || {
                        let Some(cap) = softcap.map(|cap| cap as f32) else {
                            let (max, own) = (simd::max(row), row[target as usize]);
                            row.iter_mut().for_each(|l| *l = simd::exp(*l - max));
                            let total = simd::total(row);
                            return (max + total.ln() - own, total, 1.0);
                        };
                        row.iter_mut().for_each(|l| *l = simd::capped(*l, cap));
                        let (max, own) = (simd::max(row), row[target as usize]);
                        let total = simd::sum(row.len(), |i| simd::exp(row[i] - max));
                        row.iter_mut()
                            .for_each(|l| *l = simd::exp(*l - max) * simd::cap_slope(*l, cap));
                        (max + total.ln() - own, total, simd::cap_slope(own, cap))
                    },
                )
            })
            .collect();
        losses.extend(totals.iter().map(|(loss, ..)| loss));
        if let Some(gradient) = gradient.as_deref_mut() {
            let dh = &mut gradient[start * d..(start + n) * d];
            weight.backward(dh, false, logits);
            for ((dh, &target), (_, total, slope)) in dh.chunks_exact_mut(d).zip(targets).zip(&totals) {
                let own = weight.row(target as usize);
                dh.iter_mut().zip(&*own).for_each(|(g, w)| *g = *g / total - slope * w);
            }
        }
    }
    losses
}

fn numbers(targets: &FlexTensor) -> &[i64] {
    targets.as_slice::<i64>().unwrap_or(&[])
}

impl LinearCrossEntropyOp for Flex {
    fn linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: Weight<Self>,
        targets: IntTensor<Self>,
        softcap: Option<f64>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (hidden, weight) = (Rows::new(hidden), Matrix::from(weight));
        let (rows, d) = hidden.dims();
        let mut gradient = unwritten(rows * d);
        let losses = run(&hidden, &weight, numbers(&targets), softcap, Some(&mut gradient));
        (tensor(losses, [rows]), tensor(gradient, [rows, d]))
    }

    fn linear_cross_entropy_loss(
        hidden: FloatTensor<Self>,
        weight: Weight<Self>,
        targets: IntTensor<Self>,
        softcap: Option<f64>,
    ) -> FloatTensor<Self> {
        let losses = run(&Rows::new(hidden), &weight.into(), numbers(&targets), softcap, None);
        let rows = losses.len();
        tensor(losses, [rows])
    }
}
