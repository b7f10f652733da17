//! What decoders like Llama have in common around blocks of their own: the keys of their configs, embedding, angles, last norm,
//! head.
use super::{Family, Shape, config, unsupported};
use crate::checkpoint::Checkpoint;
use crate::load::{At, Weights};
use crate::nn::{Angles, Heads, Linear, Pass, RmsNorm, Rope};
use crate::{Frozen, Input, Result};
use burn::tensor::{Device, Tensor};
use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: Option<usize>,
    pub head_dim: Option<usize>,
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: Option<f64>,
    #[serde(default = "default_act")]
    pub hidden_act: String,
    #[serde(default)]
    pub attention_bias: bool,
    #[serde(default)]
    pub mlp_bias: bool,
    pub tie_word_embeddings: Option<bool>,
    pub sliding_window: Option<usize>,
}
fn default_act() -> String {
    "silu".into()
}

impl Config {
    pub fn read(base: &Checkpoint) -> Result<Self> {
        let cfg: Self = config(base)?;
        if !matches!(cfg.hidden_act.as_str(), "silu" | "swish") {
            return Err(unsupported(
                base,
                format!("hidden_act is `{}`, wanted `silu`", cfg.hidden_act),
            ));
        }
        let (heads, kv_heads) = (cfg.num_attention_heads, cfg.kv_heads());
        if heads == 0 || kv_heads == 0 || heads % kv_heads != 0 {
            return Err(unsupported(
                base,
                format!("{heads} attention heads over {kv_heads} key/value heads"),
            ));
        }
        Ok(cfg)
    }

    pub fn epsilon(&self) -> f64 {
        self.rms_norm_eps.unwrap_or(1e-6)
    }

    fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Attention over all that came before.
    pub fn heads(&self) -> Heads {
        let heads = self.num_attention_heads;
        let head_dim = self.head_dim.unwrap_or(self.hidden_size / heads);
        Heads {
            heads,
            kv_heads: self.kv_heads(),
            head_dim,
            scale: (head_dim as f64).powf(-0.5),
            window: None,
            softcap: None,
        }
    }

    /// Llama's, in which all of a head rotates.
    pub fn shape(&self) -> Shape {
        let heads = self.heads();
        Shape {
            layers: self.num_hidden_layers,
            hidden: self.hidden_size,
            vocab: self.vocab_size,
            context: self.max_position_embeddings,
            heads: heads.heads,
            q_width: heads.q_width(),
            kv_width: heads.kv_width(),
            inner: self.intermediate_size,
            gated: true,
            fused: false,
            joined: 0,
            saved: 2 * self.hidden_size,
            rotary: heads.head_dim,
            capped: false,
        }
    }

    pub fn norm(&self, at: &At<'_, '_>, name: &str) -> RmsNorm {
        RmsNorm::load(&at.at(name), self.hidden_size, self.epsilon())
    }
}

/// One layer of a family.
pub trait Block: Send {
    /// `[tokens, d]` to the same.
    fn forward(&self, x: Tensor<2>, pass: &Pass<'_>) -> Tensor<2>;
    fn linears(&self) -> Vec<&Linear>;
    fn linears_mut(&mut self) -> Vec<&mut Linear>;
}

/// A family by its blocks.
pub struct Decoder<B> {
    pub model: Model<B>,
    pub lm_head: Frozen,
    name: &'static str,
    shape: Shape,
    rope: Rope,
    device: Device,
}
pub struct Model<B> {
    pub embed_tokens: Frozen,
    pub layers: Vec<B>,
    pub norm: RmsNorm,
}

impl<B: Block> Decoder<B> {
    /// `block` loads one layer at its place.
    pub fn load(
        (name, base, weights): (&'static str, &Checkpoint, Weights<'_>),
        cfg: &Config,
        shape: Shape,
        block: impl Fn(&At<'_, '_>, usize) -> B,
    ) -> Result<Self> {
        let rope = Rope::from_config(&base.config, shape.rotary).map_err(|problem| unsupported(base, problem))?;
        let d = cfg.hidden_size;
        let at = weights.root().at("model");
        let embed_tokens = at.table("embed_tokens.weight", cfg.vocab_size, d);
        let layers = (0..cfg.num_hidden_layers)
            .map(|layer| block(&at.at(&format!("layers.{layer}")), layer))
            .collect();
        let norm = cfg.norm(&at, "norm");
        // A head in the file wins over the config's word that it is tied, as in transformers.
        let tied = cfg.tie_word_embeddings == Some(true) && !weights.has("lm_head.weight");
        let lm_head = match tied {
            true => embed_tokens.clone(),
            false => weights.root().table("lm_head.weight", cfg.vocab_size, d),
        };
        let device = weights.device();
        weights.finish(|name| name.ends_with("rotary_emb.inv_freq"))?;
        Ok(Self {
            model: Model {
                embed_tokens,
                layers,
                norm,
            },
            lm_head,
            name,
            shape,
            rope,
            device,
        })
    }
}

impl<B: Block> Family for Decoder<B> {
    fn name(&self) -> &'static str {
        self.name
    }
    fn shape(&self) -> Shape {
        self.shape
    }
    fn embed(&self, tokens: &[u32], _positions: &[u32]) -> Tensor<2> {
        self.model.embed_tokens.rows(tokens)
    }
    fn angles(&self, input: &Input) -> Option<Angles> {
        Some(self.rope.angles(&input.positions, &input.starts, &self.device))
    }
    fn cache_holds_to(&self) -> Option<usize> {
        self.rope.short_to()
    }
    fn block(&self, layer: usize, x: Tensor<2>, pass: &Pass<'_>) -> Tensor<2> {
        self.model.layers[layer].forward(x, pass)
    }
    fn norm(&self, x: Tensor<2>) -> Tensor<2> {
        self.model.norm.forward(x).value()
    }
    fn head(&self) -> &Frozen {
        &self.lm_head
    }
    fn linears(&self) -> Vec<&Linear> {
        self.model.layers.iter().flat_map(B::linears).collect()
    }
    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        self.model.layers.iter_mut().flat_map(B::linears_mut).collect()
    }
}
