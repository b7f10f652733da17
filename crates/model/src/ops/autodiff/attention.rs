//! Saves q, k, v, the output and one number a query; scores are recomputed block by block (Dao et al. 2022, arXiv:2205.14135).
use crate::ops::attention::{AttentionCfg, AttentionOp};
use crate::ops::clock;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, tensor::FloatTensor};

#[derive(Debug, Clone)]
struct Saved<T> {
    q: T,
    k: T,
    v: T,
    out: T,
    lse: T,
    cfg: AttentionCfg,
}

#[derive(Debug)]
struct AttentionBackward;

impl<B: AttentionOp> Backward<B, 3> for AttentionBackward {
    type State = Saved<FloatTensor<B>>;
    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let _running = clock::op("attention, backward");
        let dout = grads.consume::<B>(&ops.node);
        let Saved { q, k, v, out, lse, cfg } = ops.state;
        let (dq, dk, dv) = B::packed_attention_backward(dout, q, k, v, out, lse, cfg);
        for (parent, gradient) in ops.parents.into_iter().zip([dq, dk, dv]) {
            if let Some(node) = parent {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: AttentionOp, C: CheckpointStrategy> AttentionOp for Autodiff<B, C> {
    fn packed_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        cfg: AttentionCfg,
    ) -> FloatTensor<Self> {
        match AttentionBackward
            .prepare::<C>([q.node(), k.node(), v.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let (q, k, v) = (q.into_primitive(), k.into_primitive(), v.into_primitive());
                let (out, lse) = B::packed_attention_forward(q.clone(), k.clone(), v.clone(), cfg.clone());
                prep.finish(
                    Saved {
                        q,
                        k,
                        v,
                        out: out.clone(),
                        lse,
                        cfg,
                    },
                    out,
                )
            }
            OpsKind::UnTracked(prep) => {
                let (q, k, v) = (q.into_primitive(), k.into_primitive(), v.into_primitive());
                prep.finish(B::packed_attention(q, k, v, cfg))
            }
        }
    }
    fn packed_attention_forward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: AttentionCfg,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("{}", super::SECOND_ORDER)
    }
    fn packed_attention_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: AttentionCfg,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("{}", super::SECOND_ORDER)
    }
}
