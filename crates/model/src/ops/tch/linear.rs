//! Low-rank products, and base products accumulated into them by `addmm_`: the other way round a pass over memory more would be
//! left to the product that is bound by it, and what is small rounded to the precision of what is large. Where nothing is dropped
//! out, parts share one product with all their A, forward and backward, and one gradient of it. A carries the scale, since tch's
//! `addmm_` takes none.
use super::{cuda, dense, new, quantized, times_transposed};
use crate::frozen::Weight;
use crate::noise;
use crate::ops::activation::Source;
use crate::ops::linear::{Backpassed, Cast, LinearKernels, LinearsOp, LoraCfg, Outputs, Part, Parts, plain};
use burn::backend::{LibTorch, tensor::FloatTensor};
use rayon::prelude::*;
use tch::{Kind, Tensor};

/// `x` times what dropout multiplies it by.
fn dropped(x: &Tensor, cfg: &LoraCfg) -> Tensor {
    if cfg.dropout == 0.0 {
        return x.shallow_clone();
    }
    cuda::dropout(x, cfg.dropout, cfg.seed).unwrap_or_else(|| {
        let factors: Vec<f32> = (0..x.numel() as u64)
            .into_par_iter()
            .map(|i| noise::keep(cfg.seed, i, cfg.dropout))
            .collect();
        let on_host = Tensor::from_slice(&factors).view_as(x);
        drop(factors);
        x * on_host.to_device(x.device()).to_kind(x.kind())
    })
}

/// `s·A` and `B` of an adapted part in the dtype of the activations, and how they count.
struct Low {
    a: Tensor,
    b: Tensor,
    cfg: LoraCfg,
}

fn updates(parts: &[Part<LibTorch>], kind: Kind) -> Vec<Low> {
    let low = |part: &Part<LibTorch>| {
        let Part::Adapted { a, b, cfg, cast, .. } = part else {
            return None;
        };
        let (a, b) = match cast {
            Cast::Yes { a, b } => (a.tensor.shallow_clone(), &b.tensor),
            Cast::No => (&a.tensor * cfg.scale, &b.tensor),
        };
        Some(Low {
            a: a.to_kind(kind),
            b: b.to_kind(kind),
            cfg: *cfg,
        })
    };
    parts.iter().filter_map(low).collect()
}

fn shared(updates: &[Low]) -> bool {
    updates.len() > 1 && updates.iter().all(|low| low.cfg.dropout == 0.0)
}

/// All A, one below the other.
fn stacked(updates: &[Low]) -> Tensor {
    let all: Vec<&Tensor> = updates.iter().map(|low| &low.a).collect();
    Tensor::cat(&all, 0)
}

/// `whole` cut along `dim` into what belongs to each update, by its rank.
fn cut(whole: &Tensor, dim: i64, updates: &[Low]) -> Vec<Tensor> {
    let ranks: Vec<i64> = updates.iter().map(|low| low.a.size()[0]).collect();
    whole.split_with_sizes(&ranks, dim)
}

/// `y + x · weightᵀ`, in the place of `y`.
fn added(mut y: Tensor, x: &Tensor, weight: &Weight<LibTorch>) -> Tensor {
    match quantized::few_rows(x, weight) {
        Some(product) => y.g_add_(&product),
        None => y.addmm_(x, &dense(weight, x.kind()).tr()),
    }
}

impl LinearsOp for LibTorch {
    fn linears(x: Source<Self>, parts: Parts<Self>, residual: bool) -> Outputs<Self> {
        plain(x, parts, residual)
    }
}

/// What it keeps of each adapted part: `u = s·dropout(x)·Aᵀ`, then `v = dy·B`.
impl LinearKernels for LibTorch {
    fn linears_forward(x: FloatTensor<Self>, parts: &[Part<Self>]) -> (Vec<FloatTensor<Self>>, Vec<FloatTensor<Self>>) {
        let (x, kind) = (&x.tensor, x.tensor.kind());
        let updates = updates(parts, kind);
        let us = match shared(&updates) {
            true => cut(&x.mm(&stacked(&updates).tr()), 1, &updates),
            false => {
                let each = updates.iter();
                each.map(|low| dropped(x, &low.cfg).mm(&low.a.tr())).collect()
            }
        };
        let mut next = us.iter().zip(&updates);
        let product = |part: &Part<Self>| {
            new(match part.update().and_then(|_| next.next()) {
                Some((u, low)) => added(u.mm(&low.b.tr()), x, part.weight()),
                None => times_transposed(x, part.weight()),
            })
        };
        (parts.iter().map(product).collect(), us.into_iter().map(new).collect())
    }

    /// `db = dyᵀ·u`, `dx = Σ dy·W + dropout(v·(s·A))`.
    fn linears_backward(
        dys: &[FloatTensor<Self>],
        inner: &[FloatTensor<Self>],
        parts: &[Part<Self>],
        to_x: bool,
    ) -> Backpassed<Self> {
        let kind = dys[0].tensor.kind();
        let updates = updates(parts, kind);
        let adapted = dys.iter().zip(parts).filter(|(_, part)| part.update().is_some());
        let (mut db, mut vs) = (Vec::new(), Vec::new());
        for (((dy, _), u), low) in adapted.zip(inner).zip(&updates) {
            db.push(new(dy.tensor.tr().mm(&u.tensor).to_kind(Kind::Float)));
            vs.push(dy.tensor.mm(&low.b));
        }
        if shared(&updates) {
            vs = vec![Tensor::cat(&vs, 1)];
        }
        let dx = || {
            let low_rank = if shared(&updates) {
                Some(vs[0].mm(&stacked(&updates)))
            } else {
                let each = vs.iter().zip(&updates);
                let each = each.map(|(v, low)| dropped(&v.mm(&low.a), &low.cfg));
                each.reduce(|mut sum, other| sum.g_add_(&other))
            };
            let products = dys.iter().zip(parts);
            products.fold(low_rank, |dx, (dy, part)| {
                let weight = dense(part.weight(), kind);
                Some(match dx {
                    Some(mut dx) => dx.addmm_(&dy.tensor, &weight),
                    None => dy.tensor.mm(&weight),
                })
            })
        };
        Backpassed {
            dx: to_x.then(dx).flatten().map(new),
            db,
            inner: vs.into_iter().map(new).collect(),
        }
    }

    /// `da = s·vᵀ·dropout(x)`
    fn linears_backward_a(
        x: FloatTensor<Self>,
        inner: Vec<FloatTensor<Self>>,
        parts: &[Part<Self>],
    ) -> Vec<FloatTensor<Self>> {
        let x = &x.tensor;
        let updates = updates(parts, x.kind());
        let das = match shared(&updates) {
            true => cut(&inner[0].tensor.tr().mm(x).to_kind(Kind::Float), 0, &updates),
            false => {
                let each = inner.iter().zip(&updates);
                each.map(|(v, low)| v.tensor.tr().mm(&dropped(x, &low.cfg)).to_kind(Kind::Float))
                    .collect()
            }
        };
        let scaled = das.into_iter().zip(&updates);
        scaled.map(|(da, low)| new(da * low.cfg.scale)).collect()
    }
}
