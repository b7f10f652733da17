//! The base product, then the low-rank one accumulated into it by `addmm_`; A carries the scale, since tch's `addmm_` takes none.
use super::{cuda, dense, new, times_transposed};
use crate::frozen::Weight;
use crate::noise;
use crate::ops::lora_linear::{LoraCfg, LoraLinearOp};
use burn::backend::{LibTorch, tensor::FloatTensor};
use rayon::prelude::*;
use std::cell::OnceCell;
use tch::{Kind, Tensor};

/// What `x` and its gradient are multiplied by; made once, where no kernel does without it.
#[derive(Default)]
struct Mask(OnceCell<Tensor>);

impl Mask {
    fn of(&self, like: &Tensor, cfg: &LoraCfg) -> &Tensor {
        self.0.get_or_init(|| {
            let factors: Vec<f32> = (0..like.numel() as u64)
                .into_par_iter()
                .map(|i| noise::keep(cfg.seed, i, cfg.dropout))
                .collect();
            Tensor::from_slice(&factors)
                .view_as(like)
                .to_device(like.device())
                .to_kind(like.kind())
        })
    }

    fn dropped(&self, x: &Tensor, cfg: &LoraCfg) -> Tensor {
        if cfg.dropout == 0.0 {
            return x.shallow_clone();
        }
        cuda::dropout(x, cfg.dropout, cfg.seed).unwrap_or_else(|| x * self.of(x, cfg))
    }
}

/// `scale · a` in the dtype of the activations.
fn scaled(a: &Tensor, cfg: &LoraCfg, kind: Kind) -> Tensor {
    (a * cfg.scale).to_kind(kind)
}

impl LoraLinearOp for LibTorch {
    fn lora_linear(
        x: FloatTensor<Self>,
        weight: Weight<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        cfg: LoraCfg,
    ) -> FloatTensor<Self> {
        Self::lora_linear_forward(x, weight, a, b, cfg).0
    }

    fn lora_linear_forward(
        x: FloatTensor<Self>,
        weight: Weight<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        cfg: LoraCfg,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (x, kind) = (&x.tensor, x.tensor.kind());
        let u = Mask::default().dropped(x, &cfg).mm(&scaled(&a.tensor, &cfg, kind).tr());
        let mut y = times_transposed(x, &weight);
        let _ = y.addmm_(&u, &b.tensor.to_kind(kind).tr());
        (new(y), new(u))
    }

    /// With `u = s·dropout(x)·Aᵀ` and `v = dy·B`: `db = dyᵀ·u`, `da = s·vᵀ·dropout(x)`, `dx = dy·W + dropout(v·(s·A))`.
    fn lora_linear_backward(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        u: FloatTensor<Self>,
        weight: Weight<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        cfg: LoraCfg,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (dy, x, kind) = (&dy.tensor, &x.tensor, x.tensor.kind());
        let mask = Mask::default();
        let v = dy.mm(&b.tensor.to_kind(kind));
        let db = dy.tr().mm(&u.tensor).to_kind(Kind::Float);
        let da = v
            .tr()
            .mm(&mask.dropped(x, &cfg))
            .to_kind(Kind::Float)
            .g_mul_scalar_(cfg.scale);
        let mut dx = dy.mm(&dense(&weight, kind));
        let a = scaled(&a.tensor, &cfg, kind);
        let _ = if cfg.dropout == 0.0 {
            dx.addmm_(&v, &a)
        } else {
            let mut update = v.mm(&a);
            let dropped = cuda::dropout(&update, cfg.dropout, cfg.seed);
            dx.g_add_(&dropped.unwrap_or_else(|| update.g_mul_(mask.of(x, &cfg))))
        };
        (new(dx), new(da), new(db))
    }
}
