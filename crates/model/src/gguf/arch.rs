//! What llama.cpp calls the tensors and settings of each architecture, one file each. Facts from the tables of gguf-py, the
//! classes of `convert_hf_to_gguf.py`, and `src/models` of llama.cpp for what it does with them.
mod gemma2;
mod gemma3;
mod gpt2;
mod gptneox;
mod llama;
mod olmo2;
mod phi3;
mod positions;
mod qwen2;
mod qwen3;
mod smollm3;

use super::write::{Metadata, Value};
use crate::family::Shape;
use crate::merge::transpose;
use crate::{Checkpoint, ModelError, Result};
use serde_json::Value as Json;
use std::borrow::Cow;

pub use llama::LLAMA;
pub(super) use positions::factors;

type Problem<T> = std::result::Result<T, String>;
/// Without `NAME.`
type Settings = Vec<(&'static str, Value)>;

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
    /// Modules, by the end of their path, whose numbers llama.cpp keeps otherwise than the checkpoint.
    pub kept: &'static [(&'static str, Kept)],
    /// The setting that is the epsilon of the norms, its key in `config.json`, and transformers' default.
    pub epsilon: (&'static str, &'static str, f64),
    /// Settings that not all have; or what the config says that llama.cpp would not do.
    pub special: fn(&Checkpoint, &Shape) -> Problem<Settings>,
}

/// How llama.cpp keeps what a checkpoint has in another way.
#[derive(Debug, Clone, Copy)]
pub enum Kept {
    /// Rows with the two halves of each head interleaved; of so many heads.
    Interleaved(fn(&Shape) -> usize),
    /// Rows of all queries, then all keys, then all values, where the checkpoint has them head by head.
    Parted,
    /// A matrix `[out, in]`, stored `[in, out]`.
    Transposed,
    /// A weight as it is, stored less 1.
    WithOne,
}

const ALL: [&Architecture; 10] = [
    &LLAMA,
    &qwen2::QWEN2,
    &qwen3::QWEN3,
    &smollm3::SMOLLM3,
    &olmo2::OLMO2,
    &phi3::PHI3,
    &gemma2::GEMMA2,
    &gemma3::GEMMA3,
    &gpt2::GPT2,
    &gptneox::GPTNEOX,
];

/// The names shared by the descendants of Llama.
const ENDS: &[(&str, &str)] = &[
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];
const RMS: (&str, &str, f64) = ("attention.layer_norm_rms_epsilon", "rms_norm_eps", 1e-6);

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
    /// llama.cpp's name of a checkpoint's tensor, which may lack what stands before the first dot (GPT-2's on the hub).
    pub fn gguf_name(&self, key: &str) -> Option<String> {
        let whole = self.blocks.split('.').next().map(|model| format!("{model}.{key}"));
        self.named(key).or_else(|| self.named(&whole?))
    }

    fn named(&self, key: &str) -> Option<String> {
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

    /// `key`: a tensor or module of the checkpoint.
    fn kept(&self, key: &str) -> Option<Kept> {
        let path = key.strip_suffix(".weight").or(key.strip_suffix(".bias")).unwrap_or(key);
        let found = self.kept.iter().find(|(module, _)| path.ends_with(module));
        found.map(|(_, kept)| *kept)
    }

    /// For each row of llama.cpp's order, the row of the checkpoint it is; `None` where the order is the same.
    pub fn order(&self, key: &str, shape: &Shape, rows: usize) -> Problem<Option<Vec<usize>>> {
        let (heads, parts) = match self.kept(key) {
            Some(Kept::Interleaved(heads)) => (heads(shape).max(1), 2),
            Some(Kept::Parted) => (shape.heads.max(1), 3),
            _ => return Ok(None),
        };
        if rows == 0 || !rows.is_multiple_of(parts * heads) {
            return Err(format!(
                "`{key}` has {rows} rows, wanted a multiple of {parts} times its {heads} heads"
            ));
        }
        let part = rows / heads / parts;
        let source = |row: usize| match parts {
            2 => {
                let (head, at) = (row / (2 * part), row % (2 * part));
                head * 2 * part + at % 2 * part + at / 2
            }
            _ => {
                let (nth, head, at) = (row / (heads * part), row / part % heads, row % part);
                head * 3 * part + nth * part + at
            }
        };
        Ok(Some((0..rows).map(source).collect()))
    }

    /// A tensor's shape in the GGUF.
    pub fn shape(&self, key: &str, shape: &[usize]) -> Vec<usize> {
        match (self.kept(key), shape) {
            (Some(Kept::Transposed), [inputs, outputs]) => vec![*outputs, *inputs],
            _ => shape.to_vec(),
        }
    }

    /// The numbers of the tensor `key` of `stored` dimensions, as llama.cpp keeps them.
    pub fn values<'v>(&self, key: &str, model: &Shape, stored: &[usize], values: &'v [f32]) -> Problem<Cow<'v, [f32]>> {
        let rows = stored.first().copied().unwrap_or(1);
        if let Some(order) = self.order(key, model, rows)? {
            return Ok(reordered(values, values.len() / rows, &order).into());
        }
        Ok(match (self.kept(key), stored) {
            (Some(Kept::Transposed), [_, outputs]) => transpose(values, *outputs).into(),
            (Some(Kept::WithOne), _) => values.iter().map(|value| value + 1.0).collect(),
            _ => values.into(),
        })
    }

    /// Settings of the model out of `config.json`, `NAME.` before each key.
    pub fn metadata(&self, base: &Checkpoint, shape: &Shape) -> Problem<Metadata> {
        let number = |value: usize| Value::U32(value as u32);
        let head_dim = shape.q_width / shape.heads.max(1);
        let (setting, key, default) = self.epsilon;
        let epsilon = base.config[key].as_f64().unwrap_or(default);
        let mut out = vec![
            ("vocab_size", number(shape.vocab)),
            ("context_length", number(shape.context)),
            ("embedding_length", number(shape.hidden)),
            ("block_count", number(shape.layers)),
            ("feed_forward_length", number(shape.inner)),
            ("attention.head_count", number(shape.heads)),
            ("attention.head_count_kv", number(kv_heads(shape))),
            (setting, Value::F32(epsilon as f32)),
            ("attention.key_length", number(head_dim)),
            ("attention.value_length", number(head_dim)),
        ];
        if shape.rotary > 0 {
            out.extend(positions::settings(self.name, base, shape)?);
        }
        out.extend((self.special)(base, shape)?);
        Ok(out
            .into_iter()
            .map(|(key, value)| (format!("{}.{key}", self.name), value))
            .collect())
    }
}

