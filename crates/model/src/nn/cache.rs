//! Keys and values of every layer and sequence, written once.
//!
//! ```text
//! sequence 0  . . . P P P g g .      P of the prompt, g generated
//! sequence 1  P P P P P P g g .
//! ```
//! Prompts end at the same column, so that one write a layer appends the next token of every sequence, and one attention call
//! serves them all.
use crate::ops::{Segment, attention, attention::AttentionCfg};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

/// One layer, `[sequences, capacity, kv_heads * head_dim]`.
struct Layer {
    k: Tensor<3>,
    v: Tensor<3>,
    /// Columns written so far.
    end: usize,
}

pub struct Cache {
    capacity: usize,
    /// The number of the sequence in each row, and its first column.
    sequences: Vec<(usize, usize)>,
    /// `None` until the layer is first fed.
    layers: Vec<Option<Layer>>,
    device: Device,
    dtype: DType,
}

impl Cache {
    /// For sequences `(number, tokens of its prompt)` that go on for at most `further` tokens.
    pub fn new(layers: usize, prompts: &[(usize, usize)], further: usize, device: &Device, dtype: DType) -> Self {
        let longest = prompts.iter().map(|(_, length)| *length).max().unwrap_or(0);
        Self {
            capacity: longest + further,
            sequences: prompts
                .iter()
                .map(|(number, length)| (*number, longest - length))
                .collect(),
            layers: (0..layers).map(|_| None).collect(),
            device: device.clone(),
            dtype,
        }
    }

    /// The next passes' segments belong to these sequences, some of those held, in order; the others are dropped.
    pub fn select(&mut self, sequences: &[usize]) {
        let kept: Vec<usize> = (0..self.sequences.len())
            .filter(|row| sequences.contains(&self.sequences[*row].0))
            .collect();
        if kept.len() == self.sequences.len() {
            return;
        }
        let rows: Vec<i32> = kept.iter().map(|row| *row as i32).collect();
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [kept.len()]), &self.device);
        for layer in self.layers.iter_mut().flatten() {
            layer.k = layer.k.clone().select(0, rows.clone());
            layer.v = layer.v.clone().select(0, rows.clone());
        }
        self.sequences = kept.into_iter().map(|row| self.sequences[row]).collect();
    }

    /// Appends the keys and values of each segment's queries to its sequence and attends over all of it.
    pub fn attend(&mut self, layer: usize, q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, cfg: AttentionCfg) -> Tensor<2> {
        let (rows, width) = (self.sequences.len(), k.dims()[1]);
        let empty = || Tensor::zeros([rows, self.capacity, width], (&self.device, self.dtype));
        // Taken out, so that no second handle keeps the buffers from being written in place.
        let held = self.layers[layer].take().unwrap_or_else(|| Layer {
            k: empty(),
            v: empty(),
            end: 0,
        });
        let list = cfg.segments.list();
        let longest = list.iter().map(|s| s.queries.len()).max().unwrap_or(0);
        let end = held.end + longest;
        let held = Layer {
            k: append(held.k, k, &list, end),
            v: append(held.v, v, &list, end),
            end,
        };
        let segments = list.iter().zip(&self.sequences).enumerate();
        let segments = segments.map(|(row, (segment, (_, start)))| Segment {
            queries: segment.queries.clone(),
            keys: row * self.capacity + start..row * self.capacity + end,
        });
        let cfg = AttentionCfg {
            segments: segments.collect(),
            ..cfg
        };
        let flat = |t: &Tensor<3>| t.clone().reshape([rows * self.capacity, width]);
        let out = attention::attention(q, flat(&held.k), flat(&held.v), cfg);
        self.layers[layer] = Some(held);
        out
    }
}

/// Writes each segment's rows into the columns before `end`.
fn append(buffer: Tensor<3>, new: Tensor<2>, segments: &[Segment], end: usize) -> Tensor<3> {
    let width = new.dims()[1];
    let first = segments.first().map_or(0, |s| s.queries.len());
    if segments.iter().all(|s| s.queries.len() == first) {
        let new = new.reshape([segments.len(), first, width]);
        return buffer.slice_assign([0..segments.len(), end - first..end, 0..width], new);
    }
    segments.iter().enumerate().fold(buffer, |buffer, (row, segment)| {
        let n = segment.queries.len();
        let new = new.clone().narrow(0, segment.queries.start, n).unsqueeze::<3>();
        buffer.slice_assign([row..row + 1, end - n..end, 0..width], new)
    })
}
