//! Logits of a chunk of rows become their gradient in place.
use super::{cuda, dense, host, new};
use crate::frozen::Weight;
use crate::ops::linear_cross_entropy::{LinearCrossEntropyOp, chunk_rows};
use burn::backend::LibTorch;
use burn::backend::tensor::{FloatTensor, IntTensor};
use tch::{Kind, Tensor};

/// Losses `[rows]` in f32, and into `gradient` (where given, `[rows, d]`) `(softmax − one-hot)·W`.
fn run(hidden: &Tensor, weight: &Tensor, targets: &Tensor, softcap: Option<f64>, gradient: Option<&Tensor>) -> Tensor {
    let (rows, vocab) = (hidden.size()[0], weight.size()[0]);
    let losses = Tensor::empty([rows], (Kind::Float, hidden.device()));
    // The slope of a soft cap lies beside the logits, in their share of memory.
    let step = chunk_rows(vocab as usize, hidden.device().is_cuda()) / if softcap.is_some() { 2 } else { 1 };
    let scratch = Tensor::empty([rows.min(step as i64), vocab], (hidden.kind(), hidden.device()));
    for start in (0..rows).step_by(step) {
        let n = (rows - start).min(step as i64);
        let part = |t: &Tensor| t.narrow(0, start, n);
        let (mut logits, targets) = (scratch.narrow(0, 0, n), &part(targets));
        let _ = part(hidden).mm_out(&logits, &weight.tr());
        let slope = softcap.and_then(|cap| {
            let _ = logits.g_div_scalar_(cap).tanh_();
            let slope = gradient.map(|_| logits.square().neg_() + 1.0);
            let _ = logits.g_mul_scalar_(cap);
            slope
        });
        let found = cuda::cross_entropy(&logits, targets, gradient.is_some())
            .or_else(|| host::cross_entropy(&mut logits, targets, gradient.is_some()));
        part(&losses).copy_(&found.unwrap_or_else(|| cross_entropy(&mut logits, targets, gradient.is_some())));
        if let Some(slope) = slope {
            let _ = logits.g_mul_(&slope);
        }
        if let Some(gradient) = gradient {
            let _ = logits.mm_out(&part(gradient), weight);
        }
    }
    losses
}

/// As [`host::cross_entropy`] by ATen's calls.
fn cross_entropy(logits: &mut Tensor, targets: &Tensor, gradient: bool) -> Tensor {
    let targets = targets.unsqueeze(1);
    let mut exact = logits.to_kind(Kind::Float);
    let lse = exact.logsumexp([1].as_slice(), true);
    let losses = (&lse - exact.gather(1, &targets, false)).squeeze_dim(1);
    if gradient {
        let minus_one = Tensor::full_like(&targets, -1.0).to_kind(Kind::Float);
        let dlogits = exact.g_sub_(&lse).exp_().scatter_add_(1, &targets, &minus_one);
        logits.copy_(&dlogits);
    }
    losses
}

impl LinearCrossEntropyOp for LibTorch {
    fn linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: Weight<Self>,
        targets: IntTensor<Self>,
        softcap: Option<f64>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let hidden = &hidden.tensor;
        let gradient = hidden.empty_like();
        let weight = dense(&weight, hidden.kind());
        let losses = run(hidden, &weight, &targets.tensor, softcap, Some(&gradient));
        (new(losses), new(gradient))
    }

    fn linear_cross_entropy_loss(
        hidden: FloatTensor<Self>,
        weight: Weight<Self>,
        targets: IntTensor<Self>,
        softcap: Option<f64>,
    ) -> FloatTensor<Self> {
        let hidden = &hidden.tensor;
        let weight = dense(&weight, hidden.kind());
        new(run(hidden, &weight, &targets.tensor, softcap, None))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_equal, waves};
    use super::*;

    #[test]
    fn the_loop_equals_aten() {
        let logits = waves(1, [6, 50]) * 4.0;
        let targets = Tensor::from_slice(&[3i64, 49, 0, 17, 17, 25]);
        let (mut a, mut b) = (logits.copy(), logits);
        let losses = host::cross_entropy(&mut a, &targets, true).unwrap();
        assert_equal(&losses, &cross_entropy(&mut b, &targets, true));
        assert_equal(&a, &b);
    }
}