/// Rows of `width` numbers in another order.
pub(super) fn reordered(values: &[f32], width: usize, order: &[usize]) -> Vec<f32> {
    order
        .iter()
        .flat_map(|row| &values[row * width..][..width])
        .copied()
        .collect()
}

fn known(layer: &str, leaf: &str) -> bool {
    matches!(leaf, "weight" | "bias") && layer.parse::<u32>().is_ok()
}

fn kv_heads(shape: &Shape) -> usize {
    shape.kv_width * shape.heads / shape.q_width.max(1)
}

/// A llama.cpp architecture that attends to everything, and has biases on q, k and v at most.
fn plain(base: &Checkpoint, _: &Shape) -> Problem<Settings> {
    everything_attended(&base.config)?;
    no_biases(&base.config)?;
    Ok(Vec::new())
}

/// Where llama.cpp attends to all tokens, whatever the metadata says.
fn everything_attended(config: &Json) -> Problem<()> {
    let window = config["sliding_window"].as_u64().filter(|window| *window > 0);
    let used = config["use_sliding_window"].as_bool().unwrap_or(true);
    let context = config["max_position_embeddings"].as_u64().unwrap_or(u64::MAX);
    match window {
        Some(window) if used && window < context => Err(format!("a sliding window of {window} tokens")),
        _ => Ok(()),
    }
}

fn no_biases(config: &Json) -> Problem<()> {
    match ["attention_bias", "mlp_bias"]
        .into_iter()
        .find(|key| config[*key] == true)
    {
        Some(key) => Err(format!("`{key}`, biases that llama.cpp does not read")),
        None => Ok(()),
    }
}

