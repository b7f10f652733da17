//! What llama.cpp calls the tensors and settings of each architecture, one file each. Facts from the tables of gguf-py and
//! the classes of `convert_hf_to_gguf.py`.
mod llama;
mod qwen2;
mod qwen3;

use super::write::{Metadata, Value};
use crate::{Checkpoint, ModelError, Result};
use serde_json::Value as Json;

pub use llama::LLAMA;

/// One architecture of llama.cpp.
pub struct Architecture {
    /// `general.architecture`
    pub name: &'static str,
    /// `model_type`s of `config.json`.
    pub model_types: &'static [&'static str],
    /// Tensors outside the blocks, checkpoint key first.
    pub ends: &'static [(&'static str, &'static str)],
    /// What a block's number follows in a checkpoint key.
    pub blocks: &'static str,
    /// Modules of a block, checkpoint key first.
    pub modules: &'static [(&'static str, &'static str)],
    /// Modules whose rows llama.cpp keeps in another order, with the key of `config.json` that counts their heads: the two
    /// halves of each head interleaved.
    pub interleaved: &'static [(&'static str, &'static str)],
    /// What a config may say that llama.cpp would not do.
    pub refuse: fn(&Json) -> Option<String>,
}

const ALL: [&Architecture; 3] = [&LLAMA, &qwen2::QWEN2, &qwen3::QWEN3];

/// The names shared by the descendants of Llama.
const ENDS: &[(&str, &str)] = &[
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];

/// The architecture of a base, or an error that names those there are.
pub fn of(base: &Checkpoint) -> Result<&'static Architecture> {
    let found = base.config["model_type"].as_str().unwrap_or("(none)");
    let arch = ALL.iter().find(|arch| arch.model_types.contains(&found));
    let names: Vec<_> = ALL.iter().flat_map(|arch| arch.model_types).copied().collect();
    arch.copied().ok_or_else(|| {
        refused(
            base,
            vec![format!("the model type `{found}`, wanted {}", names.join(", "))],
        )
    })
}

/// A base that we cannot write as GGUF.
pub(super) fn refused(base: &Checkpoint, problems: Vec<String>) -> ModelError {
    ModelError::Unsupported {
        path: base.name.clone().into(),
        problems,
        hint: "write --merged DIR, and let convert_hf_to_gguf.py of llama.cpp make a GGUF of that folder".into(),
    }
}

impl Architecture {
    /// llama.cpp's name of a checkpoint's tensor.
    pub fn gguf_name(&self, key: &str) -> Option<String> {
        if let Some((_, name)) = self.ends.iter().find(|(hf, _)| *hf == key) {
            return Some(name.to_string());
        }
        let (layer, rest) = key.strip_prefix(self.blocks)?.split_once('.')?;
        let (module, leaf) = rest.rsplit_once('.')?;
        let (_, name) = self.modules.iter().find(|(hf, _)| *hf == module)?;
        known(layer, leaf).then(|| format!("blk.{layer}.{name}.{leaf}"))
    }

    /// A checkpoint's name of llama.cpp's tensor.
    pub fn hf_name(&self, name: &str) -> Option<String> {
        if let Some((hf, _)) = self.ends.iter().find(|(_, gguf)| *gguf == name) {
            return Some(hf.to_string());
        }
        let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
        let (module, leaf) = rest.rsplit_once('.')?;
        let (hf, _) = self.modules.iter().find(|(_, gguf)| *gguf == module)?;
        known(layer, leaf).then(|| format!("{}{layer}.{hf}.{leaf}", self.blocks))
    }

    /// For each row of llama.cpp's order, the row of the checkpoint it is; `None` where the order is the same. `key`: a
    /// tensor or module of the checkpoint.
    pub fn order(&self, key: &str, config: &Json, rows: usize) -> std::result::Result<Option<Vec<usize>>, String> {
        let path = key.strip_suffix(".weight").or(key.strip_suffix(".bias")).unwrap_or(key);
        let Some((_, heads)) = self.interleaved.iter().find(|(module, _)| path.ends_with(module)) else {
            return Ok(None);
        };
        let heads = heads_of(config, heads);
        if rows == 0 || !rows.is_multiple_of(2 * heads) {
            return Err(format!(
                "`{key}` has {rows} rows, wanted a multiple of twice its {heads} heads"
            ));
        }
        let half = rows / heads / 2;
        let source = |row: usize| {
            let (head, at) = (row / (2 * half), row % (2 * half));
            head * 2 * half + at % 2 * half + at / 2
        };
        Ok(Some((0..rows).map(source).collect()))
    }

