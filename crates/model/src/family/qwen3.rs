//! Qwen 3, the dense ones: Llama with a norm over each head of queries and keys (transformers `modeling_qwen3`).
use super::decoder::{Config, Decoder};
use super::llama::{Block, Form, Over};
use super::{Shape, qwen2};
use crate::Result;
use crate::checkpoint::Checkpoint;
use crate::load::Weights;

pub fn load(base: &Checkpoint, weights: Weights<'_>) -> Result<Decoder<Block>> {
    let mut cfg = Config::read(base)?;
    cfg.head_dim.get_or_insert(128);
    let heads = qwen2::heads(base, &cfg)?;
    let form = Form {
        qk_norm: Some(Over::AHead),
        ..Form::of(&cfg)
    };
    let shape = Shape {
        saved: 2 * cfg.hidden_size + form.heads.q_width() + form.heads.kv_width(),
        ..cfg.shape()
    };
    Decoder::load(("qwen3", base, weights), &cfg, shape, |at, layer| {
        let heads = heads[layer];
        Block::load(at, layer, &cfg, Form { heads, ..form })
    })
}
