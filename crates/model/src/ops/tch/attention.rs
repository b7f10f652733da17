//! Scores of a block of queries against only the keys they see, from products over all key heads at once; the rows of the
//! query heads that share a key head lie one below the other, so that keys and values are never repeated.
//!
//! Scores have the dtype of the activations, as in transformers' eager attention; softmax sums in f32. Probabilities are made
//! again for the backward pass. (ATen's own attention on the CPU multiplies bf16 as f32, and takes twice the time.)
use super::{cuda, new};
use crate::ops::attention::{AttentionCfg, AttentionOp, Segment, Segments, block_queries};
use burn::backend::{LibTorch, tensor::FloatTensor};
use std::ops::Range;
use tch::{Kind, Tensor};

/// Queries and the keys any of them sees, both as rows of the tensors.
struct Block {
    queries: Range<usize>,
    keys: Range<usize>,
    /// Added to the scores, `[queries, keys]`: −∞ where a key is not seen.
    mask: Option<Tensor>,
}

/// Every segment's blocks, in the order of their queries.
fn blocks<'a>(cfg: &'a AttentionCfg, segments: &'a [Segment], q: &'a Tensor) -> impl Iterator<Item = Block> + 'a {
    segments.iter().flat_map(move |segment| {
        let step = block_queries(cfg.heads, segment.keys.len());
        (0..segment.queries.len()).step_by(step).map(move |start| {
            let within = start..(start + step).min(segment.queries.len());
            block(cfg, segment, within, q)
        })
    })
}

fn block(cfg: &AttentionCfg, segment: &Segment, within: Range<usize>, q: &Tensor) -> Block {
    let (first, last) = (cfg.visible(segment, within.start), cfg.visible(segment, within.end - 1));
    let keys = first.start..last.end;
    let hidden = || {
        let shape = [within.len() as i64, keys.len() as i64];
        Tensor::full(shape, f64::NEG_INFINITY, (q.kind(), q.device()))
    };
    // Each query sees one key more than the query before it, and with a window that is full one less at the other end.
    let after = (first.end < last.end).then(|| hidden().triu_((first.end - keys.start) as i64));
    let before = (first.start < last.start).then(|| {
        let full = within.clone().find(|i| cfg.visible(segment, *i).start > first.start);
        hidden().tril_(-((full.unwrap_or(within.end) - within.start) as i64))
    });
    let mask = match (after, before) {
        (Some(after), Some(before)) => Some(after + before),
        (after, before) => after.or(before),
    };
    let absolute = |all: &Range<usize>, part: Range<usize>| all.start + part.start..all.start + part.end;
    Block {
        queries: absolute(&segment.queries, within),
        keys: absolute(&segment.keys, keys),
        mask,
    }
}

/// Rows of `[tokens, heads * head_dim]` as `[kv_heads, heads / kv_heads * rows, head_dim]`.
fn stacked(t: &Tensor, rows: &Range<usize>, cfg: &AttentionCfg) -> Tensor {
    let (kv, d) = (cfg.kv_heads as i64, cfg.head_dim as i64);
    let t = t
        .narrow(0, rows.start as i64, rows.len() as i64)
        .unflatten(1, [kv, -1, d]);
    t.permute([1, 2, 0, 3]).reshape([kv, -1, d])
}

/// The inverse of [`stacked`], added to or written into rows of `[tokens, heads * head_dim]`.
fn unstacked(t: &Tensor, rows: &Range<usize>) -> Tensor {
    let (kv, d) = (t.size()[0], t.size()[2]);
    t.view([kv, -1, rows.len() as i64, d])
        .permute([2, 0, 1, 3])
        .flatten(1, -1)
}

fn rows(t: &Tensor, rows: &Range<usize>) -> Tensor {
    t.narrow(0, rows.start as i64, rows.len() as i64)
}

/// `q·kᵀ` of stacked and scaled queries, capped, `[kv_heads, heads / kv_heads * queries, keys]`.
fn scores(q: &Tensor, k: &Tensor, softcap: Option<f64>) -> Tensor {
    let scores = q.bmm(&k.transpose(1, 2));
    match softcap {
        None => scores,
        Some(cap) => (scores / cap).tanh_().g_mul_scalar_(cap),
    }
}

/// `softmax(scores + mask)`; the mask is left in the scores.
fn probabilities(scores: Tensor, block: &Block) -> Tensor {
    if let Some(mask) = &block.mask {
        let _ = scores.unflatten(1, [-1, block.queries.len() as i64]).g_add_(mask);
    }
    scores.softmax(-1, scores.kind())
}

