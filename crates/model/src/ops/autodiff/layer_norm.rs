//! Saves `x`; mean and variance are recomputed.
use crate::ops::clock;
use crate::ops::layer_norm::LayerNormOp;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, tensor::FloatTensor};

#[derive(Debug)]
struct LayerNormBackward;

impl<B: LayerNormOp> Backward<B, 1> for LayerNormBackward {
    type State = (FloatTensor<B>, FloatTensor<B>, f64);
    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let _running = clock::op("layer norm, backward");
        let dy = grads.consume::<B>(&ops.node);
        let ([parent], (x, weight, eps)) = (ops.parents, ops.state);
        if let Some(node) = parent {
            grads.register::<B>(node.id, B::frozen_layer_norm_backward(x, weight, dy, eps));
        }
    }
}

impl<B: LayerNormOp, C: CheckpointStrategy> LayerNormOp for Autodiff<B, C> {
    fn frozen_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        let (weight, bias) = (weight.into_primitive(), bias.into_primitive());
        match LayerNormBackward.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let x = x.into_primitive();
                let y = B::frozen_layer_norm(x.clone(), weight.clone(), bias, eps);
                prep.finish((x, weight, eps), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::frozen_layer_norm(x.into_primitive(), weight, bias, eps)),
        }
    }
    fn frozen_layer_norm_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: f64,
    ) -> FloatTensor<Self> {
        unreachable!("{}", super::SECOND_ORDER)
    }
}
