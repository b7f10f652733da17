//! Gemma 2: norms before and after attention and MLP, their weights stored less 1, scores and logits softly capped, local layers
//! in turns with global ones, scaled embeddings, tied head (transformers `modeling_gemma2`). Gemma 3 is made of the same parts.
use super::{Family, Shape, config, unsupported};
use crate::checkpoint::Checkpoint;
use crate::load::{At, Weights};
use crate::nn::{Angles, Heads, Linear, Pass, RmsNorm, Rope};
use crate::ops::Activation;
use crate::{Frozen, Input, Result};
use burn::tensor::{DType, Device, Tensor};
use half::bf16;
use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    #[serde(default = "default_head_dim")]
    pub head_dim: usize,
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    #[serde(default = "default_eps")]
    pub rms_norm_eps: f64,
    #[serde(default = "default_act")]
    pub hidden_activation: Option<String>,
    #[serde(default)]
    pub attention_bias: bool,
    /// Scores are divided by its root.
    #[serde(default = "default_scalar")]
    pub query_pre_attn_scalar: f64,
    #[serde(default = "default_window")]
    pub sliding_window: Option<usize>,
    /// `sliding_attention` or `full_attention`, one a layer.
    pub layer_types: Option<Vec<String>>,
    #[serde(default = "default_final_cap")]
    pub final_logit_softcapping: Option<f64>,
    #[serde(default = "default_attn_cap")]
    pub attn_logit_softcapping: Option<f64>,
    #[serde(default)]
    pub use_bidirectional_attention: Option<bool>,
    #[serde(default = "default_tied")]
    pub tie_word_embeddings: bool,
}
fn default_head_dim() -> usize {
    256
}
fn default_eps() -> f64 {
    1e-6
}
fn default_act() -> Option<String> {
    Some("gelu_pytorch_tanh".into())
}
fn default_scalar() -> f64 {
    256.0
}
fn default_window() -> Option<usize> {
    Some(4096)
}
fn default_final_cap() -> Option<f64> {
    Some(30.0)
}
fn default_attn_cap() -> Option<f64> {
    Some(50.0)
}
fn default_tied() -> bool {
    true
}

/// Angles of the layers, and of the local ones where those have their own.
pub(super) struct Ropes {
    pub all: Rope,
    pub local: Option<Rope>,
}

pub struct Gemma {
    pub model: Model,
    pub lm_head: Frozen,
    name: &'static str,
    shape: Shape,
    ropes: Ropes,
    /// Of embeddings.
    scale: f64,
    softcap: Option<f64>,
    device: Device,
}
pub struct Model {
    pub embed_tokens: Frozen,
    pub layers: Vec<Block>,
    pub norm: RmsNorm,
}
pub struct Block {
    pub self_attn: Attention,
    pub mlp: Mlp,
    pub input_layernorm: RmsNorm,
    pub post_attention_layernorm: RmsNorm,
    pub pre_feedforward_layernorm: RmsNorm,
    pub post_feedforward_layernorm: RmsNorm,
}
pub struct Attention {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub o_proj: Linear,
    /// Of each head's queries and keys, in Gemma 3.
    pub q_norm: Option<RmsNorm>,
    pub k_norm: Option<RmsNorm>,
    heads: Heads,
    layer: usize,
    /// Rotates by the angles of local layers.
    locally: bool,
}
pub struct Mlp {
    pub gate_proj: Linear,
    pub up_proj: Linear,
    pub down_proj: Linear,
}

pub fn load(base: &Checkpoint, weights: Weights<'_>) -> Result<Gemma> {
    let cfg = Config::read(base)?;
    let local = cfg.local_layers(base, 2)?;
    let all = Rope::from_config(&base.config, cfg.head_dim).map_err(|problem| unsupported(base, problem))?;
    Gemma::load("gemma2", &cfg, &local, Ropes { all, local: None }, weights)
}

impl Config {
    pub(crate) fn read(base: &Checkpoint) -> Result<Self> {
        let cfg: Self = config(base)?;
        if cfg.hidden_activation != default_act() {
            let found = cfg.hidden_activation.unwrap_or_default();
            let problem = format!("hidden_activation is `{found}`, wanted `gelu_pytorch_tanh`");
            return Err(unsupported(base, problem));
        }
        if cfg.use_bidirectional_attention == Some(true) {
            let problem = "use_bidirectional_attention is true, wanted a model that sees only what came before";
            return Err(unsupported(base, problem));
        }
        let (heads, kv_heads) = (cfg.num_attention_heads, cfg.num_key_value_heads);
        if heads == 0 || kv_heads == 0 || heads % kv_heads != 0 {
            let problem = format!("{heads} attention heads over {kv_heads} key/value heads");
            return Err(unsupported(base, problem));
        }
        Ok(cfg)
    }

