//! Saves `x`.
use crate::ops::clock;
use crate::ops::gelu::{Gelu, GeluOp};
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, tensor::FloatTensor};

#[derive(Debug)]
struct GeluBackward;

impl<B: GeluOp> Backward<B, 1> for GeluBackward {
    type State = (FloatTensor<B>, Gelu);
    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let _running = clock::op("gelu, backward");
        let dy = grads.consume::<B>(&ops.node);
        let [parent] = ops.parents;
        if let Some(node) = parent {
            let (x, form) = ops.state;
            grads.register::<B>(node.id, B::gelu_of_backward(x, dy, form));
        }
    }
}

impl<B: GeluOp, C: CheckpointStrategy> GeluOp for Autodiff<B, C> {
    fn gelu_of(x: FloatTensor<Self>, form: Gelu) -> FloatTensor<Self> {
        match GeluBackward.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let x = x.into_primitive();
                let y = B::gelu_of(x.clone(), form);
                prep.finish((x, form), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::gelu_of(x.into_primitive(), form)),
        }
    }
    fn gelu_of_backward(_: FloatTensor<Self>, _: FloatTensor<Self>, _: Gelu) -> FloatTensor<Self> {
        unreachable!("{}", super::SECOND_ORDER)
    }
}
