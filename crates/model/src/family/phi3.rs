//! Phi-3, Phi-3.5 and Phi-4: Llama with q, k and v in one matrix, gate and up in another (transformers `modeling_phi3`). They
//! stay fused, so that an adapter sits where PEFT puts it.
use super::Shape;
use super::decoder::{self, Config, Decoder};
use crate::Result;
use crate::checkpoint::Checkpoint;
use crate::load::{At, Weights};
use crate::nn::{Heads, Linear, Pass, RmsNorm};
use crate::ops::Activation;
use burn::tensor::Tensor;
use serde_json::Value;

pub struct Block {
    pub self_attn: Attention,
    pub mlp: Mlp,
    pub input_layernorm: RmsNorm,
    pub post_attention_layernorm: RmsNorm,
}
pub struct Attention {
    pub qkv_proj: Linear,
    pub o_proj: Linear,
    heads: Heads,
    layer: usize,
}
pub struct Mlp {
    pub gate_up_proj: Linear,
    pub down_proj: Linear,
}

pub fn load(base: &Checkpoint, weights: Weights<'_>) -> Result<Decoder<Block>> {
    let mut cfg = Config::read(base)?;
    cfg.rms_norm_eps.get_or_insert(1e-5);
    let heads = Heads {
        window: cfg.sliding_window,
        ..cfg.heads()
    };
    let shape = Shape {
        fused: true,
        // v is a view of the product; q and k stay a second time, rotated.
        saved: 2 * cfg.hidden_size + heads.q_width() + heads.kv_width(),
        rotary: (heads.head_dim as f64 * rotating_part(&base.config)) as usize,
        ..cfg.shape()
    };
    Decoder::load(("phi3", base, weights), &cfg, shape, |at, layer| Block {
        self_attn: Attention::load(&at.at("self_attn"), layer, cfg.hidden_size, heads),
        mlp: Mlp::load(&at.at("mlp"), layer, cfg.hidden_size, cfg.intermediate_size),
        input_layernorm: cfg.norm(at, "input_layernorm"),
        post_attention_layernorm: cfg.norm(at, "post_attention_layernorm"),
    })
}

fn rotating_part(config: &Value) -> f64 {
    let part = |place: &Value| place.get("partial_rotary_factor").and_then(Value::as_f64);
    config
        .get("rope_parameters")
        .and_then(part)
        .or(part(config))
        .unwrap_or(1.0)
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
        let (a, m) = (&self.self_attn, &self.mlp);
        vec![&a.qkv_proj, &a.o_proj, &m.gate_up_proj, &m.down_proj]
    }
    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let (a, m) = (&mut self.self_attn, &mut self.mlp);
        vec![&mut a.qkv_proj, &mut a.o_proj, &mut m.gate_up_proj, &mut m.down_proj]
    }
}

impl Attention {
    fn load(at: &At<'_, '_>, layer: usize, d: usize, heads: Heads) -> Self {
        let fused = heads.q_width() + 2 * heads.kv_width();
        Self {
            qkv_proj: Linear::load(&at.at("qkv_proj"), layer, d, fused, false),
            o_proj: Linear::load(&at.at("o_proj"), layer, heads.q_width(), d, false),
            heads,
            layer,
        }
    }

    /// The residual stream, and what is to be added to it.
    fn forward(&self, x: Activation, pass: &Pass<'_>) -> (Tensor<2>, Tensor<2>) {
        let (q_width, kv_width, head_dim) = (self.heads.q_width(), self.heads.kv_width(), self.heads.head_dim);
        let (x, [qkv]) = Linear::forward_with_residual([&self.qkv_proj], x, pass);
        let q = pass.rotate(qkv.clone().narrow(1, 0, q_width), head_dim);
        let k = pass.rotate(qkv.clone().narrow(1, q_width, kv_width), head_dim);
        let v = qkv.narrow(1, q_width + kv_width, kv_width);
        let attended = pass.attend(self.layer, q, k, v, self.heads);
        (x, self.o_proj.forward(attended, pass))
    }
}

impl Mlp {
    fn load(at: &At<'_, '_>, layer: usize, d: usize, inner: usize) -> Self {
        Self {
            gate_up_proj: Linear::load(&at.at("gate_up_proj"), layer, d, 2 * inner, false),
            down_proj: Linear::load(&at.at("down_proj"), layer, inner, d, false),
        }
    }

    /// The residual stream, and what is to be added to it.
    fn forward(&self, x: Activation, pass: &Pass<'_>) -> (Tensor<2>, Tensor<2>) {
        let (x, [gate_up]) = Linear::forward_with_residual([&self.gate_up_proj], x, pass);
        let inner = self.down_proj.inputs;
        let (gate, up) = (gate_up.clone().narrow(1, 0, inner), gate_up.narrow(1, inner, inner));
        (x, self.down_proj.forward(Activation::swiglu(gate, up), pass))
    }
}
