//! A llama-architecture GGUF (Llama, SmolLM2, TinyLlama, Mistral) as a Hugging Face checkpoint: names, row
//! order of q and k, `config.json`. The inverse of llama.cpp's `convert_hf_to_gguf.py`.
use super::arch::LLAMA;
use super::quant::Kind;
use super::{GgufFile, TensorEntry, tokenizer, unsupported};
use crate::checkpoint::{StoredType, TensorInfo, TextFiles};
use crate::safetensors_file::no_tensor;
use crate::{ModelError, Result};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Bytes of f32 that one thread dequantizes at a time: fits the second-level cache.
const CHUNK: usize = 1 << 18;

pub struct LlamaGguf {
    file: GgufFile,
    infos: BTreeMap<String, TensorInfo>,
    sources: BTreeMap<String, Source>,
}

/// Where a tensor comes from. With `heads`, its rows are in llama.cpp's order.
struct Source {
    name: String,
    heads: Option<usize>,
}

impl LlamaGguf {
    pub(crate) fn release(&self) {
        self.file.release();
    }

    pub fn open(path: &Path) -> Result<Self> {
        let file = GgufFile::open(path)?;
        let problems = refusals(&file);
        if !problems.is_empty() {
            return Err(unsupported(path, problems));
        }
        check_keys(&file)?;
        let (heads, kv_heads) = heads(&file);
        let mut model = Self {
            infos: BTreeMap::new(),
            sources: BTreeMap::new(),
            file,
        };
        let mut unknown = Vec::new();
        let mut damaged = Vec::new();
        for (name, tensor) in model.file.tensors() {
            let Some(hf) = LLAMA.hf_name(name) else {
                if name != "rope_freqs.weight" {
                    unknown.push(format!(
                        "the tensor `{name}`, which the llama architecture does not have"
                    ));
                }
                continue;
            };
            let heads = if name.contains("attn_q.") {
                Some(heads)
            } else if name.contains("attn_k.") {
                Some(kv_heads)
            } else {
                None
            };
            if heads.is_some_and(|heads| tensor.shape[0] % (2 * heads) != 0) {
                damaged.push(format!(
                    "`{name}` has {} rows, wanted a multiple of twice its heads",
                    tensor.shape[0]
                ));
            }
            model.infos.insert(
                hf.clone(),
                TensorInfo {
                    dtype: stored_type(tensor.kind),
                    shape: tensor.shape.clone(),
                },
            );
            model.sources.insert(
                hf,
                Source {
                    name: name.clone(),
                    heads,
                },
            );
        }
        if !model.infos.contains_key("model.embed_tokens.weight") {
            damaged.push("it has no tensor `token_embd.weight`".into());
        }
        match (damaged.is_empty(), unknown.is_empty()) {
            (false, _) => Err(ModelError::Damaged {
                path: path.to_path_buf(),
                problems: damaged,
            }),
            (_, false) => Err(unsupported(path, unknown)),
            _ => Ok(model),
        }
    }

    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.infos
    }

    fn source(&self, name: &str) -> Result<(&Source, &TensorEntry)> {
        let source = self.sources.get(name).ok_or_else(|| no_tensor(name))?;
        let tensor = self.file.tensors().get(&source.name).ok_or_else(|| no_tensor(name))?;
        Ok((source, tensor))
    }

    pub fn stored_bytes(&self, name: &str) -> Result<&[u8]> {
        Ok(self.file.bytes(self.source(name)?.1))
    }

    /// Dequantizes on all cores, each row straight to where it belongs.
    pub fn read_f32_into(&self, name: &str, out: &mut [f32]) -> Result<()> {
        let (source, tensor) = self.source(name)?;
        self.infos[name].check_buffer(name, out.len())?;
        let bytes = self.file.bytes(tensor);
        match source.heads {
            None => dequantize(tensor.kind, bytes, out),
            Some(heads) => dequantize_rotary(tensor, bytes, heads, out),
        }
        Ok(())
    }

    /// `config.json` as the model had it, as far as the metadata tells.
    pub fn config(&self) -> Result<Value> {
        let file = &self.file;
        let (heads, kv_heads) = heads(file);
        let vocab = self.infos["model.embed_tokens.weight"].shape[0];
        let window = file
            .integer("llama.attention.sliding_window")
            .filter(|window| *window > 0);
        let has = |suffix: &str| self.infos.keys().any(|name| name.ends_with(suffix));
        let mut config = json!({
            "architectures": [if window.is_some() { "MistralForCausalLM" } else { "LlamaForCausalLM" }],
            "model_type": if window.is_some() { "mistral" } else { "llama" },
            "attention_bias": has("q_proj.bias"),
            "attention_dropout": 0.0,
            "bos_token_id": file.integer("tokenizer.ggml.bos_token_id"),
            "eos_token_id": file.integer("tokenizer.ggml.eos_token_id"),
            "pad_token_id": file.integer("tokenizer.ggml.padding_token_id"),
            "hidden_act": "silu",
            "hidden_size": file.integer("llama.embedding_length"),
            "intermediate_size": file.integer("llama.feed_forward_length"),
            "initializer_range": 0.02,
            "max_position_embeddings": file.integer("llama.context_length"),
            "mlp_bias": has("up_proj.bias"),
            "num_attention_heads": heads,
            "num_hidden_layers": file.integer("llama.block_count"),
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim(file),
            "rms_norm_eps": file.float("llama.attention.layer_norm_rms_epsilon"),
            "rope_scaling": rope_scaling(file),
            "rope_theta": file.float("llama.rope.freq_base").unwrap_or(10_000.0),
            "tie_word_embeddings": !self.infos.contains_key("lm_head.weight"),
            "torch_dtype": self.torch_dtype(),
            "use_cache": true,
            "vocab_size": vocab,
        });
        if let Some(window) = window {
            config["sliding_window"] = window.into();
        }
        Ok(config)
    }

    /// The type of the embedding where it is a float type, else F32.
    fn torch_dtype(&self) -> &'static str {
        self.infos["model.embed_tokens.weight"].dtype.torch_name()
    }

    /// A turn may end otherwise than a text does (`<|eot_id|>`): both stop the generation.
    pub fn generation_config(&self) -> Value {
        let id = |name: &str| self.file.integer(&format!("tokenizer.ggml.{name}_token_id"));
        let eos = match (id("eos"), id("eot")) {
            (Some(eos), Some(eot)) if eos != eot => json!([eos, eot]),
            (eos, _) => json!(eos),
        };
        json!({"_from_model_config": true, "bos_token_id": id("bos"), "eos_token_id": eos, "pad_token_id": id("padding")})
    }

    pub fn license(&self) -> Option<String> {
        self.file.text("general.license").map(str::to_string)
    }

    pub fn text_files(&self) -> Result<TextFiles> {
        tokenizer::text_files(&self.file, self.infos["model.embed_tokens.weight"].shape[0])
    }
}

