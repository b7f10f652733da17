//! Saves the gradient to begin with.
use crate::ops::root::RootOp;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, tensor::FloatTensor};

#[derive(Debug)]
struct RootBackward;

impl<B: RootOp> Backward<B, 1> for RootBackward {
    type State = FloatTensor<B>;
    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        grads.consume::<B>(&ops.node);
        let [parent] = ops.parents;
        if let Some(node) = parent {
            grads.register::<B>(node.id, ops.state);
        }
    }
}

impl<B: RootOp, C: CheckpointStrategy> RootOp for Autodiff<B, C> {
    fn root(y: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
        let dy = dy.into_primitive();
        match RootBackward.prepare::<C>([y.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let made = B::root(y.into_primitive(), dy.clone());
                prep.finish(dy, made)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::root(y.into_primitive(), dy)),
        }
    }
}
