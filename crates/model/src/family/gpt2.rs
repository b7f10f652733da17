//! GPT-2: learned positions, weights of linears stored `[in, out]`, q, k and v from one of them, tied head (transformers
//! `modeling_gpt2`).
use super::{Family, Shape, config, unsupported};
use crate::checkpoint::Checkpoint;
use crate::load::Weights;
use crate::nn::{Angles, Heads, LayerNorm, Linear, Pass};
use crate::ops::{Activation, Gelu};
use crate::{Frozen, Input, Result};
use burn::tensor::Tensor;
use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    pub n_embd: usize,
    pub n_layer: usize,
    pub n_head: usize,
    #[serde(default)]
    pub n_inner: Option<usize>,
    pub vocab_size: usize,
    pub n_positions: usize,
    #[serde(default = "default_eps")]
    pub layer_norm_epsilon: f64,
    #[serde(default = "default_act")]
    pub activation_function: String,
    #[serde(default = "default_true")]
    pub scale_attn_weights: bool,
    #[serde(default)]
    pub scale_attn_by_inverse_layer_idx: bool,
    #[serde(default)]
    pub add_cross_attention: bool,
    #[serde(default = "default_true")]
    pub tie_word_embeddings: bool,
}
fn default_eps() -> f64 {
    1e-5
}
fn default_act() -> String {
    "gelu_new".into()
}
fn default_true() -> bool {
    true
}

pub struct Gpt2 {
    pub transformer: Transformer,
    pub lm_head: Frozen,
    shape: Shape,
    activation: Gelu,
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
pub struct Attention {
    /// q, k and v side by side.
    pub c_attn: Linear,
    pub c_proj: Linear,
    heads: Heads,
    layer: usize,
}
pub struct Mlp {
    pub c_fc: Linear,
    pub c_proj: Linear,
}

impl Gpt2 {
    pub fn load(base: &Checkpoint, weights: Weights<'_>) -> Result<Self> {
        let cfg: Config = config(base)?;
        let activation = match cfg.activation_function.as_str() {
            "gelu_new" | "gelu_pytorch_tanh" => Gelu::Tanh,
            "gelu" => Gelu::Exact,
            other => {
                let problem = format!("activation_function is `{other}`, wanted `gelu_new` or `gelu`");
                return Err(unsupported(base, problem));
            }
        };
        if cfg.add_cross_attention {
            return Err(unsupported(base, "add_cross_attention is true, wanted a decoder alone"));
        }
        let d = cfg.n_embd;
        if cfg.n_head == 0 || !d.is_multiple_of(cfg.n_head) {
            let problem = format!("{} attention heads do not divide n_embd, {d}", cfg.n_head);
            return Err(unsupported(base, problem));
        }
        let head_dim = d / cfg.n_head;
        let inner = cfg.n_inner.unwrap_or(4 * d);
        let shape = Shape {
            layers: cfg.n_layer,
            hidden: d,
            vocab: cfg.vocab_size,
            context: cfg.n_positions,
            heads: cfg.n_head,
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
        let block = |layer: usize| {
            let at = at.at(&format!("h.{layer}"));
            let scale = if cfg.scale_attn_weights {
                (head_dim as f64).powf(-0.5)
            } else {
                1.0
            };
            let heads = Heads {
                heads: cfg.n_head,
                kv_heads: cfg.n_head,
                head_dim,
                scale: if cfg.scale_attn_by_inverse_layer_idx {
                    scale / (layer + 1) as f64
                } else {
                    scale
                },
                window: None,
                softcap: None,
            };
            Block {
                ln_1: LayerNorm::load(&at.at("ln_1"), d, cfg.layer_norm_epsilon),
                attn: Attention {
                    c_attn: Linear::conv1d(&at.at("attn.c_attn"), layer, d, 3 * d),
                    c_proj: Linear::conv1d(&at.at("attn.c_proj"), layer, d, d),
                    heads,
                    layer,
                },
                ln_2: LayerNorm::load(&at.at("ln_2"), d, cfg.layer_norm_epsilon),
                mlp: Mlp {
                    c_fc: Linear::conv1d(&at.at("mlp.c_fc"), layer, d, inner),
                    c_proj: Linear::conv1d(&at.at("mlp.c_proj"), layer, inner, d),
                },
            }
        };
        let wte = at.table("wte.weight", cfg.vocab_size, d);
        let wpe = at.matrix("wpe.weight", cfg.n_positions, d).into();
        let h = (0..cfg.n_layer).map(block).collect();
        let ln_f = LayerNorm::load(&at.at("ln_f"), d, cfg.layer_norm_epsilon);
        let tied = cfg.tie_word_embeddings && !weights.has("lm_head.weight");
        let lm_head = match tied {
            true => wte.clone(),
            false => weights.root().table("lm_head.weight", cfg.vocab_size, d),
        };
        // The hub's files hold the causal masks too.
        weights.finish(|name| name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias"))?;
        Ok(Self {
            transformer: Transformer { wte, wpe, h, ln_f },
            lm_head,
            shape,
            activation,
        })
    }
}

impl Attention {
    /// The residual stream, and what is to be added to it.
    fn forward(&self, x: Activation, pass: &Pass<'_>) -> (Tensor<2>, Tensor<2>) {
        let d = self.c_proj.inputs;
        let (x, [qkv]) = Linear::forward_with_residual([&self.c_attn], x, pass);
        let [q, k, v] = [0, 1, 2].map(|part| qkv.clone().narrow(1, part * d, d));
        let attended = pass.attend(self.layer, q, k, v, self.heads);
        (x, self.c_proj.forward(attended, pass))
    }
}

impl Family for Gpt2 {
    fn name(&self) -> &'static str {
        "gpt2"
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
        x + block.mlp.c_proj.forward(Activation::gelu(inner, self.activation), pass)
    }
    fn norm(&self, x: Tensor<2>) -> Tensor<2> {
        self.transformer.ln_f.forward(x).value()
    }
    fn head(&self) -> &Frozen {
        &self.lm_head
    }
    fn linears(&self) -> Vec<&Linear> {
        let blocks = self.transformer.h.iter();
        blocks
            .flat_map(|b| [&b.attn.c_attn, &b.attn.c_proj, &b.mlp.c_fc, &b.mlp.c_proj])
            .collect()
    }
    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let blocks = self.transformer.h.iter_mut();
        blocks
            .flat_map(|b| {
                [
                    &mut b.attn.c_attn,
                    &mut b.attn.c_proj,
                    &mut b.mlp.c_fc,
                    &mut b.mlp.c_proj,
                ]
            })
            .collect()
    }
}
