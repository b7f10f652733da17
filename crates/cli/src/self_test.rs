//! One LoRA step on a tiny random Llama in a scratch folder: is what this machine computes sane?
use anyhow::{Context, ensure};
use burn::tensor::Device;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tune_model::lora::LoraSpec;
use tune_model::{CausalLm, Checkpoint, Input, Keep, Noise, OpenOptions, Precision};

const HIDDEN: usize = 16;
const INNER: usize = 32;
const LAYERS: usize = 2;
const VOCAB: usize = 32;
/// Two heads of 8, which share one head of keys and values.
const KEYS: usize = 8;

/// Large enough to be seen in f32, small enough to be downhill.
const LEARNING_RATE: f64 = 0.5;

pub struct Outcome {
    /// Mean loss a learned token, in nats.
    pub before: f64,
    pub after: f64,
}

/// Loads, computes loss and gradients, takes one step of plain descent, and looks whether the loss fell.
pub fn run(device: &Device, precision: Precision) -> anyhow::Result<Outcome> {
    let folder = Scratch::new()?;
    write_model(&folder.0)?;
    let base = Checkpoint::open(
        &folder.0.to_string_lossy(),
        &OpenOptions {
            offline: true,
            ..Default::default()
        },
    )?;
    let mut model = CausalLm::load(
        &base,
        Some(&LoraSpec::all_linears(4)),
        device,
        precision,
        &mut |_, _| {},
    )?;
    let input = input();
    let keep = Keep {
        blocks: LAYERS,
        offloaded: 0,
    };
    let (losses, gradients) = model.loss_and_gradients(&input, keep, Noise::default())?;
    let loss = losses.read();
    ensure!(loss.sum.is_finite(), "the loss of a random model is {}", loss.sum);
    let rate = LEARNING_RATE / loss.learned.max(1) as f64;
    let pairs = model.adapters().into_iter().zip(gradients);
    let stepped = pairs
        .map(|(adapter, gradients)| adapter.factors.zip(gradients).map(|(weight, g)| weight - g * rate))
        .collect();
    model.set_adapters(stepped);
    let after = model.loss(&input)?;
    ensure!(
        after.sum < loss.sum,
        "the loss did not fall: {} before, {} after one step",
        loss.sum,
        after.sum
    );
    let mean = |sum: f64| sum / loss.learned.max(1) as f64;
    Ok(Outcome {
        before: mean(loss.sum),
        after: mean(after.sum),
    })
}

fn input() -> Input {
    let tokens: Vec<u32> = (0..24).map(|i| (i * 7 + 3) % VOCAB as u32).collect();
    let learn = (0..tokens.len()).map(|i| i % 12 >= 4).collect();
    Input {
        positions: (0..24).map(|i| i % 12).collect(),
        starts: vec![0, 12, 24],
        tokens,
        learn,
    }
}

fn write_model(folder: &Path) -> anyhow::Result<()> {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "vocab_size": VOCAB, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": true,
        "attention_bias": false, "mlp_bias": false, "torch_dtype": "float32"
    });
    let vocab: serde_json::Map<_, _> = (0..VOCAB).map(|i| (format!("t{i}"), json!(i))).collect();
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": { "type": "Whitespace" },
        "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "t0" }
    });
    let write = |name: &str, value: &Value| fs_err::write(folder.join(name), value.to_string());
    write("config.json", &config)?;
    write("tokenizer.json", &tokenizer)?;
    write("tokenizer_config.json", &json!({}))?;
    fs_err::write(folder.join("model.safetensors"), safetensors())?;
    Ok(())
}

/// Names and shapes as in a Hugging Face checkpoint.
fn tensors() -> Vec<(String, Vec<usize>)> {
    let mut all = vec![("model.embed_tokens.weight".to_string(), vec![VOCAB, HIDDEN])];
    for layer in 0..LAYERS {
        let mut add =
            |name: &str, shape: &[usize]| all.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
        add("input_layernorm", &[HIDDEN]);
        add("self_attn.q_proj", &[HIDDEN, HIDDEN]);
        add("self_attn.k_proj", &[KEYS, HIDDEN]);
        add("self_attn.v_proj", &[KEYS, HIDDEN]);
        add("self_attn.o_proj", &[HIDDEN, HIDDEN]);
        add("post_attention_layernorm", &[HIDDEN]);
        add("mlp.gate_proj", &[INNER, HIDDEN]);
        add("mlp.up_proj", &[INNER, HIDDEN]);
        add("mlp.down_proj", &[HIDDEN, INNER]);
    }
    all.push(("model.norm.weight".to_string(), vec![HIDDEN]));
    all
}

/// The safetensors layout: length of the header, JSON header, little-endian numbers.
fn safetensors() -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    let mut state = 1u64;
    for (name, shape) in tensors() {
        let start = data.len();
        for _ in 0..shape.iter().product::<usize>() {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let uniform = (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
            let value = if shape.len() == 1 {
                1.0 + 0.1 * uniform
            } else {
                0.4 * uniform
            };
            data.extend(value.to_le_bytes());
        }
        header.insert(
            name,
            json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] }),
        );
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

/// A folder that goes when the test is over.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let path = crate::environment::scratch("tune-self-test");
        fs_err::create_dir_all(&path).context("the self-test needs a temporary folder")?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs_err::remove_dir_all(&self.0);
    }
}
