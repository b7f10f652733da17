//! Attention over packed segments, causal or not: grouped queries, sliding window, keys from a cache.
use super::{clock, has_kernels};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{DType, Int, Tensor, TensorData, activation};
use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

/// Query rows and the key rows they may see. The last query stands at the last key: where attention is causal, query `i` sees
/// keys `0 ..= i + (keys - queries)` of its segment, no more than `window` of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub queries: Range<usize>,
    pub keys: Range<usize>,
}

/// Those of a pass, in order.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // A few exist at a time.
pub enum Segments {
    Listed(Arc<[Segment]>),
    /// One after the other, queries and keys alike: where each begins, and the end, i32. What stands there may change between
    /// two runs of the same operations, but none is ever longer than `longest`, or all are that long.
    OnDevice {
        starts: Tensor<1, Int>,
        longest: usize,
        all: bool,
    },
}

thread_local! {
    static READS: Cell<usize> = const { Cell::new(0) };
}

/// How often this thread read segments from a device.
pub fn reads() -> usize {
    READS.get()
}

impl Segments {
    /// Those on the device are read.
    pub fn list(&self) -> Arc<[Segment]> {
        match self {
            Self::Listed(list) => list.clone(),
            Self::OnDevice { starts, .. } => {
                READS.set(READS.get() + 1);
                let starts: Vec<i64> = starts.clone().into_data().iter().collect();
                let within = starts.windows(2).map(|s| s[0] as usize..s[1] as usize);
                within.map(Segment::within).collect()
            }
        }
    }
}

impl FromIterator<Segment> for Segments {
    fn from_iter<I: IntoIterator<Item = Segment>>(segments: I) -> Self {
        Self::Listed(segments.into_iter().collect())
    }
}

impl Segment {
    /// Rows that attend to each other.
    pub fn within(rows: Range<usize>) -> Self {
        Self {
            queries: rows.clone(),
            keys: rows,
        }
    }
}

/// Head dimensions that flash attention has on a GPU.
pub fn flash_serves(head_dim: usize) -> bool {
    head_dim.is_multiple_of(8) && head_dim <= 256
}

/// Queries whose scores over `keys` keys exist together where ATen's products make them.
pub fn block_queries(heads: usize, keys: usize) -> usize {
    const SCORES: usize = 32 << 20;
    (SCORES / (heads * keys).max(1)).clamp(1, 256)
}

#[derive(Debug, Clone)]
pub struct AttentionCfg {
    pub heads: usize,
    /// Query head `h` uses key/value head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    pub head_dim: usize,
    pub scale: f64,
    /// Keys a query sees at most, itself included; `None` = all before it.
    pub window: Option<usize>,
    /// Whether a query sees only the keys up to its own; if not, it sees all of its segment, and there is no window.
    pub causal: bool,
    /// Scores `s` become `cap · tanh(s / cap)` (Gemma 2).
    pub softcap: Option<f64>,
    pub segments: Segments,
}

impl AttentionCfg {
    /// Keys (relative to the segment) that query `i` (relative) sees.
    pub fn visible(&self, segment: &Segment, i: usize) -> Range<usize> {
        if !self.causal {
            return 0..segment.keys.len();
        }
        let end = i + 1 + segment.keys.len() - segment.queries.len();
        self.window.map_or(0, |w| end.saturating_sub(w))..end
    }
}

