//! A linear layer: weight frozen, with or without an adapter.
use super::Pass;
use crate::Frozen;
use crate::load::At;
use crate::noise;
use crate::ops::{self, Activation, LoraCfg};
use burn::tensor::Tensor;
use std::sync::Arc;

pub struct Linear {
    /// Module path, the checkpoint key without `.weight`.
    pub path: Arc<str>,
    /// Index of the block it stands in.
    pub layer: usize,
    pub inputs: usize,
    pub outputs: usize,
    /// `[out, in]`
    pub weight: Frozen,
    pub bias: Option<Tensor<1>>,
    /// Whether the checkpoint has the weight as `[in, out]`.
    pub transposed: bool,
    pub lora: Option<Lora>,
}

/// Adapter factors, f32.
pub struct Lora {
    /// `[r, in]`
    pub a: Tensor<2>,
    /// `[out, r]`
    pub b: Tensor<2>,
    pub scale: f64,
}

impl Linear {
    pub fn load(at: &At<'_, '_>, layer: usize, inputs: usize, outputs: usize, bias: bool) -> Self {
        Self {
            path: at.path().into(),
            layer,
            inputs,
            outputs,
            weight: at.linear("weight", outputs, inputs),
            bias: bias.then(|| at.vector("bias", outputs)),
            transposed: false,
            lora: None,
        }
    }

    /// One that is stored `[in, out]`, with a bias.
    pub fn conv1d(at: &At<'_, '_>, layer: usize, inputs: usize, outputs: usize) -> Self {
        Self {
            path: at.path().into(),
            layer,
            inputs,
            outputs,
            weight: at.conv1d("weight", outputs, inputs),
            bias: Some(at.vector("bias", outputs)),
            transposed: true,
            lora: None,
        }
    }

    /// `x·Wᵀ + bias`, plus the adapter's update.
    ///
    /// # Shapes
    /// - `x`: `[tokens, in]`, result: `[tokens, out]`
    pub fn forward(&self, x: impl Into<Activation>, pass: &Pass<'_>) -> Tensor<2> {
        let x = x.into();
        let y = match &self.lora {
            None => ops::linear(x.value, &self.weight),
            Some(lora) => {
                let (a, b) = pass.leaves(&self.path, &lora.a, &lora.b);
                let seed = noise::derive(pass.noise.seed, &self.path);
                let cfg = LoraCfg {
                    scale: lora.scale,
                    dropout: pass.noise.dropout,
                    seed,
                };
                ops::lora_linear(x, &self.weight, a, b, cfg)
            }
        };
        match &self.bias {
            None => y,
            Some(bias) => y + bias.clone().unsqueeze(),
        }
    }
}
