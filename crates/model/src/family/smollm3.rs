//! SmolLM3: Llama in which every so many layers no position is told (NoPE; transformers `modeling_smollm3`).
use super::decoder::{Config, Decoder};
use super::llama::{Block, Form};
use super::{config, qwen2, unsupported};
use crate::Result;
use crate::checkpoint::Checkpoint;
use crate::load::Weights;
use crate::nn::Heads;
use serde::Deserialize;

#[derive(Deserialize)]
struct Own {
    /// 1 for a layer that rotates, 0 for one that does not.
    no_rope_layers: Option<Vec<u8>>,
    #[serde(default = "default_interval")]
    no_rope_layer_interval: usize,
    #[serde(default)]
    use_sliding_window: bool,
    layer_types: Option<Vec<String>>,
}
fn default_interval() -> usize {
    4
}

pub fn load(base: &Checkpoint, weights: Weights<'_>) -> Result<Decoder<Block>> {
    let (mut cfg, own): (_, Own) = (Config::read(base)?, config(base)?);
    cfg.tie_word_embeddings.get_or_insert(true);
    let rotates = rotating(base, cfg.num_hidden_layers)?;
    let slides = qwen2::layers(base, &cfg, own.layer_types.as_deref(), |layer| !rotates[layer])?;
    let window = cfg.sliding_window.filter(|_| own.use_sliding_window);
    let form = Form::of(&cfg);
    Decoder::load(("smollm3", base, weights), &cfg, cfg.shape(), |at, layer| {
        let heads = Heads {
            window: window.filter(|_| slides[layer]),
            ..form.heads
        };
        let form = Form {
            heads,
            rotates: rotates[layer],
            ..form
        };
        Block::load(at, layer, &cfg, form)
    })
}

/// Whether each of `count` layers is told positions.
pub(crate) fn rotating(base: &Checkpoint, count: usize) -> Result<Vec<bool>> {
    let own: Own = config(base)?;
    let rotates: Vec<bool> = match own.no_rope_layers {
        Some(given) => given.iter().map(|rotates| *rotates != 0).collect(),
        None => (1..=count)
            .map(|number| number.checked_rem(own.no_rope_layer_interval) != Some(0))
            .collect(),
    };
    if rotates.len() < count {
        let problem = format!("no_rope_layers name {} of {count} layers", rotates.len());
        return Err(unsupported(base, problem));
    }
    Ok(rotates)
}
