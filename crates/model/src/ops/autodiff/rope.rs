//! Saves the angles; the gradient is the rotation back.
use crate::ops::clock;
use crate::ops::rope::RopeOp;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, tensor::FloatTensor};

#[derive(Debug)]
struct RopeBackward;

impl<B: RopeOp> Backward<B, 1> for RopeBackward {
    type State = (FloatTensor<B>, FloatTensor<B>, usize, bool);
    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let _running = clock::op("rotary, backward");
        let dy = grads.consume::<B>(&ops.node);
        let ([parent], (cos, sin, head_dim, inverse)) = (ops.parents, ops.state);
        if let Some(node) = parent {
            grads.register::<B>(node.id, B::rope(dy, cos, sin, head_dim, !inverse));
        }
    }
}

impl<B: RopeOp, C: CheckpointStrategy> RopeOp for Autodiff<B, C> {
    fn rope(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        head_dim: usize,
        inverse: bool,
    ) -> FloatTensor<Self> {
        let (cos, sin) = (cos.into_primitive(), sin.into_primitive());
        match RopeBackward.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::rope(x.into_primitive(), cos.clone(), sin.clone(), head_dim, inverse);
                prep.finish((cos, sin, head_dim, inverse), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::rope(x.into_primitive(), cos, sin, head_dim, inverse)),
        }
    }
}