    /// Which layers are local: by `layer_types`, or all but every `pattern`th.
    pub(crate) fn local_layers(&self, base: &Checkpoint, pattern: usize) -> Result<Vec<bool>> {
        let Some(types) = &self.layer_types else {
            let local = (1..=self.num_hidden_layers).map(|number| !number.is_multiple_of(pattern.max(1)));
            return Ok(local.collect());
        };
        if types.len() != self.num_hidden_layers {
            let (named, layers) = (types.len(), self.num_hidden_layers);
            let problem = format!("layer_types name {named} layers, num_hidden_layers is {layers}");
            return Err(unsupported(base, problem));
        }
        let local = |kind: &String| match kind.as_str() {
            "sliding_attention" => Ok(true),
            "full_attention" => Ok(false),
            other => Err(unsupported(
                base,
                format!("layer_types has `{other}`, wanted `sliding_attention` or `full_attention`"),
            )),
        };
        types.iter().map(local).collect()
    }

    fn norm(&self, at: &At<'_, '_>, name: &str, width: usize) -> RmsNorm {
        RmsNorm::load_less_one(&at.at(name), width, self.rms_norm_eps)
    }
}

impl Gemma {
    /// `local`: of each layer, whether it is. Queries and keys are normed where local layers have angles of their own, in Gemma 3.
    pub(super) fn load(
        name: &'static str,
        cfg: &Config,
        local: &[bool],
        ropes: Ropes,
        weights: Weights<'_>,
    ) -> Result<Self> {
        let d = cfg.hidden_size;
        let heads = Heads {
            heads: cfg.num_attention_heads,
            kv_heads: cfg.num_key_value_heads,
            head_dim: cfg.head_dim,
            scale: cfg.query_pre_attn_scalar.powf(-0.5),
            window: None,
            softcap: cfg.attn_logit_softcapping,
        };
        let (q_width, kv_width) = (heads.q_width(), heads.kv_width());
        let newer = ropes.local.is_some();
        let shape = Shape {
            layers: cfg.num_hidden_layers,
            hidden: d,
            vocab: cfg.vocab_size,
            context: cfg.max_position_embeddings,
            heads: heads.heads,
            q_width,
            kv_width,
            inner: cfg.intermediate_size,
            gated: true,
            fused: false,
            joined: 0,
            saved: 4 * d + if newer { q_width + kv_width } else { 0 },
            rotary: if newer { 2 * cfg.head_dim } else { cfg.head_dim },
            capped: cfg.attn_logit_softcapping.is_some(),
        };
        let at = weights.root().at("model");
        let block = |(layer, local): (usize, &bool)| {
            let at = at.at(&format!("layers.{layer}"));
            let heads = Heads {
                window: cfg.sliding_window.filter(|_| *local),
                ..heads
            };
            Block {
                self_attn: Attention::load(&at.at("self_attn"), layer, cfg, heads, newer, newer && *local),
                mlp: Mlp::load(&at.at("mlp"), layer, d, cfg.intermediate_size),
                input_layernorm: cfg.norm(&at, "input_layernorm", d),
                post_attention_layernorm: cfg.norm(&at, "post_attention_layernorm", d),
                pre_feedforward_layernorm: cfg.norm(&at, "pre_feedforward_layernorm", d),
                post_feedforward_layernorm: cfg.norm(&at, "post_feedforward_layernorm", d),
            }
        };
        let embed_tokens = at.table("embed_tokens.weight", cfg.vocab_size, d);
        let layers = local.iter().enumerate().map(block).collect();
        let norm = cfg.norm(&at, "norm", d);
        let tied = cfg.tie_word_embeddings && !weights.has("lm_head.weight");
        let lm_head = match tied {
            true => embed_tokens.clone(),
            false => weights.root().table("lm_head.weight", cfg.vocab_size, d),
        };
        let (device, compute) = (weights.device(), weights.precision().compute);
        weights.finish(|name| name.ends_with("rotary_emb.inv_freq"))?;
        let root = (d as f64).sqrt();
        Ok(Self {
            model: Model {
                embed_tokens,
                layers,
                norm,
            },
            lm_head,
            name,
            shape,
            ropes,
            // Rounded as the embeddings are: 55.4256 is 55.5 in bf16.
            scale: match compute {
                DType::BF16 => bf16::from_f64(root).to_f64(),
                _ => f64::from(root as f32),
            },
            softcap: cfg.final_logit_softcapping,
            device,
        })
    }
}

