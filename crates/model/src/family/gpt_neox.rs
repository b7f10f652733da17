//! GPT-NeoX and Pythia: attention and MLP side by side, part of each head rotated, q, k and v from one linear, head by head
//! (transformers `modeling_gpt_neox`).
use super::{Family, Shape, config, unsupported};
use crate::checkpoint::Checkpoint;
use crate::load::Weights;
use crate::nn::{Angles, Heads, LayerNorm, Linear, Pass, Rope};
use crate::ops::{Activation, Gelu};
use crate::{Frozen, Input, Result};
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    /// How much of a head rotates; transformers 5 has it among `rope_parameters`.
    #[serde(default = "default_rotary_pct")]
    pub rotary_pct: f64,
    #[serde(default = "default_eps")]
    pub layer_norm_eps: f64,
    #[serde(default = "default_act")]
    pub hidden_act: String,
    #[serde(default = "default_true")]
    pub use_parallel_residual: bool,
    #[serde(default = "default_true")]
    pub attention_bias: bool,
    #[serde(default)]
    pub tie_word_embeddings: bool,
}
fn default_rotary_pct() -> f64 {
    0.25
}
fn default_eps() -> f64 {
    1e-5
}
fn default_act() -> String {
    "gelu".into()
}
fn default_true() -> bool {
    true
}

pub struct GptNeox {
    pub gpt_neox: Model,
    pub embed_out: Frozen,
    shape: Shape,
    rope: Rope,
    device: Device,
    activation: Gelu,
    parallel: bool,
}
pub struct Model {
    pub embed_in: Frozen,
    pub layers: Vec<Block>,
    pub final_layer_norm: LayerNorm,
}
pub struct Block {
    pub input_layernorm: LayerNorm,
    pub post_attention_layernorm: LayerNorm,
    pub attention: Attention,
    pub mlp: Mlp,
}
pub struct Attention {
    /// Of each head q, k and v, side by side.
    pub query_key_value: Linear,
    pub dense: Linear,
    heads: Heads,
    layer: usize,
}
pub struct Mlp {
    pub dense_h_to_4h: Linear,
    pub dense_4h_to_h: Linear,
}

impl GptNeox {
    pub fn load(base: &Checkpoint, weights: Weights<'_>) -> Result<Self> {
        let cfg: Config = config(base)?;
        let activation = match cfg.hidden_act.as_str() {
            "gelu" => Gelu::Exact,
            "gelu_new" | "gelu_pytorch_tanh" => Gelu::Tanh,
            other => {
                let problem = format!("hidden_act is `{other}`, wanted `gelu` or `gelu_new`");
                return Err(unsupported(base, problem));
            }
        };
        let (d, heads, inner) = (cfg.hidden_size, cfg.num_attention_heads, cfg.intermediate_size);
        if heads == 0 || !d.is_multiple_of(heads) {
            let problem = format!("{heads} attention heads do not divide hidden_size, {d}");
            return Err(unsupported(base, problem));
        }
        let head_dim = d / heads;
        let parameter = |key: &str| base.config.get("rope_parameters")?.get(key).and_then(Value::as_f64);
        let share = parameter("partial_rotary_factor").unwrap_or(cfg.rotary_pct);
        let rotary = (head_dim as f64 * share) as usize;
        let rope = Rope::from_config(&base.config, rotary).map_err(|problem| unsupported(base, problem))?;
        let shape = Shape {
            layers: cfg.num_hidden_layers,
            hidden: d,
            vocab: cfg.vocab_size,
            context: cfg.max_position_embeddings,
            heads,
            q_width: d,
            kv_width: d,
            inner,
            gated: false,
            fused: false,
            // Those of q, k and v, that of their product so far, one more part of it, and both added up; the MLP's part of
            // the input's gradient and the output's. Gone are q, k, v, attention's output and all of the MLP.
            joined: if cfg.use_parallel_residual { 8 * d } else { 0 },
            // Side by side, both norms are given the same.
            saved: if cfg.use_parallel_residual { d } else { 2 * d },
            rotary,
            capped: false,
        };
        let heads = Heads {
            heads,
            kv_heads: heads,
            head_dim,
            scale: (head_dim as f64).powf(-0.5),
            window: None,
            softcap: None,
        };
        let model = weights.root().at("gpt_neox");
        let block = |layer: usize| {
            let at = model.at(&format!("layers.{layer}"));
            Block {
                input_layernorm: LayerNorm::load(&at.at("input_layernorm"), d, cfg.layer_norm_eps),
                post_attention_layernorm: LayerNorm::load(&at.at("post_attention_layernorm"), d, cfg.layer_norm_eps),
                attention: Attention {
                    query_key_value: Linear::load(
                        &at.at("attention.query_key_value"),
                        layer,
                        d,
                        3 * d,
                        cfg.attention_bias,
                    ),
                    dense: Linear::load(&at.at("attention.dense"), layer, d, d, cfg.attention_bias),
                    heads,
                    layer,
                },
                mlp: Mlp {
                    dense_h_to_4h: Linear::load(&at.at("mlp.dense_h_to_4h"), layer, d, inner, true),
                    dense_4h_to_h: Linear::load(&at.at("mlp.dense_4h_to_h"), layer, inner, d, true),
                },
            }
        };
        let embed_in = model.table("embed_in.weight", cfg.vocab_size, d);
        let layers = (0..cfg.num_hidden_layers).map(block).collect();
        let final_layer_norm = LayerNorm::load(&model.at("final_layer_norm"), d, cfg.layer_norm_eps);
        // transformers 5 calls it as it does in other families.
        let head = ["lm_head.weight", "embed_out.weight"]
            .into_iter()
            .find(|name| weights.has(name));
        let embed_out = match (head, cfg.tie_word_embeddings) {
            (None, true) => embed_in.clone(),
            (head, _) => weights
                .root()
                .table(head.unwrap_or("embed_out.weight"), cfg.vocab_size, d),
        };
        let device = weights.device();
        // The hub's files hold the causal masks and the frequencies too.
        let buffers = [".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq"];
        weights.finish(|name| buffers.iter().any(|buffer| name.ends_with(buffer)))?;
        Ok(Self {
            gpt_neox: Model {
                embed_in,
                layers,
                final_layer_norm,
            },
            embed_out,
            shape,
            rope,
            device,
            activation,
            parallel: cfg.use_parallel_residual,
        })
    }
}

