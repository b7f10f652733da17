//! GPT-Neo: learned positions, global and local attention in turns, tied head (transformers `modeling_gpt_neo`).
use super::{Family, Shape, config, unsupported};
use crate::checkpoint::Checkpoint;
use crate::load::{At, Weights};
use crate::nn::{Angles, Heads, LayerNorm, Linear, Pass};
use crate::ops::{Activation, Gelu};
use crate::{Frozen, Input, Result};
use burn::tensor::Tensor;
use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    pub hidden_size: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    #[serde(default)]
    pub intermediate_size: Option<usize>,
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    #[serde(default = "default_window")]
    pub window_size: usize,
    /// `[[["global", "local"], 12]]`: the pattern and how often it repeats.
    pub attention_types: Vec<(Vec<String>, usize)>,
    #[serde(default = "default_eps")]
    pub layer_norm_epsilon: f64,
    #[serde(default = "default_act")]
    pub activation_function: String,
    #[serde(default = "default_tied")]
    pub tie_word_embeddings: bool,
}
fn default_window() -> usize {
    256
}
fn default_eps() -> f64 {
    1e-5
}
fn default_act() -> String {
    "gelu_new".into()
}
fn default_tied() -> bool {
    true
}

pub struct GptNeo {
    pub transformer: Transformer,
    pub lm_head: Frozen,
    shape: Shape,
}
pub struct Transformer {
    pub wte: Frozen,
    pub wpe: Frozen,
    pub h: Vec<Block>,
    pub ln_f: LayerNorm,
}
pub struct Block {
    pub ln_1: LayerNorm,
    pub attn: Attention,
    pub ln_2: LayerNorm,
    pub mlp: Mlp,
}
/// `attn.attention` in the checkpoint.
pub struct Attention {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub out_proj: Linear,
    heads: Heads,
    layer: usize,
}
pub struct Mlp {
    pub c_fc: Linear,
    pub c_proj: Linear,
}

impl GptNeo {
    pub fn load(base: &Checkpoint, weights: Weights<'_>) -> Result<Self> {
        let cfg: Config = config(base)?;
        if !matches!(cfg.activation_function.as_str(), "gelu_new" | "gelu_pytorch_tanh") {
            let problem = format!(
                "activation_function is `{}`, wanted `gelu_new`",
                cfg.activation_function
            );
            return Err(unsupported(base, problem));
        }
        let kinds: Vec<&str> = cfg
            .attention_types
            .iter()
            .flat_map(|(pattern, times)| (0..*times).flat_map(move |_| pattern.iter().map(String::as_str)))
            .collect();
        if kinds.len() != cfg.num_layers {
            let problem = format!(
                "attention_types name {} layers, num_layers is {}",
                kinds.len(),
                cfg.num_layers
            );
            return Err(unsupported(base, problem));
        }
        let d = cfg.hidden_size;
        let inner = cfg.intermediate_size.unwrap_or(4 * d);
        let shape = Shape {
            layers: cfg.num_layers,
            hidden: d,
            vocab: cfg.vocab_size,
            context: cfg.max_position_embeddings,
            heads: cfg.num_heads,
            q_width: d,
            kv_width: d,
            inner,
            gated: false,
            fused: false,
            joined: 0,
            saved: 2 * d,
            rotary: 0,
            capped: false,
        };
        let at = weights.root().at("transformer");
        let block = |(layer, kind): (usize, &&str)| {
            let at = at.at(&format!("h.{layer}"));
            // GPT-Neo does not scale its scores.
            let heads = Heads {
                heads: cfg.num_heads,
                kv_heads: cfg.num_heads,
                head_dim: d / cfg.num_heads,
                scale: 1.0,
                window: (*kind == "local").then_some(cfg.window_size),
                softcap: None,
            };
            Block {
                ln_1: LayerNorm::load(&at.at("ln_1"), d, cfg.layer_norm_epsilon),
                attn: Attention::load(&at.at("attn.attention"), layer, d, heads),
                ln_2: LayerNorm::load(&at.at("ln_2"), d, cfg.layer_norm_epsilon),
                mlp: Mlp {
                    c_fc: Linear::load(&at.at("mlp.c_fc"), layer, d, inner, true),
                    c_proj: Linear::load(&at.at("mlp.c_proj"), layer, inner, d, true),
                },
            }
        };
        let wte = at.table("wte.weight", cfg.vocab_size, d);
        let wpe = at.matrix("wpe.weight", cfg.max_position_embeddings, d).into();
        let h = kinds.iter().enumerate().map(block).collect();
        let ln_f = LayerNorm::load(&at.at("ln_f"), d, cfg.layer_norm_epsilon);
        let tied = cfg.tie_word_embeddings && !weights.has("lm_head.weight");
        let lm_head = match tied {
            true => wte.clone(),
            false => weights.root().table("lm_head.weight", cfg.vocab_size, d),
        };
        // Older checkpoints store the causal masks as buffers.
        weights.finish(|name| name.ends_with("attn.attention.bias") || name.ends_with("attn.attention.masked_bias"))?;
        Ok(Self {
            transformer: Transformer { wte, wpe, h, ln_f },
            lm_head,
            shape,
        })
    }
}

