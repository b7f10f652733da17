//! Made-up weights in the form of stored ones, for measuring: every tensor is a window of one block of numbers, so that
//! 8 billion parameters cost the memory of the largest tensor and no time to draw.
use super::{StoredType, TensorInfo};
use crate::noise;
use half::bf16;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// As `initializer_range` of most configs.
const DEVIATION: f64 = 0.02;
/// Numbers drawn; they repeat after these. A prime, so that the rows of no matrix line up.
const DRAWN: usize = 65_537;

pub(super) struct Random {
    tensors: BTreeMap<String, TensorInfo>,
    /// For matrices and for the weights of norms; made when the first is asked for.
    blocks: OnceLock<(Vec<bf16>, Vec<bf16>)>,
}

impl Random {
    /// All in bf16.
    pub(super) fn new(mut tensors: BTreeMap<String, TensorInfo>) -> Self {
        for info in tensors.values_mut() {
            info.dtype = StoredType::BF16;
        }
        Self {
            tensors,
            blocks: OnceLock::new(),
        }
    }

    pub(super) fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    pub(super) fn values(&self, info: &TensorInfo) -> &[bf16] {
        let (drawn, ones) = self
            .blocks
            .get_or_init(|| (draw(self.largest(2)), vec![bf16::ONE; self.largest(1)]));
        let block = if info.shape.len() == 1 { ones } else { drawn };
        &block[..info.elements()]
    }

    fn largest(&self, dimensions: usize) -> usize {
        let alike = self.tensors.values().filter(|info| info.shape.len() == dimensions);
        alike.map(TensorInfo::elements).max().unwrap_or(0)
    }
}

fn draw(count: usize) -> Vec<bf16> {
    // Uniform in ±√3σ has the deviation σ.
    let width = DEVIATION * 3f64.sqrt();
    let one = |i: usize| bf16::from_f64((2.0 * noise::uniform(0, i as u64) - 1.0) * width);
    let mut drawn = (0..DRAWN).map(one).collect::<Vec<_>>().repeat(count.div_ceil(DRAWN));
    drawn.truncate(count);
    drawn
}

#[cfg(test)]
mod tests {
    use crate::causal_lm::sizes;
    use crate::{Checkpoint, Precision};
    use serde_json::json;

    #[test]
    fn a_config_is_enough_for_a_base() {
        let config = json!({
            "model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 10, "max_position_embeddings": 16
        });
        let base = Checkpoint::outline("tiny", config).unwrap();
        assert_eq!(base.tensors()["model.layers.1.self_attn.k_proj.weight"].shape, [4, 8]);
        // Untied: embedding and head, then the blocks and three kinds of norms.
        let linears = 2 * (8 * 8 + 2 * 4 * 8 + 8 * 8 + 3 * 8 * 12);
        let parameters = sizes(&base, None, Precision::F32).unwrap().total_params;
        assert_eq!(parameters, 2 * 80 + linears + 5 * 8);
        assert_eq!(base.read_f32("model.norm.weight").unwrap(), [1.0; 8]);
        let head = base.read_f32("lm_head.weight").unwrap();
        let spread = (head.iter().map(|x| x * x).sum::<f32>() / 80.0).sqrt();
        assert!((0.01..0.03).contains(&spread), "{spread}");
    }
}
