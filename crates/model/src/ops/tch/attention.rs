//! ATen's flash attention, segment by segment on views. Key heads are the batch and their query heads the heads, so that keys
//! and values are shared by a stride of zero instead of being repeated.
use super::new;
use crate::ops::attention::{AttentionCfg, AttentionOp, Segment};
use burn::backend::{LibTorch, tensor::FloatTensor};
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// Queries that share one mask, where one is needed.
const BLOCK: usize = 256;

/// Queries and the keys any of them sees, both as rows of the tensors.
struct Part {
    queries: Range<usize>,
    keys: Range<usize>,
    causal: bool,
    /// Added to the scores, `[queries, keys]`.
    mask: Option<Tensor>,
}

/// Every segment's parts, in the order of their queries.
fn parts(cfg: &AttentionCfg, q: &Tensor) -> Vec<Part> {
    cfg.segments
        .iter()
        .flat_map(|segment| segment_parts(cfg, segment, q.kind(), q.device()))
        .collect()
}

/// A whole segment where its mask is none or ATen's own, blocks of queries elsewhere.
fn segment_parts(cfg: &AttentionCfg, segment: &Segment, kind: Kind, device: Device) -> Vec<Part> {
    let (queries, keys) = (segment.queries.len(), segment.keys.len());
    let unwindowed = cfg.window.is_none_or(|window| window >= keys);
    if unwindowed && queries == keys {
        return vec![Part {
            queries: segment.queries.clone(),
            keys: segment.keys.clone(),
            causal: true,
            mask: None,
        }];
    }
    let block = |start: usize| {
        let end = (start + BLOCK).min(queries);
        let seen = cfg.visible(segment, start).start..cfg.visible(segment, end - 1).end;
        let mut hidden = vec![f32::NEG_INFINITY; (end - start) * seen.len()];
        for (i, row) in (start..end).zip(hidden.chunks_exact_mut(seen.len())) {
            let visible = cfg.visible(segment, i);
            row[visible.start - seen.start..visible.end - seen.start].fill(0.0);
        }
        let mask = || {
            let shape = [(end - start) as i64, seen.len() as i64];
            Tensor::from_slice(&hidden).view(shape).to_device(device).to_kind(kind)
        };
        Part {
            queries: segment.queries.start + start..segment.queries.start + end,
            keys: segment.keys.start + seen.start..segment.keys.start + seen.end,
            causal: false,
            mask: (end - start > 1).then(mask),
        }
    };
    (0..queries).step_by(BLOCK).map(block).collect()
}

/// Rows of `[tokens, heads * head_dim]` as `[kv_heads, heads / kv_heads, rows, head_dim]`, a view.
fn heads(t: &Tensor, rows: &Range<usize>, cfg: &AttentionCfg) -> Tensor {
    let (kv, group) = (cfg.kv_heads as i64, (cfg.heads / cfg.kv_heads) as i64);
    let rows = t.narrow(0, rows.start as i64, rows.len() as i64);
    let shared = rows.size()[1] == kv * cfg.head_dim as i64;
    let t = rows.view([rows.size()[0], kv, if shared { 1 } else { group }, cfg.head_dim as i64]);
    t.permute([1, 2, 0, 3])
        .expand([kv, group, rows.size()[0], cfg.head_dim as i64], false)
}

/// The inverse of [`heads`] for a tensor of its shape.
fn rows(t: &Tensor) -> Tensor {
    let t = t.permute([2, 0, 1, 3]);
    t.reshape([t.size()[0], -1])
}

/// The part's log-sum-exps in `[heads, tokens]`, a view as [`heads`] has it.
fn lse_of(lse: &Tensor, part: &Part, cfg: &AttentionCfg) -> Tensor {
    lse.narrow(1, part.queries.start as i64, part.queries.len() as i64)
        .unflatten(0, [cfg.kv_heads as i64, -1])
}

/// The parts' rows, one after the other.
fn whole(mut parts: Vec<Tensor>) -> Tensor {
    match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(&parts, 0),
    }
}

/// The sum over each key head's query heads, as rows.
fn shared_rows(t: &Tensor) -> Tensor {
    match t.size()[1] {
        1 => rows(t),
        _ => rows(&t.sum_dim_intlist([1].as_slice(), true, t.kind())),
    }
}

