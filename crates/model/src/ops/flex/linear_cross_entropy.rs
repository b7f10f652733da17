//! One pass of `exp` over a chunk of logits; its normalization is applied to the `d` columns of the gradient, not to the
//! vocabulary's.
use super::matmul::{View, matmul, parallel};
use super::{Rows, dense::Dense, simd, tensor, unwritten};
use crate::frozen::Weight;
use crate::ops::linear_cross_entropy::{LinearCrossEntropyOp, chunk_rows};
use burn::backend::{Flex, tensor::FloatTensor};
use rayon::prelude::*;
use std::sync::Arc;

/// Losses, and into `gradient` (where given, `[rows, d]`) `softmax·W − W[target]`.
fn run(hidden: &Rows, weight: &Dense, targets: &[u32], mut gradient: Option<&mut [f32]>) -> Vec<f32> {
    let ((rows, d), (vocab, _)) = (hidden.dims(), weight.dims());
    let (h, w) = (hidden.as_slice(), weight.as_slice());
    let chunk = chunk_rows(vocab).min(rows.max(1));
    let mut logits = unwritten(chunk * vocab);
    let mut losses = Vec::with_capacity(rows);
    for start in (0..rows).step_by(chunk) {
        let n = chunk.min(rows - start);
        let (targets, logits) = (&targets[start..start + n], &mut logits[..n * vocab]);
        let h = View::new(&h[start * d..(start + n) * d], n, d);
        matmul(logits, vocab, 0.0, h, View::new(w, vocab, d).t(), 1.0, parallel());
        let totals: Vec<(f32, f32)> = logits
            .par_chunks_exact_mut(vocab)
            .zip(targets)
            .map(|(row, &target)| {
                simd::vectorized(
                    #[inline(always)]
                    || {
                        let (max, own) = (simd::max(row), row[target as usize]);
                        row.iter_mut().for_each(|l| *l = simd::exp(*l - max));
                        let total = simd::total(row);
                        (max + total.ln() - own, total)
                    },
                )
            })
            .collect();
        losses.extend(totals.iter().map(|(loss, _)| loss));
        if let Some(gradient) = gradient.as_deref_mut() {
            let dh = &mut gradient[start * d..(start + n) * d];
            matmul(
                dh,
                d,
                0.0,
                View::new(logits, n, vocab),
                View::new(w, vocab, d),
                1.0,
                parallel(),
            );
            for ((dh, &target), (_, total)) in dh.chunks_exact_mut(d).zip(targets).zip(&totals) {
                let own = &w[target as usize * d..][..d];
                dh.iter_mut().zip(own).for_each(|(g, w)| *g = *g / total - w);
            }
        }
    }
    losses
}

impl LinearCrossEntropyOp for Flex {
    fn linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: Weight<Self>,
        targets: Arc<[u32]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (hidden, weight) = (Rows::new(hidden), Dense::new(weight));
        let (rows, d) = hidden.dims();
        let mut gradient = unwritten(rows * d);
        let losses = run(&hidden, &weight, &targets, Some(&mut gradient));
        (tensor(losses, [rows]), tensor(gradient, [rows, d]))
    }

    fn linear_cross_entropy_loss(
        hidden: FloatTensor<Self>,
        weight: Weight<Self>,
        targets: Arc<[u32]>,
    ) -> FloatTensor<Self> {
        let losses = run(&Rows::new(hidden), &Dense::new(weight), &targets, None);
        let rows = losses.len();
        tensor(losses, [rows])
    }
}
