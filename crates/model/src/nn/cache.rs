//! Keys and values of every layer and sequence, written once, in buffers of a fixed length.
use crate::ops::{Segment, attention, attention::AttentionCfg};
use burn::tensor::{DType, Device, Tensor};

struct Rows {
    /// `[capacity, kv_heads * head_dim]`
    k: Tensor<2>,
    v: Tensor<2>,
    length: usize,
}

/// One entry a sequence and layer. Which sequences a pass feeds, in segment order, is said by [`Cache::select`].
pub struct Cache {
    capacity: Vec<usize>,
    /// `[layer][sequence]`; empty until the layer is first fed.
    rows: Vec<Vec<Option<Rows>>>,
    selected: Vec<usize>,
    device: Device,
    dtype: DType,
}

impl Cache {
    /// `capacity[s]`: tokens sequence `s` may hold.
    pub fn new(layers: usize, capacity: Vec<usize>, device: &Device, dtype: DType) -> Self {
        let rows = (0..layers).map(|_| capacity.iter().map(|_| None).collect()).collect();
        let selected = (0..capacity.len()).collect();
        Self {
            capacity,
            rows,
            selected,
            device: device.clone(),
            dtype,
        }
    }

    /// The next passes' segments belong to these sequences.
    pub fn select(&mut self, sequences: Vec<usize>) {
        self.selected = sequences;
    }

    /// Appends each segment's keys and values to its sequence and attends over all of it.
    pub fn attend(
        &mut self,
        layer: usize,
        q: Tensor<2>,
        k: Tensor<2>,
        v: Tensor<2>,
        segments: &[Segment],
        cfg: impl Fn(Segment) -> AttentionCfg,
    ) -> Tensor<2> {
        let width = k.dims()[1];
        let outputs = segments.iter().zip(&self.selected).map(|(segment, &sequence)| {
            let (start, n) = (segment.queries.start, segment.queries.len());
            let empty = || Tensor::zeros([self.capacity[sequence], width], (&self.device, self.dtype));
            let rows = self.rows[layer][sequence].take().unwrap_or_else(|| Rows {
                k: empty(),
                v: empty(),
                length: 0,
            });
            let end = rows.length + n;
            let put = |buffer: Tensor<2>, new: &Tensor<2>| {
                buffer.slice_assign([rows.length..end, 0..width], new.clone().narrow(0, start, n))
            };
            let rows = Rows {
                k: put(rows.k, &k),
                v: put(rows.v, &v),
                length: end,
            };
            let whole = cfg(Segment {
                queries: 0..n,
                keys: 0..end,
            });
            let q = q.clone().narrow(0, start, n);
            let out = attention::attention(q, rows.k.clone(), rows.v.clone(), whole);
            self.rows[layer][sequence] = Some(rows);
            out
        });
        let mut outputs: Vec<_> = outputs.collect();
        if outputs.len() == 1 {
            outputs.remove(0)
        } else {
            Tensor::cat(outputs, 0)
        }
    }
}