#[backend_extension(Autodiff, Flex, LibTorch: cfg(feature = "tch"))]
pub trait AttentionOp: Backend {
    fn packed_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        cfg: AttentionCfg,
    ) -> FloatTensor<Self>;
    /// `(out, lse)`, `lse` `[heads, tokens]` being the log-sum-exp of each query's scores.
    fn packed_attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        cfg: AttentionCfg,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// `(dq, dk, dv)`.
    fn packed_attention_backward(
        dout: FloatTensor<Self>,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        cfg: AttentionCfg,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// Softmax attention within each segment; the scores of a whole segment never exist for all heads at once.
///
/// # Shapes
/// - `q`: `[tokens, heads * head_dim]`, `k`, `v`: `[key tokens, kv_heads * head_dim]`, result as `q`
pub fn attention(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, cfg: AttentionCfg) -> Tensor<2> {
    let _running = clock::op("attention");
    if !has_kernels("attention", &q) {
        return reference(q, k, v, cfg);
    }
    Tensor::from_dispatch(<Dispatch as AttentionOp>::packed_attention(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        cfg,
    ))
}

/// The same from Burn's operations, one head of one segment after the other.
pub fn reference(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, cfg: AttentionCfg) -> Tensor<2> {
    let (d, group) = (cfg.head_dim, cfg.heads / cfg.kv_heads);
    let list = cfg.segments.list();
    let segments = list.iter().map(|segment| {
        let (queries, keys) = (segment.queries.len(), segment.keys.len());
        let mut hidden = vec![f32::NEG_INFINITY; queries * keys];
        for i in 0..queries {
            for j in cfg.visible(segment, i) {
                hidden[i * keys + j] = 0.0;
            }
        }
        let mask =
            Tensor::<2>::from_data(TensorData::new(hidden, [queries, keys]), (&q.device(), DType::F32)).cast(q.dtype());
        let heads = (0..cfg.heads).map(|h| {
            let rows = |t: &Tensor<2>, r: &Range<usize>, head: usize| {
                t.clone().narrow(0, r.start, r.len()).narrow(1, head * d, d)
            };
            let scores = rows(&q, &segment.queries, h).matmul(rows(&k, &segment.keys, h / group).transpose());
            let scores = capped(scores * cfg.scale, cfg.softcap);
            activation::softmax(scores + mask.clone(), 1).matmul(rows(&v, &segment.keys, h / group))
        });
        Tensor::cat(heads.collect(), 1)
    });
    Tensor::cat(segments.collect(), 0)
}

/// `cap · tanh(x / cap)`, where there is a cap.
pub fn capped(x: Tensor<2>, cap: Option<f64>) -> Tensor<2> {
    match cap {
        None => x,
        Some(cap) => (x / cap).tanh() * cap,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::*;

    fn cfg(window: Option<usize>, segments: &[(Range<usize>, Range<usize>)]) -> AttentionCfg {
        let segments = segments
            .iter()
            .map(|(q, k)| Segment {
                queries: q.clone(),
                keys: k.clone(),
            })
            .collect();
        AttentionCfg {
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
            scale: 0.4,
            window,
            causal: true,
            softcap: None,
            segments,
        }
    }

    #[test]
    fn equals_the_reference_in_value_and_gradient() {
        // Lengths around the kernel's block of queries, and single tokens.
        let packed = [(0..70, 0..70), (70..71, 70..71), (71..200, 71..200)];
        let cached = [(0..3, 0..90), (3..200, 90..300)];
        for (segments, keys) in [(&packed[..], 200), (&cached[..], 300)] {
            for window in [None, Some(5), Some(100)] {
                let cfg = cfg(window, segments);
                assert_parity(
                    &[random(1, [200, 32]), random(2, [keys, 16]), random(3, [keys, 16])],
                    |_, i| attention(i[0].clone(), i[1].clone(), i[2].clone(), cfg.clone()),
                    |i| reference(i[0].clone(), i[1].clone(), i[2].clone(), cfg.clone()),
                    2e-5,
                );
            }
            let whole = AttentionCfg {
                causal: false,
                ..cfg(None, segments)
            };
            // Scores reach 2, so that the cap bends them.
            let capped = AttentionCfg {
                softcap: Some(1.5),
                ..cfg(Some(100), segments)
            };
            for cfg in [whole, capped] {
                assert_parity(
                    &[random(1, [200, 32]), random(2, [keys, 16]), random(3, [keys, 16])],
                    |_, i| attention(i[0].clone(), i[1].clone(), i[2].clone(), cfg.clone()),
                    |i| reference(i[0].clone(), i[1].clone(), i[2].clone(), cfg.clone()),
                    2e-5,
                );
            }
        }
    }

    #[test]
    fn decoding_from_one_buffer_equals_the_reference() {
        // Three sequences in rows of 40 keys, written up to the 33rd.
        let even = [(0..1, 4..33), (1..2, 40..73), (2..3, 80 + 31..80 + 33)];
        let uneven = [(0..1, 4..33), (1..2, 40..71), (2..3, 80..81)];
        for segments in [&even[..], &uneven[..]] {
            for (window, softcap) in [(None, None), (Some(7), None), (Some(7), Some(1.5))] {
                let cfg = AttentionCfg {
                    softcap,
                    ..cfg(window, segments)
                };
                let [q, k, v] = [random(1, [3, 32]), random(2, [120, 16]), random(3, [120, 16])];
                let wanted = reference(q.clone(), k.clone(), v.clone(), cfg.clone());
                for place in Place::all() {
                    let found = attention(place.put(&q), place.put(&k), place.put(&v), cfg.clone());
                    place.assert_close("values", &found, &wanted, 2e-5);
                }
            }
        }
    }
}
