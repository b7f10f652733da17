//! Made-up weights in the form of stored ones, for measuring: every tensor is a window of one block of numbers, so that
//! 8 billion parameters cost the memory of the largest tensor and no time to draw.
use super::{StoredType, TensorInfo};
use crate::noise;
use half::bf16;
use std::collections::BTreeMap;

/// As `initializer_range` of most configs.
const DEVIATION: f64 = 0.02;
/// Numbers drawn; they repeat after these. A prime, so that the rows of no matrix line up.
const DRAWN: usize = 65_537;

pub(super) struct Random {
    tensors: BTreeMap<String, TensorInfo>,
    /// bf16, for matrices.
    drawn: Vec<bf16>,
    /// bf16, for the weights of norms.
    ones: Vec<bf16>,
}

impl Random {
    pub(super) fn new(shapes: BTreeMap<String, Vec<usize>>) -> Self {
        let info = |shape| TensorInfo {
            dtype: StoredType::BF16,
            shape,
        };
        let tensors: BTreeMap<_, _> = shapes.into_iter().map(|(name, shape)| (name, info(shape))).collect();
        let largest = |vectors: bool| {
            let of_kind = tensors.values().filter(|info| (info.shape.len() == 1) == vectors);
            of_kind.map(TensorInfo::elements).max().unwrap_or(0)
        };
        // Uniform in ±√3σ has the deviation σ.
        let width = DEVIATION * 3f64.sqrt();
        let draw = |i: usize| bf16::from_f64((2.0 * noise::uniform(0, i as u64) - 1.0) * width);
        let block: Vec<bf16> = (0..DRAWN).map(draw).collect();
        let mut drawn = block.repeat(largest(false).div_ceil(DRAWN));
        drawn.truncate(largest(false));
        Self {
            drawn,
            ones: vec![bf16::ONE; largest(true)],
            tensors,
        }
    }

    pub(super) fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    pub(super) fn values(&self, info: &TensorInfo) -> &[bf16] {
        let block = if info.shape.len() == 1 { &self.ones } else { &self.drawn };
        &block[..info.elements()]
    }
}