/// `(out, log-sum-exp)` of `[kv_heads, heads / kv_heads, rows, ..]`.
fn forward([q, k, v]: [&Tensor; 3], part: &Part, scale: f64) -> (Tensor, Tensor) {
    let mask = part.mask.as_ref();
    if q.device() == Device::Cpu {
        return Tensor::internal_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, part.causal, mask, scale);
    }
    let out = Tensor::scaled_dot_product_attention(q, k, v, mask, 0.0, part.causal, scale, false);
    let unused = q.select(3, 0).to_kind(Kind::Float);
    (out, unused)
}

/// `(dq, dk, dv)`, of `dk` and `dv` one a query head.
fn backward(
    dout: &Tensor,
    [q, k, v]: [&Tensor; 3],
    out: &Tensor,
    lse: &Tensor,
    part: &Part,
    scale: f64,
) -> (Tensor, Tensor, Tensor) {
    let mask = part.mask.as_ref();
    if q.device() == Device::Cpu {
        return Tensor::internal_scaled_dot_product_flash_attention_for_cpu_backward(
            dout,
            q,
            k,
            v,
            out,
            lse,
            0.0,
            part.causal,
            mask,
            scale,
        );
    }
    // tch lacks the forward call whose results the backward one wants: LibTorch's own tape runs both.
    tch::with_grad(|| {
        let [q, k, v] = [q, k, v].map(|t| t.detach().set_requires_grad(true));
        let out = Tensor::scaled_dot_product_attention(&q, &k, &v, mask, 0.0, part.causal, scale, false);
        let gradients = Tensor::run_backward(&[(out * dout).sum(Kind::Float)], &[&q, &k, &v], false, false);
        match <[Tensor; 3]>::try_from(gradients) {
            Ok([dq, dk, dv]) => (dq, dk, dv),
            Err(_) => unreachable!("one gradient for each input"),
        }
    })
}

impl AttentionOp for LibTorch {
    fn packed_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        cfg: AttentionCfg,
    ) -> FloatTensor<Self> {
        Self::packed_attention_forward(q, k, v, cfg).0
    }

    fn packed_attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        cfg: AttentionCfg,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (q, k, v) = (&q.tensor, &k.tensor, &v.tensor);
        let lse = Tensor::empty([cfg.heads as i64, q.size()[0]], (Kind::Float, q.device()));
        let outputs: Vec<_> = parts(&cfg, q)
            .iter()
            .map(|part| {
                let qkv = [
                    heads(q, &part.queries, &cfg),
                    heads(k, &part.keys, &cfg),
                    heads(v, &part.keys, &cfg),
                ];
                let (out, part_lse) = forward(qkv.each_ref(), part, cfg.scale);
                lse_of(&lse, part, &cfg).copy_(&part_lse);
                rows(&out)
            })
            .collect();
        (new(whole(outputs)), new(lse))
    }

    fn packed_attention_backward(
        dout: FloatTensor<Self>,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        cfg: AttentionCfg,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (q, k, v) = (&q.tensor, &k.tensor, &v.tensor);
        let (dk, dv) = (k.zeros_like(), v.zeros_like());
        let dq: Vec<_> = parts(&cfg, q)
            .iter()
            .map(|part| {
                let qkv = [
                    heads(q, &part.queries, &cfg),
                    heads(k, &part.keys, &cfg),
                    heads(v, &part.keys, &cfg),
                ];
                let (dq, part_dk, part_dv) = backward(
                    &heads(&dout.tensor, &part.queries, &cfg),
                    qkv.each_ref(),
                    &heads(&out.tensor, &part.queries, &cfg),
                    &lse_of(&lse.tensor, part, &cfg),
                    part,
                    cfg.scale,
                );
                for (total, gradient) in [(&dk, part_dk), (&dv, part_dv)] {
                    let mut total = total.narrow(0, part.keys.start as i64, part.keys.len() as i64);
                    let _ = total.g_add_(&shared_rows(&gradient));
                }
                rows(&dq)
            })
            .collect();
        (new(whole(dq)), new(dk), new(dv))
    }
}
