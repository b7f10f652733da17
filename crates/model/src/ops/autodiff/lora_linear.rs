//! Saves `x` and the `r` columns of `u`, and handles to the weights.
use crate::frozen::Weight;
use crate::ops::clock;
use crate::ops::lora_linear::{LoraCfg, LoraLinearOp};
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, tensor::FloatTensor};

#[derive(Debug, Clone)]
struct Saved<T, W> {
    x: T,
    u: T,
    weight: W,
    a: T,
    b: T,
    cfg: LoraCfg,
}

#[derive(Debug)]
struct LoraLinearBackward;

impl<B: LoraLinearOp> Backward<B, 3> for LoraLinearBackward {
    type State = Saved<FloatTensor<B>, Weight<B>>;
    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let _running = clock::op("linear with adapter, backward");
        let dy = grads.consume::<B>(&ops.node);
        let Saved {
            x,
            u,
            weight,
            a,
            b,
            cfg,
        } = ops.state;
        let (dx, da, db) = B::lora_linear_backward(dy, x, u, weight, a, b, cfg);
        for (parent, gradient) in ops.parents.into_iter().zip([dx, da, db]) {
            if let Some(node) = parent {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: LoraLinearOp, C: CheckpointStrategy> LoraLinearOp for Autodiff<B, C> {
    fn lora_linear(
        x: FloatTensor<Self>,
        weight: Weight<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        cfg: LoraCfg,
    ) -> FloatTensor<Self> {
        let weight = weight.into_primitive();
        match LoraLinearBackward
            .prepare::<C>([x.node(), a.node(), b.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let (x, a, b) = (x.into_primitive(), a.into_primitive(), b.into_primitive());
                let (y, u) = B::lora_linear_forward(x.clone(), weight.clone(), a.clone(), b.clone(), cfg);
                prep.finish(
                    Saved {
                        x,
                        u,
                        weight,
                        a,
                        b,
                        cfg,
                    },
                    y,
                )
            }
            OpsKind::UnTracked(prep) => {
                let (x, a, b) = (x.into_primitive(), a.into_primitive(), b.into_primitive());
                prep.finish(B::lora_linear(x, weight, a, b, cfg))
            }
        }
    }
    fn lora_linear_forward(
        _: FloatTensor<Self>,
        _: Weight<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: LoraCfg,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("{}", super::SECOND_ORDER)
    }
    fn lora_linear_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Weight<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: LoraCfg,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("{}", super::SECOND_ORDER)
    }
}
