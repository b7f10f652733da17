//! The base product, then the low-rank one accumulated into it by `addmm_`; A carries the scale, since tch's `addmm_` takes none.
use super::{cuda, dense, new, times_transposed};
use crate::frozen::Weight;
use crate::noise;
use crate::ops::lora_linear::{LoraCfg, LoraLinearOp};
use burn::backend::{LibTorch, tensor::FloatTensor};
use rayon::prelude::*;
use tch::{Kind, Tensor};

/// The dropout mask for `like`, `None` without dropout.
fn mask(like: &Tensor, cfg: &LoraCfg) -> Option<Tensor> {
    if cfg.dropout == 0.0 {
        return None;
    }
    if let Some(mask) = cuda::dropout(&like.ones_like(), cfg.dropout, cfg.seed) {
        return Some(mask);
    }
    let factors: Vec<f32> = (0..like.numel() as u64)
        .into_par_iter()
        .map(|i| noise::keep(cfg.seed, i, cfg.dropout))
        .collect();
    Some(
        Tensor::from_slice(&factors)
            .view_as(like)
            .to_device(like.device())
            .to_kind(like.kind()),
    )
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
        let into_a = mask(x, &cfg).map_or_else(|| x.shallow_clone(), |mask| x * mask);
        let u = into_a.mm(&scaled(&a.tensor, &cfg, kind).tr());
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
        let mask = mask(x, &cfg);
        let v = dy.mm(&b.tensor.to_kind(kind));
        let db = dy.tr().mm(&u.tensor).to_kind(Kind::Float);
        let into_a = mask.as_ref().map_or_else(|| x.shallow_clone(), |mask| x * mask);
        let da = v.tr().mm(&into_a).to_kind(Kind::Float).g_mul_scalar_(cfg.scale);
        let mut dx = dy.mm(&dense(&weight, kind));
        let a = scaled(&a.tensor, &cfg, kind);
        let _ = match mask {
            None => dx.addmm_(&v, &a),
            Some(mask) => dx.g_add_(&v.mm(&a).g_mul_(&mask)),
        };
        (new(dx), new(da), new(db))
    }
}