/// One query a sequence over keys laid out as `[sequences, capacity, ..]`, all ending at the same column: one call of ATen's
/// attention for all, to which the query heads of a key head are queries that see the same keys. `None` for other layouts.
fn decode(q: &Tensor, k: &Tensor, v: &Tensor, cfg: &AttentionCfg) -> Option<Tensor> {
    let Segments::Listed(segments) = &cfg.segments else {
        return None;
    };
    if cfg.softcap.is_some() {
        return None;
    }
    let sequences = segments.len();
    let capacity = k.size()[0] as usize / sequences.max(1);
    let end = segments.first()?.keys.end;
    let seen: Vec<Range<usize>> = segments.iter().map(|segment| cfg.visible(segment, 0)).collect();
    let fits = segments.iter().enumerate().all(|(s, segment)| {
        let keys = &segment.keys;
        segment.queries == (s..s + 1) && keys.start >= s * capacity && keys.end == s * capacity + end
    });
    if !fits || end > capacity || sequences * capacity != k.size()[0] as usize {
        return None;
    }
    let lengths: Vec<i64> = seen.iter().map(|keys| keys.len() as i64).collect();
    let longest = lengths.iter().copied().max()?;
    let (kv, d) = (cfg.kv_heads as i64, cfg.head_dim as i64);
    let keys = |t: &Tensor| {
        let t = t.reshape([sequences as i64, capacity as i64, kv, d]);
        t.narrow(1, end as i64 - longest, longest).transpose(1, 2)
    };
    let mask = lengths.iter().any(|length| *length < longest).then(|| {
        let hidden = Tensor::from_slice(&lengths).to_device(q.device()).neg_() + longest;
        let columns = Tensor::arange(longest, (Kind::Int64, q.device()));
        columns
            .ge_tensor(&hidden.unsqueeze(1))
            .view([sequences as i64, 1, 1, longest])
    });
    let queries = q.reshape([sequences as i64, kv, -1, d]);
    let out = Tensor::scaled_dot_product_attention(&queries, &keys(k), &keys(v), mask, 0.0, false, cfg.scale, false);
    Some(out.reshape(q.size()))
}

impl AttentionOp for LibTorch {
    fn packed_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        cfg: AttentionCfg,
    ) -> FloatTensor<Self> {
        match decode(&q.tensor, &k.tensor, &v.tensor, &cfg) {
            Some(out) => new(out),
            None => Self::packed_attention_forward(q, k, v, cfg).0,
        }
    }

    /// The log-sum-exp is not needed here and left empty.
    fn packed_attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        cfg: AttentionCfg,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (q, k, v) = (&q.tensor, &k.tensor, &v.tensor);
        if let Some((out, lse)) = cuda::attention_forward(q, k, v, &cfg) {
            return (new(out), new(lse));
        }
        let out = q.empty_like();
        for block in blocks(&cfg, &cfg.segments.list(), q) {
            let (k, v) = (stacked(k, &block.keys, &cfg), stacked(v, &block.keys, &cfg));
            let scaled = stacked(q, &block.queries, &cfg) * cfg.scale;
            let result = probabilities(scores(&scaled, &k, cfg.softcap), &block).bmm(&v);
            rows(&out, &block.queries).copy_(&unstacked(&result, &block.queries));
        }
        (new(out), new(Tensor::empty([0], (Kind::Float, q.device()))))
    }

    /// `dP = dO·Vᵀ`, `dS = P∘(dP − rowsum(P∘dP))` times the slope of a soft cap, `dq = s·dS·K`, `dk = dSᵀ·(s·Q)`, `dv = Pᵀ·dO`; the products sum over the
    /// query heads of a key head.
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
        if let Some(gradients) = cuda::attention_backward(&dout.tensor, [q, k, v], &out.tensor, &lse.tensor, &cfg) {
            return gradients.map(new).into();
        }
        let (dq, dk, dv) = (q.empty_like(), k.zeros_like(), v.zeros_like());
        for block in blocks(&cfg, &cfg.segments.list(), q) {
            let (k, v) = (stacked(k, &block.keys, &cfg), stacked(v, &block.keys, &cfg));
            let scaled = stacked(q, &block.queries, &cfg) * cfg.scale;
            let dout = stacked(&dout.tensor, &block.queries, &cfg);
            let scores = scores(&scaled, &k, cfg.softcap);
            let slope = cfg.softcap.map(|cap| (&scores / cap).square_().neg_() + 1.0);
            let p = probabilities(scores, &block);
            let dv_part = p.transpose(1, 2).bmm(&dout);
            let _ = rows(&dv, &block.keys).g_add_(&unstacked(&dv_part, &block.keys));
            let dp = dout.bmm(&v.transpose(1, 2));
            let mut ds = Tensor::internal_softmax_backward_data(&dp, &p, -1, p.kind());
            drop((p, dp));
            if let Some(slope) = slope {
                ds = ds.g_mul_(&slope);
            }
            let dk_part = ds.transpose(1, 2).bmm(&scaled);
            let _ = rows(&dk, &block.keys).g_add_(&unstacked(&dk_part, &block.keys));
            let dq_part = ds.bmm(&k).g_mul_scalar_(cfg.scale);
            rows(&dq, &block.queries).copy_(&unstacked(&dq_part, &block.queries));
        }
        (new(dq), new(dk), new(dv))
    }
}
