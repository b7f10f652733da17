//! OLMo 2: norms after attention and MLP instead of before, and over queries and keys (transformers `modeling_olmo2`).
use super::Shape;
use super::decoder::{self, Config, Decoder};
use super::llama::{Attention, Form, Mlp, Over};
use crate::Result;
use crate::checkpoint::Checkpoint;
use crate::load::Weights;
use crate::nn::{Linear, Pass, RmsNorm};
use burn::tensor::Tensor;

pub struct Block {
    pub self_attn: Attention,
    pub mlp: Mlp,
    pub post_attention_layernorm: RmsNorm,
    pub post_feedforward_layernorm: RmsNorm,
}

pub fn load(base: &Checkpoint, weights: Weights<'_>) -> Result<Decoder<Block>> {
    let mut cfg = Config::read(base)?;
    cfg.rms_norm_eps.get_or_insert(1e-5);
    let form = Form {
        qk_norm: Some(Over::AllHeads),
        ..Form::of(&cfg)
    };
    let shape = Shape {
        saved: form.heads.q_width() + form.heads.kv_width() + 4 * cfg.hidden_size,
        ..cfg.shape()
    };
    Decoder::load(("olmo2", base, weights), &cfg, shape, |at, layer| Block {
        self_attn: Attention::load(&at.at("self_attn"), layer, &cfg, form),
        mlp: Mlp::load(&at.at("mlp"), layer, &cfg),
        post_attention_layernorm: cfg.norm(at, "post_attention_layernorm"),
        post_feedforward_layernorm: cfg.norm(at, "post_feedforward_layernorm"),
    })
}

impl decoder::Block for Block {
    fn forward(&self, x: Tensor<2>, pass: &Pass<'_>) -> Tensor<2> {
        let (x, attended) = self.self_attn.forward(x, pass);
        let x = x + self.post_attention_layernorm.forward(attended).value();
        let (x, fed) = self.mlp.forward(x, pass);
        x + self.post_feedforward_layernorm.forward(fed).value()
    }
    fn linears(&self) -> Vec<&Linear> {
        [self.self_attn.linears().as_slice(), &self.mlp.linears()].concat()
    }
    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let (attention, mlp) = (self.self_attn.linears_mut(), self.mlp.linears_mut());
        attention.into_iter().chain(mlp).collect()
    }
}