/// Where llama.cpp does not load without a head.
fn own_head(base: &Checkpoint) -> Problem<()> {
    match base.config["tie_word_embeddings"] == true {
        true => Err("a head tied to the embedding, which llama.cpp wants apart".into()),
        false => Ok(()),
    }
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
                let back = arch.hf_name(&name).unwrap();
                // GPT-NeoX's head has two names.
                assert!(back == key || key.starts_with("lm_head"), "{}: {key} {back}", arch.name);
            }
        }
        assert_eq!(LLAMA.gguf_name("model.layers.0.self_attn.rotary_emb.inv_freq"), None);
        assert_eq!(LLAMA.hf_name("blk.7.ffn_gate_exps.weight"), None);
        assert_eq!(LLAMA.hf_name("blk.x.attn_q.weight"), None);
        // As the hub has GPT-2, saved without its head.
        assert_eq!(
            gpt2::GPT2.gguf_name("h.3.mlp.c_fc.bias").as_deref(),
            Some("blk.3.ffn_up.bias")
        );
    }

    fn config(model_type: &str, key: &str, value: Json) -> Checkpoint {
        let mut config = json!({
            "model_type": model_type, "hidden_size": 32, "intermediate_size": 12, "num_hidden_layers": 6,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 16, "max_position_embeddings": 64,
            "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": null,
            "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64
        });
        if model_type.starts_with("gemma") {
            config["sliding_window"] = 8.into();
        }
        config[key] = value;
        Checkpoint::outline("b", config).unwrap()
    }

    /// Numpy: `np.arange(8).reshape(2, 2, 2).swapaxes(1, 2).reshape(8)`, as the converter permutes for Llama, and
    /// `np.arange(12).reshape(2, 3, 2).swapaxes(0, 1).reshape(12)`, as it takes GPT-NeoX's q, k and v apart.
    #[test]
    fn rows_are_in_the_converters_order() {
        let shape = crate::causal_lm::shape(&config("llama", "x", Json::Null)).unwrap();
        let order = |key: &str, rows| LLAMA.order(key, &shape, rows).unwrap();
        assert_eq!(
            order("model.layers.0.self_attn.k_proj.weight", 8).unwrap(),
            [0, 2, 1, 3, 4, 6, 5, 7]
        );
        assert!(LLAMA.order("model.layers.0.self_attn.q_proj", &shape, 12).is_err());
        assert_eq!(
            order("model.layers.0.self_attn.q_proj", 8).unwrap(),
            [0, 1, 2, 3, 4, 5, 6, 7]
        );
        assert_eq!(order("model.layers.0.self_attn.v_proj.weight", 8), None);
        let shape = Shape { heads: 2, ..shape };
        let parted = gptneox::GPTNEOX.order("gpt_neox.layers.0.attention.query_key_value.bias", &shape, 12);
        assert_eq!(parted.unwrap().unwrap(), [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
    }

    #[test]
    fn what_llama_cpp_would_do_otherwise_is_refused() {
        let told = |model_type: &str, key: &str, value: Json| {
            let base = config(model_type, key, value);
            let shape = crate::causal_lm::shape(&base).unwrap();
            of(&base).unwrap().metadata(&base, &shape).err()
        };
        for arch in ALL {
            for model_type in arch.model_types {
                assert_eq!(told(model_type, "x", Json::Null), None, "{model_type}");
            }
        }
        let yarn = json!({"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32});
        assert_eq!(told("qwen2", "rope_scaling", yarn), None);
        let yarn = json!({"type": "yarn", "factor": 2.0, "attention_factor": 1.5});
        let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64});
        let locally = json!({"full_attention": {}, "sliding_attention": {"rope_type": "linear", "factor": 2.0}});
        let cases = [
            ("mistral", "sliding_window", json!(8), "a sliding window of 8 tokens"),
            ("qwen3", "attention_bias", json!(true), "`attention_bias`"),
            ("qwen2", "rope_scaling", yarn, "`yarn`"),
            ("qwen2", "rope_scaling", llama3, "llama.cpp's qwen2"),
            (
                "smollm3",
                "no_rope_layers",
                json!([1, 1, 1, 1, 1, 1]),
                "positions in layer 4",
            ),
            ("smollm3", "no_rope_layer_interval", json!(2), "no positions in layer 2"),
            ("olmo2", "tie_word_embeddings", json!(true), "tied"),
            ("gpt_neox", "attention_bias", json!(false), "wants biases"),
            ("gpt2", "scale_attn_weights", json!(false), "scale_attn_weights"),
            ("gpt2", "scale_attn_by_inverse_layer_idx", json!(true), "layer's number"),
            (
                "gemma2",
                "query_pre_attn_scalar",
                json!(9),
                "is 9, and llama.cpp takes 8",
            ),
            ("gemma2", "attn_logit_softcapping", Json::Null, "is null"),
            ("gemma2", "sliding_window", Json::Null, "without a `sliding_window`"),
            (
                "gemma3_text",
                "sliding_window_pattern",
                json!(3),
                "each 6th layer global",
            ),
            (
                "gemma3_text",
                "rope_parameters",
                locally,
                "local layers stretched by `linear`",
            ),
        ];
        for (model_type, key, value, wanted) in cases {
            let told = told(model_type, key, value).unwrap_or_default();
            assert!(told.contains(wanted), "{model_type} {key}: {told}");
        }
    }

    /// `GemmaConfig` of a 27B: `LLM_TYPE_27B` is found by its layers.
    #[test]
    fn the_largest_gemma_scales_by_another_width() {
        for (model_type, layers) in [("gemma2", 46), ("gemma3_text", 62)] {
            let mut base = config(model_type, "num_hidden_layers", json!(layers));
            base.config["num_key_value_heads"] = 1.into();
            base.config["head_dim"] = 4.into();
            let shape = crate::causal_lm::shape(&config(model_type, "num_hidden_layers", json!(layers))).unwrap();
            assert!(
                of(&base).unwrap().metadata(&base, &shape).is_ok(),
                "{model_type}: 32 over 4 heads"
            );
        }
    }
}
