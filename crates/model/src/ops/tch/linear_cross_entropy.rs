//! Logits of a chunk of rows become its gradient in place.
use super::{dense, new};
use crate::frozen::Weight;
use crate::ops::linear_cross_entropy::{LinearCrossEntropyOp, chunk_rows};
use burn::backend::{LibTorch, tensor::FloatTensor};
use std::sync::Arc;
use tch::{Kind, Tensor};

/// Losses `[rows]` in f32, and into `gradient` (where given, `[rows, d]`) `(softmax − one-hot)·W`.
fn run(hidden: &Tensor, weight: &Tensor, targets: &[u32], gradient: Option<&Tensor>) -> Tensor {
    let (rows, vocab) = (hidden.size()[0], weight.size()[0]);
    let targets: Vec<i64> = targets.iter().map(|target| i64::from(*target)).collect();
    let targets = Tensor::from_slice(&targets).to_device(hidden.device()).unsqueeze(1);
    let losses = Tensor::empty([rows, 1], (Kind::Float, hidden.device()));
    let chunk = chunk_rows(vocab as usize) as i64;
    for start in (0..rows).step_by(chunk as usize) {
        let part = |t: &Tensor| t.narrow(0, start, chunk.min(rows - start));
        let (targets, hidden) = (part(&targets), part(hidden));
        let mut logits = hidden.mm(&weight.tr()).to_kind(Kind::Float);
        let own = logits.gather(1, &targets, false);
        let lse = logits.logsumexp([1].as_slice(), true);
        part(&losses).copy_(&(&lse - own));
        if let Some(gradient) = gradient {
            let mut dlogits = logits.g_sub_(&lse).exp_();
            let _ = dlogits.scatter_add_(
                1,
                &targets,
                &targets.zeros_like().to_kind(Kind::Float).g_sub_scalar_(1.0),
            );
            part(gradient).copy_(&dlogits.to_kind(hidden.kind()).mm(weight));
        }
    }
    losses.squeeze_dim(1)
}

impl LinearCrossEntropyOp for LibTorch {
    fn linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: Weight<Self>,
        targets: Arc<[u32]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let hidden = &hidden.tensor;
        let gradient = hidden.empty_like();
        let losses = run(hidden, &dense(&weight, hidden.kind()), &targets, Some(&gradient));
        (new(losses), new(gradient))
    }

    fn linear_cross_entropy_loss(
        hidden: FloatTensor<Self>,
        weight: Weight<Self>,
        targets: Arc<[u32]>,
    ) -> FloatTensor<Self> {
        let hidden = &hidden.tensor;
        new(run(hidden, &dense(&weight, hidden.kind()), &targets, None))
    }
}
