//! Llama 1 to 3.3, SmolLM2, TinyLlama, and Mistral with its sliding window (transformers `modeling_llama`, `modeling_mistral`).
use super::decoder::{self, Config, Decoder};
use crate::Result;
use crate::checkpoint::Checkpoint;
use crate::load::{At, Weights};
use crate::nn::{Heads, Linear, Pass, RmsNorm};
use crate::ops::Activation;
use burn::tensor::Tensor;

pub fn load(base: &Checkpoint, weights: Weights<'_>) -> Result<Decoder<Block>> {
    let cfg = Config::read(base)?;
    let heads = Heads {
        window: cfg.sliding_window,
        ..cfg.heads()
    };
    let form = Form {
        heads,
        ..Form::of(&cfg)
    };
    Decoder::load(("llama", base, weights), &cfg, cfg.shape(), |at, layer| {
        Block::load(at, layer, &cfg, form)
    })
}

/// What a block has beside or unlike Llama's, from family to family and from layer to layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    pub heads: Heads,
    pub qkv_bias: bool,
    pub o_bias: bool,
    pub rotates: bool,
    /// What a norm of queries and keys goes over, where there is one.
    pub qk_norm: Option<Over>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    AHead,
    AllHeads,
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
    pub q_norm: Option<RmsNorm>,
    pub k_norm: Option<RmsNorm>,
    form: Form,
    layer: usize,
}
pub struct Mlp {
    pub gate_proj: Linear,
    pub up_proj: Linear,
    pub down_proj: Linear,
}

impl Form {
    pub(super) fn of(cfg: &Config) -> Self {
        Self {
            heads: cfg.heads(),
            qkv_bias: cfg.attention_bias,
            o_bias: cfg.attention_bias,
            rotates: true,
            qk_norm: None,
        }
    }
}

impl Block {
    pub(super) fn load(at: &At<'_, '_>, layer: usize, cfg: &Config, form: Form) -> Self {
        Self {
            self_attn: Attention::load(&at.at("self_attn"), layer, cfg, form),
            mlp: Mlp::load(&at.at("mlp"), layer, cfg),
            input_layernorm: cfg.norm(at, "input_layernorm"),
            post_attention_layernorm: cfg.norm(at, "post_attention_layernorm"),
        }
    }
}

impl decoder::Block for Block {
    fn forward(&self, x: Tensor<2>, pass: &Pass<'_>) -> Tensor<2> {
        let (x, attended) = self.self_attn.forward(self.input_layernorm.forward(x), pass);
        let (x, fed) = self
            .mlp
            .forward(self.post_attention_layernorm.forward(x + attended), pass);
        x + fed
    }
    fn linears(&self) -> Vec<&Linear> {
        [self.self_attn.linears().as_slice(), &self.mlp.linears()].concat()
    }
    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let (attention, mlp) = (self.self_attn.linears_mut(), self.mlp.linears_mut());
        attention.into_iter().chain(mlp).collect()
    }
}

impl Attention {
    pub(super) fn load(at: &At<'_, '_>, layer: usize, cfg: &Config, form: Form) -> Self {
        let (d, heads) = (cfg.hidden_size, form.heads);
        let (q_width, kv_width) = (heads.q_width(), heads.kv_width());
        let norm = |name: &str, width: usize| {
            let width = match form.qk_norm? {
                Over::AHead => heads.head_dim,
                Over::AllHeads => width,
            };
            Some(RmsNorm::load(&at.at(name), width, cfg.epsilon()))
        };
        Self {
            q_proj: Linear::load(&at.at("q_proj"), layer, d, q_width, form.qkv_bias),
            k_proj: Linear::load(&at.at("k_proj"), layer, d, kv_width, form.qkv_bias),
            v_proj: Linear::load(&at.at("v_proj"), layer, d, kv_width, form.qkv_bias),
            o_proj: Linear::load(&at.at("o_proj"), layer, q_width, d, form.o_bias),
            q_norm: norm("q_norm", q_width),
            k_norm: norm("k_norm", kv_width),
            form,
            layer,
        }
    }

    /// The residual stream, and what is to be added to it.
    pub(super) fn forward(&self, x: impl Into<Activation>, pass: &Pass<'_>) -> (Tensor<2>, Tensor<2>) {
        let (x, [q, k, v]) = Linear::forward_with_residual([&self.q_proj, &self.k_proj, &self.v_proj], x, pass);
        let (q, k) = (self.placed(q, &self.q_norm, pass), self.placed(k, &self.k_norm, pass));
        let attended = pass.attend(self.layer, q, k, v, self.form.heads);
        (x, self.o_proj.forward(attended, pass))
    }

    /// Queries or keys, normed and rotated as the family has it.
    fn placed(&self, x: Tensor<2>, norm: &Option<RmsNorm>, pass: &Pass<'_>) -> Tensor<2> {
        let x = match norm {
            None => x,
            Some(norm) => norm.forward_each(x),
        };
        match self.form.rotates {
            true => pass.rotate(x, self.form.heads.head_dim),
            false => x,
        }
    }

    pub(super) fn linears(&self) -> [&Linear; 4] {
        [&self.q_proj, &self.k_proj, &self.v_proj, &self.o_proj]
    }
    pub(super) fn linears_mut(&mut self) -> [&mut Linear; 4] {
        [&mut self.q_proj, &mut self.k_proj, &mut self.v_proj, &mut self.o_proj]
    }
}

impl Mlp {
    pub(super) fn load(at: &At<'_, '_>, layer: usize, cfg: &Config) -> Self {
        let (d, inner, bias) = (cfg.hidden_size, cfg.intermediate_size, cfg.mlp_bias);
        Self {
            gate_proj: Linear::load(&at.at("gate_proj"), layer, d, inner, bias),
            up_proj: Linear::load(&at.at("up_proj"), layer, d, inner, bias),
            down_proj: Linear::load(&at.at("down_proj"), layer, inner, d, bias),
        }
    }

    /// The residual stream, and what is to be added to it.
    pub(super) fn forward(&self, x: impl Into<Activation>, pass: &Pass<'_>) -> (Tensor<2>, Tensor<2>) {
        let (x, [gate, up]) = Linear::forward_with_residual([&self.gate_proj, &self.up_proj], x, pass);
        (x, self.down_proj.forward(Activation::swiglu(gate, up), pass))
    }

    pub(super) fn linears(&self) -> [&Linear; 3] {
        [&self.gate_proj, &self.up_proj, &self.down_proj]
    }
    pub(super) fn linears_mut(&mut self) -> [&mut Linear; 3] {
        [&mut self.gate_proj, &mut self.up_proj, &mut self.down_proj]
    }
}
