//! A base that is a config alone, its weights made up: what `tune bench` measures. Nothing is trained on one in earnest.
use crate::checkpoint::Checkpoint;
use crate::load::Weights;
use crate::{Precision, Result, family};
use burn::tensor::Device;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// A base of the family and sizes `config` (a `config.json`) says. It has no tokenizer.
pub fn random_base(name: &str, config: Value) -> Result<Checkpoint> {
    let empty = Checkpoint::made_up(name, config.clone(), BTreeMap::new());
    let asked = RefCell::new(BTreeMap::new());
    // Any device does: nothing is read.
    let device = Device::flex();
    let mut progress = |_, _| ();
    let weights = Weights::new(&empty, &device, Precision::F32, false, &mut progress).recorded_in(&asked);
    drop(family::load(&empty, weights)?);
    Ok(Checkpoint::made_up(name, config, asked.into_inner()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causal_lm::sizes;
    use serde_json::json;

    #[test]
    fn a_config_is_enough_for_a_base() {
        let config = json!({
            "model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 10, "max_position_embeddings": 16
        });
        let base = random_base("tiny", config).unwrap();
        assert_eq!(base.tensors()["model.layers.1.self_attn.k_proj.weight"].shape, [4, 8]);
        // Untied: embedding and head, then the blocks and three kinds of norms.
        let linears = 2 * (8 * 8 + 2 * 4 * 8 + 8 * 8 + 3 * 8 * 12);
        assert_eq!(
            sizes(&base, None, Precision::F32).unwrap().total_params,
            2 * 80 + linears + 5 * 8
        );
        assert_eq!(base.read_f32("model.norm.weight").unwrap(), [1.0; 8]);
        let head = base.read_f32("lm_head.weight").unwrap();
        let spread = (head.iter().map(|x| x * x).sum::<f32>() / 80.0).sqrt();
        assert!((0.01..0.03).contains(&spread), "{spread}");
    }
}
