//! Saves nothing but a handle to the frozen weight.
use crate::frozen::Weight;
use crate::ops::clock;
use crate::ops::linear::LinearOp;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, tensor::FloatTensor};

#[derive(Debug)]
struct LinearBackward;

impl<B: LinearOp> Backward<B, 1> for LinearBackward {
    type State = Weight<B>;
    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let _running = clock::op("linear, backward");
        let dy = grads.consume::<B>(&ops.node);
        let [parent] = ops.parents;
        if let Some(node) = parent {
            grads.register::<B>(node.id, B::frozen_linear_backward(dy, ops.state));
        }
    }
}

impl<B: LinearOp, C: CheckpointStrategy> LinearOp for Autodiff<B, C> {
    fn frozen_linear(x: FloatTensor<Self>, weight: Weight<Self>) -> FloatTensor<Self> {
        let weight = weight.into_primitive();
        match LinearBackward.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::frozen_linear(x.into_primitive(), weight.clone());
                prep.finish(weight, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::frozen_linear(x.into_primitive(), weight)),
        }
    }
    fn frozen_linear_backward(_: FloatTensor<Self>, _: Weight<Self>) -> FloatTensor<Self> {
        unreachable!("{}", super::SECOND_ORDER)
    }
}