    /// Settings of the model out of `config.json`, `NAME.` before each key.
    pub fn metadata(&self, base: &Checkpoint, vocab: usize) -> std::result::Result<Metadata, String> {
        let config = &base.config;
        let integer = |key: &str| {
            let value = config[key].as_u64().and_then(|value| u32::try_from(value).ok());
            value.ok_or_else(|| format!("`{key}` is {}, wanted a number", config[key]))
        };
        let heads = integer("num_attention_heads")?;
        let head_dim = head_dim(config);
        let kv_heads = heads_of(config, "num_key_value_heads") as u32;
        let eps = config["rms_norm_eps"].as_f64().unwrap_or(1e-6);
        let mut out = vec![
            ("vocab_size", Value::U32(vocab as u32)),
            ("context_length", Value::U32(integer("max_position_embeddings")?)),
            ("embedding_length", Value::U32(integer("hidden_size")?)),
            ("block_count", Value::U32(integer("num_hidden_layers")?)),
            ("feed_forward_length", Value::U32(integer("intermediate_size")?)),
            ("attention.head_count", Value::U32(heads)),
            ("attention.head_count_kv", Value::U32(kv_heads)),
            ("attention.layer_norm_rms_epsilon", Value::F32(eps as f32)),
            ("attention.key_length", Value::U32(head_dim as u32)),
            ("attention.value_length", Value::U32(head_dim as u32)),
            ("rope.dimension_count", Value::U32(head_dim as u32)),
            ("rope.freq_base", Value::F32(rope_theta(config) as f32)),
        ];
        // Llama 3's kind is a tensor of its own.
        if let (Some("linear"), Some(scaling)) = (rope_kind(config), rope_scaling(config)) {
            let factor = scaling["factor"].as_f64().unwrap_or(1.0);
            out.push(("rope.scaling.type", Value::Text("linear".into())));
            out.push(("rope.scaling.factor", Value::F32(factor as f32)));
        }
        Ok(out
            .into_iter()
            .map(|(key, value)| (format!("{}.{key}", self.name), value))
            .collect())
    }
}

fn known(layer: &str, leaf: &str) -> bool {
    matches!(leaf, "weight" | "bias") && layer.parse::<u32>().is_ok()
}

/// A count of heads; key/value heads are as many as the others where no file says.
fn heads_of(config: &Json, key: &str) -> usize {
    let count = config[key].as_u64().or(config["num_attention_heads"].as_u64());
    count.unwrap_or(1).max(1) as usize
}

pub(super) fn head_dim(config: &Json) -> usize {
    let shared = config["hidden_size"].as_u64().unwrap_or(0) as usize / heads_of(config, "num_attention_heads");
    config["head_dim"].as_u64().map_or(shared, |dim| dim as usize)
}

/// `rope_parameters` of transformers 5, `rope_scaling` before.
fn rope_scaling(config: &Json) -> Option<&Json> {
    let object = |key: &str| config.get(key).filter(|value| value.is_object());
    object("rope_parameters").or(object("rope_scaling"))
}

pub(super) fn rope_theta(config: &Json) -> f64 {
    let theta = rope_scaling(config).and_then(|scaling| scaling.get("rope_theta"));
    theta
        .or(config.get("rope_theta"))
        .and_then(Json::as_f64)
        .unwrap_or(10_000.0)
}

/// How positions are stretched: `linear`, `llama3`, ...
pub(super) fn rope_kind(config: &Json) -> Option<&str> {
    let scaling = rope_scaling(config)?;
    scaling.get("rope_type").or(scaling.get("type"))?.as_str()
}

/// Attention to fewer than all tokens, where the config asks for it.
fn sliding_window(config: &Json) -> Option<String> {
    let window = config["sliding_window"].as_u64().filter(|window| *window > 0)?;
    let used = config["use_sliding_window"].as_bool().unwrap_or(true);
    let context = config["max_position_embeddings"].as_u64().unwrap_or(u64::MAX);
    (used && window < context).then(|| format!("a sliding window of {window} tokens"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_go_both_ways() {
        for arch in ALL {
            let ends = arch.ends.iter().map(|(hf, _)| hf.to_string());
            let modules = arch
                .modules
                .iter()
                .map(|(hf, _)| format!("{}7.{hf}.weight", arch.blocks));
            for key in ends.chain(modules) {
                let name = arch.gguf_name(&key).unwrap();
                assert_eq!(arch.hf_name(&name), Some(key), "{}", arch.name);
            }
        }
        assert_eq!(LLAMA.gguf_name("model.layers.0.self_attn.rotary_emb.inv_freq"), None);
        assert_eq!(LLAMA.hf_name("blk.7.ffn_gate_exps.weight"), None);
        assert_eq!(LLAMA.hf_name("blk.x.attn_q.weight"), None);
    }

    /// Numpy: `np.arange(8).reshape(2, 2, 2).swapaxes(1, 2).reshape(8)`, as the converter permutes.
    #[test]
    fn llama_interleaves_the_halves_of_each_head() {
        let config = json!({"num_attention_heads": 4, "num_key_value_heads": 2});
        let order = |key: &str, rows| LLAMA.order(key, &config, rows).unwrap();
        assert_eq!(
            order("model.layers.0.self_attn.k_proj.weight", 8).unwrap(),
            [0, 2, 1, 3, 4, 6, 5, 7]
        );
        assert!(LLAMA.order("model.layers.0.self_attn.q_proj", &config, 12).is_err());
        assert_eq!(
            order("model.layers.0.self_attn.q_proj", 8).unwrap(),
            [0, 1, 2, 3, 4, 5, 6, 7]
        );
        assert_eq!(order("model.layers.0.self_attn.v_proj.weight", 8), None);
    }
}
