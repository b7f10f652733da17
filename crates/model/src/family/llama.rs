//! Llama 1 to 3.3, SmolLM2, TinyLlama, and Mistral with its sliding window (transformers `modeling_llama`, `modeling_mistral`).
use super::{Family, Shape, config, unsupported};
use crate::checkpoint::Checkpoint;
use crate::load::{At, Weights};
use crate::nn::{Angles, Heads, Linear, Pass, RmsNorm, Rope};
use crate::{Frozen, Result, ops};
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
    #[serde(default = "default_eps")]
    pub rms_norm_eps: f64,
    #[serde(default = "default_act")]
    pub hidden_act: String,
    #[serde(default)]
    pub attention_bias: bool,
    #[serde(default)]
    pub mlp_bias: bool,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    #[serde(default)]
    pub sliding_window: Option<usize>,
}
fn default_eps() -> f64 {
    1e-6
}
fn default_act() -> String {
    "silu".into()
}

pub struct Llama {
    pub model: Model,
    pub lm_head: Frozen,
    shape: Shape,
    rope: Rope,
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
}
pub struct Attention {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub o_proj: Linear,
    heads: Heads,
    layer: usize,
}
pub struct Mlp {
    pub gate_proj: Linear,
    pub up_proj: Linear,
    pub down_proj: Linear,
}

impl Llama {
    pub fn load(base: &Checkpoint, weights: Weights<'_>) -> Result<Self> {
        let cfg: Config = config(base)?;
        if !matches!(cfg.hidden_act.as_str(), "silu" | "swish") {
            return Err(unsupported(
                base,
                format!("hidden_act is `{}`, wanted `silu`", cfg.hidden_act),
            ));
        }
        let (d, heads) = (cfg.hidden_size, cfg.num_attention_heads);
        let kv_heads = cfg.num_key_value_heads.unwrap_or(heads);
        if heads == 0 || kv_heads == 0 || heads % kv_heads != 0 {
            return Err(unsupported(
                base,
                format!("{heads} attention heads over {kv_heads} key/value heads"),
            ));
        }
        let head_dim = cfg.head_dim.unwrap_or(d / heads);
        let rope = Rope::from_config(&base.config, head_dim).map_err(|problem| unsupported(base, problem))?;
        let heads = Heads {
            heads,
            kv_heads,
            head_dim,
            scale: (head_dim as f64).powf(-0.5),
            window: cfg.sliding_window,
        };
        let (q_width, kv_width) = (heads.heads * head_dim, kv_heads * head_dim);
        let shape = Shape {
            layers: cfg.num_hidden_layers,
            hidden: d,
            vocab: cfg.vocab_size,
            context: cfg.max_position_embeddings,
            // inputs of both norms, normed twice, q and output, k and v, lse, gate, up and their product
            kept_per_token: 4 * d + 2 * q_width + 2 * kv_width + heads.heads + 3 * cfg.intermediate_size,
        };
        let model = weights.root().at("model");
        let block = |layer: usize| {
            let at = model.at(&format!("layers.{layer}"));
            Block {
                self_attn: Attention::load(&at.at("self_attn"), layer, d, heads, cfg.attention_bias),
                mlp: Mlp::load(&at.at("mlp"), layer, d, cfg.intermediate_size, cfg.mlp_bias),
                input_layernorm: RmsNorm::load(&at.at("input_layernorm"), d, cfg.rms_norm_eps),
                post_attention_layernorm: RmsNorm::load(&at.at("post_attention_layernorm"), d, cfg.rms_norm_eps),
            }
        };
        let embed_tokens = model.table("embed_tokens.weight", cfg.vocab_size, d);
        let layers = (0..cfg.num_hidden_layers).map(block).collect();
        let norm = RmsNorm::load(&model.at("norm"), d, cfg.rms_norm_eps);
        // A head in the file wins over the config's word that it is tied, as in transformers.
        let tied = cfg.tie_word_embeddings && !weights.has("lm_head.weight");
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
            shape,
            rope,
            device,
        })
    }
}

impl Attention {
    fn load(at: &At<'_, '_>, layer: usize, d: usize, heads: Heads, bias: bool) -> Self {
        let (q_width, kv_width) = (heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim);
        Self {
            q_proj: Linear::load(&at.at("q_proj"), layer, d, q_width, bias),
            k_proj: Linear::load(&at.at("k_proj"), layer, d, kv_width, bias),
            v_proj: Linear::load(&at.at("v_proj"), layer, d, kv_width, bias),
            o_proj: Linear::load(&at.at("o_proj"), layer, q_width, d, bias),
            heads,
            layer,
        }
    }

    fn forward(&self, x: Tensor<2>, pass: &Pass<'_>) -> Tensor<2> {
        let q = pass.rotate(self.q_proj.forward(x.clone(), pass), self.heads.head_dim);
        let k = pass.rotate(self.k_proj.forward(x.clone(), pass), self.heads.head_dim);
        let v = self.v_proj.forward(x, pass);
        self.o_proj.forward(pass.attend(self.layer, q, k, v, self.heads), pass)
    }
}

impl Mlp {
    fn load(at: &At<'_, '_>, layer: usize, d: usize, inner: usize, bias: bool) -> Self {
        Self {
            gate_proj: Linear::load(&at.at("gate_proj"), layer, d, inner, bias),
            up_proj: Linear::load(&at.at("up_proj"), layer, d, inner, bias),
            down_proj: Linear::load(&at.at("down_proj"), layer, inner, d, bias),
        }
    }

    fn forward(&self, x: Tensor<2>, pass: &Pass<'_>) -> Tensor<2> {
        let gate = self.gate_proj.forward(x.clone(), pass);
        let up = self.up_proj.forward(x, pass);
        self.down_proj.forward(ops::swiglu(gate, up), pass)
    }
}

impl Family for Llama {
    fn name(&self) -> &'static str {
        "llama"
    }
    fn shape(&self) -> Shape {
        self.shape
    }
    fn embed(&self, tokens: &[u32], _positions: &[u32]) -> Tensor<2> {
        self.model.embed_tokens.rows(tokens)
    }
    fn angles(&self, positions: &[u32]) -> Option<Angles> {
        Some(self.rope.angles(positions, &self.device))
    }
    fn block(&self, layer: usize, x: Tensor<2>, pass: &Pass<'_>) -> Tensor<2> {
        let block = &self.model.layers[layer];
        let x = x.clone() + block.self_attn.forward(block.input_layernorm.forward(x), pass);
        x.clone() + block.mlp.forward(block.post_attention_layernorm.forward(x), pass)
    }
    fn norm(&self, x: Tensor<2>) -> Tensor<2> {
        self.model.norm.forward(x)
    }
    fn head(&self) -> &Frozen {
        &self.lm_head
    }
    fn linears(&self) -> Vec<&Linear> {
        self.model
            .layers
            .iter()
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
        self.model
            .layers
            .iter_mut()
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
