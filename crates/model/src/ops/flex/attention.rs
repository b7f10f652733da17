//! Attention in blocks of queries against only the keys they see; one task a head of a segment.
use super::matmul::{View, matmul};
use super::{Rows, simd, tensor, unwritten};
use crate::ops::attention::{AttentionCfg, AttentionOp, Segment};
use burn::backend::{Flex, tensor::FloatTensor};
use gemm::Parallelism;
use rayon::prelude::*;
use std::ops::Range;

/// Queries a block: scores of a block against 4,096 keys fill 1 MiB.
const BLOCK: usize = 64;

/// The tasks: every head of every segment.
fn tasks(segments: &[Segment], heads: usize) -> Vec<(&Segment, usize)> {
    segments.iter().flat_map(|s| (0..heads).map(move |h| (s, h))).collect()
}

/// Columns of one head in `[tokens, heads * head_dim]`, rows `rows`.
fn head<'a>(data: &'a [f32], rows: Range<usize>, width: usize, head: usize, d: usize) -> View<'a> {
    View::strided(&data[rows.start * width + head * d..], rows.len(), d, width)
}

/// One block of queries: which, and the keys any of them sees, both relative to the segment.
struct Block {
    queries: Range<usize>,
    keys: Range<usize>,
}

fn blocks<'a>(cfg: &'a AttentionCfg, segment: &'a Segment) -> impl Iterator<Item = Block> + 'a {
    (0..segment.queries.len()).step_by(BLOCK).map(move |start| {
        let end = (start + BLOCK).min(segment.queries.len());
        Block {
            queries: start..end,
            keys: cfg.visible(segment, start).start..cfg.visible(segment, end - 1).end,
        }
    })
}

fn absolute(within: &Range<usize>, part: &Range<usize>) -> Range<usize> {
    within.start + part.start..within.start + part.end
}

/// Scores of a block, `[queries, keys]`, scaled.
fn scores(q: View<'_>, k: View<'_>, block: &Block, scale: f64, out: &mut Vec<f32>) {
    let keys = block.keys.len();
    out.resize(block.queries.len() * keys, 0.0);
    matmul(out, keys, 0.0, q, k.t(), scale as f32, Parallelism::None);
}

/// Writes each task's `[queries, d]` result into its head's columns of `[tokens, heads * d]`.
fn gather(parts: &[(Range<usize>, usize, Vec<f32>)], tokens: usize, heads: usize, d: usize) -> Vec<f32> {
    let mut out = unwritten(tokens * heads * d);
    for (rows, head, part) in parts {
        for (row, values) in rows.clone().zip(part.chunks_exact(d)) {
            out[(row * heads + head) * d..][..d].copy_from_slice(values);
        }
    }
    out
}

impl AttentionOp for Flex {
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
        let (q, k, v) = (Rows::new(q), Rows::new(k), Rows::new(v));
        let ((tokens, q_width), (_, kv_width)) = (q.dims(), k.dims());
        let (d, group) = (cfg.head_dim, cfg.heads / cfg.kv_heads);
        let (qs, ks, vs) = (q.as_slice(), k.as_slice(), v.as_slice());

        let segments = cfg.segments.list();
        let tasks = tasks(&segments, cfg.heads);
        // One query a head, as while decoding, is done before another core has woken up.
        let at_least = if tokens == 1 { tasks.len() } else { 1 };
        let results: Vec<_> = tasks
            .into_par_iter()
            .with_min_len(at_least)
            .map(|(segment, h)| {
                let mut out = unwritten(segment.queries.len() * d);
                let mut lse = unwritten(segment.queries.len());
                let mut p = Vec::new();
                for block in blocks(&cfg, segment) {
                    let keys = absolute(&segment.keys, &block.keys);
                    let q = head(qs, absolute(&segment.queries, &block.queries), q_width, h, d);
                    scores(
                        q,
                        head(ks, keys.clone(), kv_width, h / group, d),
                        &block,
                        cfg.scale,
                        &mut p,
                    );
                    simd::vectorized(
                        #[inline(always)]
                        || {
                            for (i, row) in block.queries.clone().zip(p.chunks_exact_mut(block.keys.len())) {
                                let seen = cfg.visible(segment, i);
                                let (start, end) = (seen.start - block.keys.start, seen.end - block.keys.start);
                                row[..start].fill(0.0);
                                row[end..].fill(0.0);
                                let row = &mut row[start..end];
                                if let Some(cap) = cfg.softcap {
                                    row.iter_mut().for_each(|s| *s = simd::capped(*s, cap as f32));
                                }
                                let max = simd::max(row);
                                row.iter_mut().for_each(|s| *s = simd::exp(*s - max));
                                let total = simd::total(row);
                                row.iter_mut().for_each(|s| *s /= total);
                                lse[i] = max + total.ln();
                            }
                        },
                    );
                    let p = View::new(&p, block.queries.len(), block.keys.len());
                    let v = head(vs, keys, kv_width, h / group, d);
                    matmul(
                        &mut out[block.queries.start * d..],
                        d,
                        0.0,
                        p,
                        v,
                        1.0,
                        Parallelism::None,
                    );
                }
                ((segment.queries.clone(), h, out), lse)
            })
            .collect();

