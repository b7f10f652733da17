//! Statistics in f32 whatever the dtype of the rows.
use super::{cuda, new};
use crate::ops::rms_norm::RmsNormOp;
use burn::backend::{LibTorch, tensor::FloatTensor};
use tch::{Kind, Tensor};

/// `x` in f32 and `1 / sqrt(mean(x²) + eps)`, `[tokens, 1]`.
fn inverse_rms(x: &Tensor, eps: f64) -> (Tensor, Tensor) {
    let x = x.to_kind(Kind::Float);
    let mean = x.square().mean_dim([1].as_slice(), true, Kind::Float);
    (x, (mean + eps).rsqrt_())
}

impl RmsNormOp for LibTorch {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        if let Some(y) = cuda::rms_norm(&x.tensor, &weight.tensor, eps) {
            return new(y);
        }
        let kind = x.tensor.kind();
        let (x, inverse) = inverse_rms(&x.tensor, eps);
        new((x * inverse * weight.tensor.to_kind(Kind::Float)).to_kind(kind))
    }

    /// With `n = x/rms` and `g = dy·weight`: `dx = (g − n·mean(g·n)) / rms`.
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        if let Some(dx) = cuda::rms_norm_backward(&x.tensor, &weight.tensor, &dy.tensor, eps) {
            return new(dx);
        }
        let kind = x.tensor.kind();
        let (x, inverse) = inverse_rms(&x.tensor, eps);
        let n = x * &inverse;
        let g = dy.tensor.to_kind(Kind::Float) * weight.tensor.to_kind(Kind::Float);
        let shared = (&g * &n).mean_dim([1].as_slice(), true, Kind::Float);
        new(((g - n * shared) * inverse).to_kind(kind))
    }
}
