//! Saves the `r` columns of `u`, what `x` was made of, and handles to the weights.
use crate::frozen::Weight;
use crate::ops::activation::{Remake, Source};
use crate::ops::clock;
use crate::ops::lora_linear::{LoraCfg, LoraLinearOp};
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Backend, tensor::FloatTensor};

#[derive(Debug, Clone)]
struct Saved<B: Backend> {
    source: Source<B>,
    u: FloatTensor<B>,
    weight: Weight<B>,
    a: FloatTensor<B>,
    b: FloatTensor<B>,
    cfg: LoraCfg,
}

#[derive(Debug)]
struct LoraLinearBackward;

impl<B: LoraLinearOp + Remake> Backward<B, 3> for LoraLinearBackward {
    type State = Saved<B>;
    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let _running = clock::op("linear with adapter, backward");
        let dy = grads.consume::<B>(&ops.node);
        let Saved {
            source,
            u,
            weight,
            a,
            b,
            cfg,
        } = ops.state;
        let (dx, da, db) = B::lora_linear_backward(dy, source.remake(), u, weight, a, b, cfg);
        for (parent, gradient) in ops.parents.into_iter().zip([dx, da, db]) {
            if let Some(node) = parent {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: LoraLinearOp + Remake, C: CheckpointStrategy> LoraLinearOp for Autodiff<B, C> {
    fn lora_linear(
        x: FloatTensor<Self>,
        weight: Weight<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        cfg: LoraCfg,
    ) -> FloatTensor<Self> {
        let source = Source::Kept { x: x.clone() };
        Self::lora_linear_from(x, source, weight, a, b, cfg)
    }
    fn lora_linear_from(
        x: FloatTensor<Self>,
        source: Source<Self>,
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
                let (y, u) = B::lora_linear_forward(x, weight.clone(), a.clone(), b.clone(), cfg);
                prep.finish(
                    Saved {
                        source: source.into_primitive(),
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
