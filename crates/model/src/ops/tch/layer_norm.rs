//! ATen's kernels; mean and deviation are computed again for the backward pass.
use super::new;
use crate::ops::layer_norm::LayerNormOp;
use burn::backend::{LibTorch, tensor::FloatTensor};
use tch::{Kind, Tensor};

impl LayerNormOp for LibTorch {
    fn frozen_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        let d = weight.tensor.size();
        new(x
            .tensor
            .native_layer_norm(d, Some(&weight.tensor), Some(&bias.tensor), eps)
            .0)
    }

    /// With `n = (x − mean)/deviation` and `g = dy·weight`: `dx = (g − mean(g) − n·mean(g·n)) / deviation`.
    fn frozen_layer_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        let kind = x.tensor.kind();
        let mean = |t: &Tensor| t.mean_dim([1].as_slice(), true, Kind::Float);
        let x = x.tensor.to_kind(Kind::Float);
        let (n, _, inverse) = x.native_layer_norm(weight.tensor.size(), None::<&Tensor>, None::<&Tensor>, eps);
        let g = dy.tensor.to_kind(Kind::Float) * weight.tensor.to_kind(Kind::Float);
        let shared = mean(&(&g * &n));
        let centre = mean(&g);
        new(((g - centre - n * shared) * inverse).to_kind(kind))
    }
}