/// What this reader would otherwise get silently wrong.
fn refusals(file: &GgufFile) -> Vec<String> {
    let mut problems = Vec::new();
    match file.text("general.architecture") {
        Some("llama") => {}
        Some(other) => problems.push(format!("the architecture `{other}`, wanted `llama`")),
        None => problems.push("it names no `general.architecture`, wanted `llama`".into()),
    }
    if file.integer("llama.expert_count").is_some_and(|experts| experts > 0) {
        problems.push("a mixture of experts".into());
    }
    for key in [
        "llama.attention.head_count",
        "llama.attention.head_count_kv",
        "llama.feed_forward_length",
    ] {
        if file.integers(key).is_some() {
            problems.push(format!("layers that differ from each other (`{key}` is a list)"));
        }
    }
    if file
        .integer("llama.rope.dimension_count")
        .is_some_and(|rotary| head_dim(file) != Some(rotary))
    {
        problems.push("rotary positions on a part of each head".into());
    }
    if let Some(kind @ ("yarn" | "longrope")) = file.text("llama.rope.scaling.type") {
        problems.push(format!("rope scaling of type `{kind}`"));
    }
    if file
        .tensors()
        .get("rope_freqs.weight")
        .is_some_and(|tensor| !is_ones(file, tensor))
    {
        problems.push("rope scaling as in Llama 3.1, of which a GGUF keeps only the resulting factors".into());
    }
    problems
}

fn is_ones(file: &GgufFile, tensor: &TensorEntry) -> bool {
    let mut factors = vec![0.0; tensor.elements()];
    (tensor.kind.dequantize)(file.bytes(tensor), &mut factors);
    factors.iter().all(|factor| *factor == 1.0)
}

fn check_keys(file: &GgufFile) -> Result<()> {
    let integers = [
        "embedding_length",
        "feed_forward_length",
        "context_length",
        "block_count",
        "attention.head_count",
    ];
    let integers = integers.map(|key| format!("llama.{key}"));
    let mut problems: Vec<_> = integers
        .iter()
        .filter(|key| file.integer(key).is_none_or(|value| value == 0))
        .map(|key| format!("the metadata value `{key}` is missing, or not a number above 0"))
        .collect();
    if file.float("llama.attention.layer_norm_rms_epsilon").is_none() {
        problems.push("the metadata value `llama.attention.layer_norm_rms_epsilon` is missing".into());
    }
    if file.integer("llama.attention.head_count_kv") == Some(0) {
        problems.push("the metadata value `llama.attention.head_count_kv` is 0".into());
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(ModelError::Damaged {
            path: file.path().to_path_buf(),
            problems,
        })
    }
}

/// Attention heads, and key/value heads.
fn heads(file: &GgufFile) -> (usize, usize) {
    let heads = file.integer("llama.attention.head_count").unwrap_or(1);
    let kv_heads = file.integer("llama.attention.head_count_kv").unwrap_or(heads);
    // A count that no tensor can have is found when the rows are divided among the heads.
    let bounded = |heads: u64| {
        usize::try_from(heads)
            .unwrap_or(usize::MAX / 2)
            .clamp(1, usize::MAX / 2)
    };
    (bounded(heads), bounded(kv_heads))
}