impl Attention {
    fn load(at: &At<'_, '_>, layer: usize, cfg: &Config, heads: Heads, qk_norm: bool, locally: bool) -> Self {
        let (d, bias) = (cfg.hidden_size, cfg.attention_bias);
        let norm = |name: &str| qk_norm.then(|| cfg.norm(at, name, heads.head_dim));
        Self {
            q_proj: Linear::load(&at.at("q_proj"), layer, d, heads.q_width(), bias),
            k_proj: Linear::load(&at.at("k_proj"), layer, d, heads.kv_width(), bias),
            v_proj: Linear::load(&at.at("v_proj"), layer, d, heads.kv_width(), bias),
            o_proj: Linear::load(&at.at("o_proj"), layer, heads.q_width(), d, bias),
            q_norm: norm("q_norm"),
            k_norm: norm("k_norm"),
            heads,
            layer,
            locally,
        }
    }

    /// The residual stream, and what is to be added to it.
    fn forward(&self, x: Activation, pass: &Pass<'_>) -> (Tensor<2>, Tensor<2>) {
        let (x, [q, k, v]) = Linear::forward_with_residual([&self.q_proj, &self.k_proj, &self.v_proj], x, pass);
        let (q, k) = (self.placed(q, &self.q_norm, pass), self.placed(k, &self.k_norm, pass));
        let attended = pass.attend(self.layer, q, k, v, self.heads);
        (x, self.o_proj.forward(attended, pass))
    }

    /// Queries or keys, normed where they are, and rotated.
    fn placed(&self, x: Tensor<2>, norm: &Option<RmsNorm>, pass: &Pass<'_>) -> Tensor<2> {
        let x = match norm {
            None => x,
            Some(norm) => norm.forward_each(x),
        };
        match self.locally {
            true => pass.rotate_locally(x, self.heads.head_dim),
            false => pass.rotate(x, self.heads.head_dim),
        }
    }
}

impl Mlp {
    fn load(at: &At<'_, '_>, layer: usize, d: usize, inner: usize) -> Self {
        Self {
            gate_proj: Linear::load(&at.at("gate_proj"), layer, d, inner, false),
            up_proj: Linear::load(&at.at("up_proj"), layer, d, inner, false),
            down_proj: Linear::load(&at.at("down_proj"), layer, inner, d, false),
        }
    }

    /// The residual stream, and what is to be added to it.
    fn forward(&self, x: Activation, pass: &Pass<'_>) -> (Tensor<2>, Tensor<2>) {
        let (x, [gate, up]) = Linear::forward_with_residual([&self.gate_proj, &self.up_proj], x, pass);
        (x, self.down_proj.forward(Activation::geglu(gate, up), pass))
    }
}

impl Family for Gemma {
    fn name(&self) -> &'static str {
        self.name
    }
    fn shape(&self) -> Shape {
        self.shape
    }
    fn embed(&self, tokens: &[u32], _positions: &[u32]) -> Tensor<2> {
        self.model.embed_tokens.rows(tokens) * self.scale
    }
    fn angles(&self, input: &Input) -> Option<Angles> {
        Some(self.ropes.all.angles(&input.positions, &input.starts, &self.device))
    }
    fn local_angles(&self, input: &Input) -> Option<Angles> {
        let local = self.ropes.local.as_ref()?;
        Some(local.angles(&input.positions, &input.starts, &self.device))
    }
    fn block(&self, layer: usize, x: Tensor<2>, pass: &Pass<'_>) -> Tensor<2> {
        let block = &self.model.layers[layer];
        let (x, attended) = block.self_attn.forward(block.input_layernorm.forward(x), pass);
        let x = x + block.post_attention_layernorm.forward(attended).value();
        let (x, fed) = block.mlp.forward(block.pre_feedforward_layernorm.forward(x), pass);
        x + block.post_feedforward_layernorm.forward(fed).value()
    }
    fn norm(&self, x: Tensor<2>) -> Tensor<2> {
        self.model.norm.forward(x).value()
    }
    fn head(&self) -> &Frozen {
        &self.lm_head
    }
    fn softcap(&self) -> Option<f64> {
        self.softcap
    }
    fn linears(&self) -> Vec<&Linear> {
        let blocks = self.model.layers.iter();
        blocks
            .flat_map(|b| {
                let (a, m) = (&b.self_attn, &b.mlp);
                [
                    &a.q_proj,
                    &a.k_proj,
                    &a.v_proj,
                    &a.o_proj,
                    &m.gate_proj,
                    &m.up_proj,
                    &m.down_proj,
                ]
            })
            .collect()
    }
    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let blocks = self.model.layers.iter_mut();
        blocks
            .flat_map(|b| {
                let (a, m) = (&mut b.self_attn, &mut b.mlp);
                [
                    &mut a.q_proj,
                    &mut a.k_proj,
                    &mut a.v_proj,
                    &mut a.o_proj,
                    &mut m.gate_proj,
                    &mut m.up_proj,
                    &mut m.down_proj,
                ]
            })
            .collect()
    }
}