impl Attention {
    /// The residual stream, and what is to be added to it.
    fn forward(&self, x: Activation, pass: &Pass<'_>) -> (Tensor<2>, Tensor<2>) {
        let (heads, d) = (self.heads.heads, self.heads.head_dim);
        let (x, [qkv]) = Linear::forward_with_residual([&self.query_key_value], x, pass);
        let [tokens, _] = qkv.dims();
        let qkv = qkv.reshape([tokens, heads, 3 * d]);
        let [q, k, v] = [0, 1, 2].map(|part| qkv.clone().narrow(2, part * d, d).reshape([tokens, heads * d]));
        let (q, k) = (pass.rotate(q, d), pass.rotate(k, d));
        let attended = pass.attend(self.layer, q, k, v, self.heads);
        (x, self.dense.forward(attended, pass))
    }
}

impl Mlp {
    /// The residual stream, and what is to be added to it.
    fn forward(&self, x: Activation, activation: Gelu, pass: &Pass<'_>) -> (Tensor<2>, Tensor<2>) {
        let (x, [inner]) = Linear::forward_with_residual([&self.dense_h_to_4h], x, pass);
        (x, self.dense_4h_to_h.forward(Activation::gelu(inner, activation), pass))
    }
}

impl Family for GptNeox {
    fn name(&self) -> &'static str {
        "gpt_neox"
    }
    fn shape(&self) -> Shape {
        self.shape
    }
    fn embed(&self, tokens: &[u32], _positions: &[u32]) -> Tensor<2> {
        self.gpt_neox.embed_in.rows(tokens)
    }
    fn angles(&self, input: &Input) -> Option<Angles> {
        Some(self.rope.angles(&input.positions, &input.starts, &self.device))
    }
    fn block(&self, layer: usize, x: Tensor<2>, pass: &Pass<'_>) -> Tensor<2> {
        let block = &self.gpt_neox.layers[layer];
        let (x, attended) = block.attention.forward(block.input_layernorm.forward(x), pass);
        let (seen, rest) = match self.parallel {
            true => (x, Some(attended)),
            false => (x + attended, None),
        };
        let normed = block.post_attention_layernorm.forward(seen);
        let (x, fed) = block.mlp.forward(normed, self.activation, pass);
        match rest {
            Some(attended) => x + attended + fed,
            None => x + fed,
        }
    }
    fn norm(&self, x: Tensor<2>) -> Tensor<2> {
        self.gpt_neox.final_layer_norm.forward(x).value()
    }
    fn head(&self) -> &Frozen {
        &self.embed_out
    }
    fn linears(&self) -> Vec<&Linear> {
        let blocks = self.gpt_neox.layers.iter();
        blocks
            .flat_map(|b| {
                let (a, m) = (&b.attention, &b.mlp);
                [&a.query_key_value, &a.dense, &m.dense_h_to_4h, &m.dense_4h_to_h]
            })
            .collect()
    }
    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let blocks = self.gpt_neox.layers.iter_mut();
        blocks
            .flat_map(|b| {
                let (a, m) = (&mut b.attention, &mut b.mlp);
                [
                    &mut a.query_key_value,
                    &mut a.dense,
                    &mut m.dense_h_to_4h,
                    &mut m.dense_4h_to_h,
                ]
            })
            .collect()
    }
}