impl Attention {
    fn load(at: &At<'_, '_>, layer: usize, d: usize, heads: Heads) -> Self {
        Self {
            q_proj: Linear::load(&at.at("q_proj"), layer, d, d, false),
            k_proj: Linear::load(&at.at("k_proj"), layer, d, d, false),
            v_proj: Linear::load(&at.at("v_proj"), layer, d, d, false),
            out_proj: Linear::load(&at.at("out_proj"), layer, d, d, true),
            heads,
            layer,
        }
    }

    /// The residual stream, and what is to be added to it.
    fn forward(&self, x: Activation, pass: &Pass<'_>) -> (Tensor<2>, Tensor<2>) {
        let (x, [q, k, v]) = Linear::forward_with_residual([&self.q_proj, &self.k_proj, &self.v_proj], x, pass);
        let attended = pass.attend(self.layer, q, k, v, self.heads);
        (x, self.out_proj.forward(attended, pass))
    }
}

impl Family for GptNeo {
    fn name(&self) -> &'static str {
        "gpt_neo"
    }
    fn shape(&self) -> Shape {
        self.shape
    }
    fn embed(&self, tokens: &[u32], positions: &[u32]) -> Tensor<2> {
        self.transformer.wte.rows(tokens) + self.transformer.wpe.rows(positions)
    }
    fn angles(&self, _input: &Input) -> Option<Angles> {
        None
    }
    fn block(&self, layer: usize, x: Tensor<2>, pass: &Pass<'_>) -> Tensor<2> {
        let block = &self.transformer.h[layer];
        let (x, attended) = block.attn.forward(block.ln_1.forward(x), pass);
        let normed = block.ln_2.forward(x + attended);
        let (x, [inner]) = Linear::forward_with_residual([&block.mlp.c_fc], normed, pass);
        x + block.mlp.c_proj.forward(Activation::gelu(inner, Gelu::Tanh), pass)
    }
    fn norm(&self, x: Tensor<2>) -> Tensor<2> {
        self.transformer.ln_f.forward(x).value()
    }
    fn head(&self) -> &Frozen {
        &self.lm_head
    }
    fn linears(&self) -> Vec<&Linear> {
        self.transformer
            .h
            .iter()
            .flat_map(|b| {
                let a = &b.attn;
                [&a.q_proj, &a.k_proj, &a.v_proj, &a.out_proj, &b.mlp.c_fc, &b.mlp.c_proj]
            })
            .collect()
    }
    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        self.transformer
            .h
            .iter_mut()
            .flat_map(|b| {
                let a = &mut b.attn;
                [
                    &mut a.q_proj,
                    &mut a.k_proj,
                    &mut a.v_proj,
                    &mut a.out_proj,
                    &mut b.mlp.c_fc,
                    &mut b.mlp.c_proj,
                ]
            })
            .collect()
    }
}