        let mut lse = unwritten(cfg.heads * tokens);
        let mut parts = Vec::with_capacity(results.len());
        for (part, part_lse) in results {
            lse[part.1 * tokens + part.0.start..][..part_lse.len()].copy_from_slice(&part_lse);
            parts.push(part);
        }
        (
            tensor(gather(&parts, tokens, cfg.heads, d), [tokens, q_width]),
            tensor(lse, [cfg.heads, tokens]),
        )
    }

    /// `P = exp(S − lse)`, `dP = dO·Vᵀ`, `dS = P∘(dP − rowsum(dO∘O))·scale`, times the slope of a soft cap, `dq = dS·K`, `dk = dSᵀ·Q`, `dv = Pᵀ·dO`; what a key
    /// head gets is summed over its query heads in their order.
    fn packed_attention_backward(
        dout: FloatTensor<Self>,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        cfg: AttentionCfg,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (dout, q, k, v) = (Rows::new(dout), Rows::new(q), Rows::new(k), Rows::new(v));
        let (out, lse) = (Rows::new(out), Rows::new(lse));
        let ((tokens, q_width), (key_tokens, kv_width)) = (q.dims(), k.dims());
        let (d, group) = (cfg.head_dim, cfg.heads / cfg.kv_heads);
        let (qs, ks, vs) = (q.as_slice(), k.as_slice(), v.as_slice());
        let (dos, os, lses) = (dout.as_slice(), out.as_slice(), lse.as_slice());

        let segments = cfg.segments.list();
        let results: Vec<_> = tasks(&segments, cfg.heads)
            .into_par_iter()
            .map(|(segment, h)| {
                let mut dq = unwritten(segment.queries.len() * d);
                let mut dk = vec![0f32; segment.keys.len() * d];
                let mut dv = vec![0f32; segment.keys.len() * d];
                let (mut p, mut dp) = (Vec::new(), Vec::new());
                for block in blocks(&cfg, segment) {
                    let (rows, columns) = (block.queries.len(), block.keys.len());
                    let queries = absolute(&segment.queries, &block.queries);
                    let keys = absolute(&segment.keys, &block.keys);
                    let q = head(qs, queries.clone(), q_width, h, d);
                    let k = head(ks, keys.clone(), kv_width, h / group, d);
                    let v = head(vs, keys, kv_width, h / group, d);
                    let dout = head(dos, queries.clone(), q_width, h, d);
                    scores(q, k, &block, cfg.scale, &mut p);
                    dp.resize(rows * columns, 0.0);
                    matmul(&mut dp, columns, 0.0, dout, v.t(), 1.0, Parallelism::None);
                    simd::vectorized(
                        #[inline(always)]
                        || {
                            let pairs = p.chunks_exact_mut(columns).zip(dp.chunks_exact_mut(columns));
                            for (i, (p, dp)) in pairs.enumerate() {
                                let seen = cfg.visible(segment, block.queries.start + i);
                                let (start, end) = (seen.start - block.keys.start, seen.end - block.keys.start);
                                for row in [&mut *p, &mut *dp] {
                                    row[..start].fill(0.0);
                                    row[end..].fill(0.0);
                                }
                                let at = (queries.start + i) * q_width + h * d;
                                let (o, dout) = (&os[at..at + d], &dos[at..at + d]);
                                let shared = simd::dot(o, dout);
                                let lse = lses[h * tokens + queries.start + i];
                                let scale = cfg.scale as f32;
                                let pairs = p[start..end].iter_mut().zip(&mut dp[start..end]);
                                match cfg.softcap.map(|cap| cap as f32) {
                                    None => pairs.for_each(|(p, dp)| {
                                        *p = simd::exp(*p - lse);
                                        *dp = *p * (*dp - shared) * scale;
                                    }),
                                    Some(cap) => pairs.for_each(|(p, dp)| {
                                        let s = simd::capped(*p, cap);
                                        *p = simd::exp(s - lse);
                                        *dp = *p * (*dp - shared) * scale * simd::cap_slope(s, cap);
                                    }),
                                }
                            }
                        },
                    );
                    let (p, ds) = (View::new(&p, rows, columns), View::new(&dp, rows, columns));
                    matmul(
                        &mut dq[block.queries.start * d..],
                        d,
                        0.0,
                        ds,
                        k,
                        1.0,
                        Parallelism::None,
                    );
                    matmul(
                        &mut dk[block.keys.start * d..],
                        d,
                        1.0,
                        ds.t(),
                        q,
                        1.0,
                        Parallelism::None,
                    );
                    matmul(
                        &mut dv[block.keys.start * d..],
                        d,
                        1.0,
                        p.t(),
                        dout,
                        1.0,
                        Parallelism::None,
                    );
                }
                (segment, h, dq, dk, dv)
            })
            .collect();

        let mut dk = vec![0f32; key_tokens * kv_width];
        let mut dv = vec![0f32; key_tokens * kv_width];
        let mut dq_parts = Vec::with_capacity(results.len());
        for (segment, h, dq_part, dk_part, dv_part) in results {
            for (total, part) in [(&mut dk, dk_part), (&mut dv, dv_part)] {
                for (row, values) in segment.keys.clone().zip(part.chunks_exact(d)) {
                    let target = &mut total[row * kv_width + h / group * d..][..d];
                    target.iter_mut().zip(values).for_each(|(t, v)| *t += v);
                }
            }
            dq_parts.push((segment.queries.clone(), h, dq_part));
        }
        (
            tensor(gather(&dq_parts, tokens, cfg.heads, d), [tokens, q_width]),
            tensor(dk, [key_tokens, kv_width]),
            tensor(dv, [key_tokens, kv_width]),
        )
    }
}
