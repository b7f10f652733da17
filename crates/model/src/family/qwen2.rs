//! Qwen 2 and 2.5: Llama with biases on q, k and v, and a sliding window from some layer on (transformers `modeling_qwen2`).
use super::decoder::{Config, Decoder};
use super::llama::{Block, Form};
use super::{config, unsupported};
use crate::Result;
use crate::checkpoint::Checkpoint;
use crate::load::Weights;
use crate::nn::Heads;
use serde::Deserialize;

pub fn load(base: &Checkpoint, weights: Weights<'_>) -> Result<Decoder<Block>> {
    let cfg = Config::read(base)?;
    let heads = heads(base, &cfg)?;
    let form = Form {
        qkv_bias: true,
        o_bias: false,
        ..Form::of(&cfg)
    };
    Decoder::load(("qwen2", base, weights), &cfg, cfg.shape(), |at, layer| {
        let heads = heads[layer];
        Block::load(at, layer, &cfg, Form { heads, ..form })
    })
}

#[derive(Deserialize)]
struct Windows {
    #[serde(default)]
    use_sliding_window: bool,
    #[serde(default = "default_max_window_layers")]
    max_window_layers: usize,
    #[serde(default)]
    layer_types: Option<Vec<String>>,
}
fn default_max_window_layers() -> usize {
    28
}

/// The heads of every layer, with the window of those that have one.
pub(super) fn heads(base: &Checkpoint, cfg: &Config) -> Result<Vec<Heads>> {
    let own: Windows = config(base)?;
    let slides = layers(base, cfg, own.layer_types.as_deref(), |layer| {
        layer >= own.max_window_layers
    })?;
    let window = cfg.sliding_window.filter(|_| own.use_sliding_window);
    let heads = slides.into_iter().map(|slides| Heads {
        window: window.filter(|_| slides),
        ..cfg.heads()
    });
    Ok(heads.collect())
}

/// Whether each layer slides: by its name in `layer_types`, or else by its number.
pub(super) fn layers(
    base: &Checkpoint,
    cfg: &Config,
    layer_types: Option<&[String]>,
    slides: impl Fn(usize) -> bool,
) -> Result<Vec<bool>> {
    let Some(types) = layer_types else {
        return Ok((0..cfg.num_hidden_layers).map(slides).collect());
    };
    if types.len() != cfg.num_hidden_layers {
        let problem = format!(
            "layer_types name {} layers, num_hidden_layers is {}",
            types.len(),
            cfg.num_hidden_layers
        );
        return Err(unsupported(base, problem));
    }
    let one = |kind: &String| match kind.as_str() {
        "full_attention" => Ok(false),
        "sliding_attention" => Ok(true),
        other => Err(unsupported(
            base,
            format!("layer_types has `{other}`, wanted `full_attention` or `sliding_attention`"),
        )),
    };
    types.iter().map(one).collect()
}