fn head_dim(file: &GgufFile) -> Option<u64> {
    let shared = || {
        file.integer("llama.embedding_length")?
            .checked_div(file.integer("llama.attention.head_count")?)
    };
    file.integer("llama.attention.key_length").or_else(shared)
}

fn rope_scaling(file: &GgufFile) -> Value {
    match (
        file.text("llama.rope.scaling.type"),
        file.float("llama.rope.scaling.factor"),
    ) {
        (Some("linear"), Some(factor)) => json!({"rope_type": "linear", "factor": factor}),
        _ => Value::Null,
    }
}

fn stored_type(kind: &Kind) -> StoredType {
    match kind.name {
        "F32" => StoredType::F32,
        "F16" => StoredType::F16,
        "BF16" => StoredType::BF16,
        name => StoredType::Ggml(name),
    }
}

fn dequantize(kind: &Kind, bytes: &[u8], out: &mut [f32]) {
    let blocks = CHUNK / 4 / kind.elements;
    let (bytes, out) = (
        bytes.par_chunks(blocks * kind.bytes),
        out.par_chunks_mut(blocks * kind.elements),
    );
    bytes.zip(out).for_each(|(bytes, out)| (kind.dequantize)(bytes, out));
}

/// llama.cpp rotates neighbouring rows, transformers rows half a head apart: row `2i + j` of a head there is
/// row `j·d/2 + i` here.
fn dequantize_rotary(tensor: &TensorEntry, bytes: &[u8], heads: usize, out: &mut [f32]) {
    let kind = tensor.kind;
    let rows = tensor.shape[0];
    // A bias is one number a row; it is never quantized, since a row holds whole blocks.
    let width = tensor.elements() / rows;
    let (half, row_bytes) = (rows / heads / 2, width / kind.elements * kind.bytes);
    out.par_chunks_mut(width)
        .with_min_len(16)
        .enumerate()
        .for_each(|(row, out)| {
            let (head, at) = (row / (2 * half), row % (2 * half));
            let source = head * 2 * half + 2 * (at % half) + at / half;
            (kind.dequantize)(&bytes[source * row_bytes..][..row_bytes], out);
        });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn goldens() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/gguf")
    }

    /// A model quantized by gguf-py, and sums over what it dequantizes to, in Hugging Face order.
    #[test]
    fn tensors_are_those_of_the_model_before_conversion() {
        let model = LlamaGguf::open(&goldens().join("tiny.gguf")).unwrap();
        let wanted: BTreeMap<String, Value> =
            serde_json::from_slice(&fs_err::read(goldens().join("tiny.json")).unwrap()).unwrap();
        assert!(model.tensors().keys().eq(wanted.keys()));
        for (name, wanted) in &wanted {
            let info = &model.tensors()[name];
            assert_eq!(json!(info.shape), wanted["shape"], "{name}");
            let mut values = vec![0.0; info.elements()];
            model.read_f32_into(name, &mut values).unwrap();
            let weighted: f64 = values
                .iter()
                .enumerate()
                .map(|(i, v)| f64::from(*v) * (i % 997) as f64)
                .sum();
            let wanted = wanted["weighted"].as_f64().unwrap();
            assert!(
                (weighted - wanted).abs() < 1e-6 * wanted.abs().max(1.0),
                "{name}: {weighted} for {wanted}"
            );
        }
    }

    #[test]
    fn the_config_is_rebuilt() {
        let model = LlamaGguf::open(&goldens().join("tiny.gguf")).unwrap();
        let config = model.config().unwrap();
        let wanted = [
            ("model_type", json!("llama")),
            ("hidden_size", json!(64)),
            ("intermediate_size", json!(96)),
            ("num_attention_heads", json!(4)),
            ("num_key_value_heads", json!(2)),
            ("head_dim", json!(16)),
            ("num_hidden_layers", json!(2)),
            ("max_position_embeddings", json!(128)),
            ("rms_norm_eps", json!(1e-5)),
            ("rope_theta", json!(100000.0)),
            ("rope_scaling", Value::Null),
            ("tie_word_embeddings", json!(true)),
            ("torch_dtype", json!("float32")),
            ("vocab_size", json!(264)),
            ("bos_token_id", json!(1)),
        ];
        for (key, value) in wanted {
            assert_eq!(config[key], value, "{key}");
        }
    }

    #[test]
    fn the_tokenizer_is_rebuilt() {
        let model = LlamaGguf::open(&goldens().join("tiny.gguf")).unwrap();
        let text = model.text_files().unwrap();
        let tokenizer: Value = serde_json::from_slice(&text.tokenizer_json).unwrap();
        assert_eq!(tokenizer["model"]["vocab"]["hello"], 262);
        assert_eq!(tokenizer["model"]["merges"][2], json!(["he", "ll"]));
        assert_eq!(tokenizer["pre_tokenizer"]["pretokenizers"][0]["type"], "Digits");
        assert_eq!(tokenizer["added_tokens"][1]["content"], "<|im_start|>");
        assert_eq!(text.tokenizer_config.unwrap()["eos_token"], "<|im_end|>");
        assert!(text.chat_template.unwrap().starts_with("{% for message"));
    }
}
