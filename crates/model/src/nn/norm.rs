//! Normalizations with frozen weights.
use crate::load::At;
use crate::ops::{Activation, rms_norm};
use burn::tensor::Tensor;

pub struct RmsNorm {
    pub weight: Tensor<1>,
    pub eps: f64,
}
impl RmsNorm {
    pub fn load(at: &At<'_, '_>, d: usize, eps: f64) -> Self {
        Self {
            weight: at.vector("weight", d),
            eps,
        }
    }
    /// One whose weight is stored less 1 (Gemma). In f32, whatever activations are: bf16 next to 1 has few values.
    pub fn load_less_one(at: &At<'_, '_>, d: usize, eps: f64) -> Self {
        Self {
            weight: at.exact_vector("weight", d) + 1.0,
            eps,
        }
    }
    /// `[tokens, d]` to the same.
    pub fn forward(&self, x: Tensor<2>) -> Activation {
        Activation::rms_norm(x, &self.weight, self.eps)
    }
    /// Over every stretch of a row that is as wide as the weight: `[tokens, heads * d]` to the same.
    pub fn forward_each(&self, x: Tensor<2>) -> Tensor<2> {
        let ([rows, columns], [d]) = (x.dims(), self.weight.dims());
        let y = rms_norm(x.reshape([rows * columns / d, d]), &self.weight, self.eps);
        y.reshape([rows, columns])
    }
}

pub struct LayerNorm {
    pub weight: Tensor<1>,
    pub bias: Tensor<1>,
    pub eps: f64,
}
impl LayerNorm {
    pub fn load(at: &At<'_, '_>, d: usize, eps: f64) -> Self {
        Self {
            weight: at.vector("weight", d),
            bias: at.vector("bias", d),
            eps,
        }
    }
    /// `[tokens, d]` to the same.
    pub fn forward(&self, x: Tensor<2>) -> Activation {
        Activation::layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}
