//! One loop on the CPU; elsewhere ATen's calls, with statistics in f32 whatever the dtype of the rows.
use super::{cuda, host, new};
use crate::ops::rms_norm::RmsNormOp;
use burn::backend::{LibTorch, tensor::FloatTensor};
use tch::{Kind, Tensor};

/// `x` in f32 and `1 / sqrt(mean(x²) + eps)`, `[tokens, 1]`.
fn inverse_rms(x: &Tensor, eps: f64) -> (Tensor, Tensor) {
    let x = x.to_kind(Kind::Float);
    let mean = x.square().mean_dim([1].as_slice(), true, Kind::Float);
    (x, (mean + eps).rsqrt_())
}

fn forward(x: &Tensor, weight: &Tensor, eps: f64) -> Tensor {
    let kind = x.kind();
    let (x, inverse) = inverse_rms(x, eps);
    (x * inverse * weight.to_kind(Kind::Float)).to_kind(kind)
}

/// With `n = x/rms` and `g = dy·weight`: `dx = (g − n·mean(g·n)) / rms`.
fn backward(x: &Tensor, weight: &Tensor, dy: &Tensor, eps: f64) -> Tensor {
    let kind = x.kind();
    let (x, inverse) = inverse_rms(x, eps);
    let n = x * &inverse;
    let g = dy.to_kind(Kind::Float) * weight.to_kind(Kind::Float);
    let shared = (&g * &n).mean_dim([1].as_slice(), true, Kind::Float);
    ((g - n * shared) * inverse).to_kind(kind)
}

impl RmsNormOp for LibTorch {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        let (x, weight) = (&x.tensor, &weight.tensor);
        new(cuda::rms_norm(x, weight, eps)
            .or_else(|| host::rms_norm(x, weight, eps))
            .unwrap_or_else(|| forward(x, weight, eps)))
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        let (x, weight, dy) = (&x.tensor, &weight.tensor, &dy.tensor);
        new(cuda::rms_norm_backward(x, weight, dy, eps)
            .or_else(|| host::rms_norm_backward(x, weight, dy, eps))
            .unwrap_or_else(|| backward(x, weight, dy, eps)))
    }

    fn rms_norm_backward_residual(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (x, weight, dy, residual) = (&x.tensor, &weight.tensor, &dy.tensor, &residual.tensor);
        let (dx, y) = cuda::rms_norm_backward_residual(x, weight, dy, residual, eps)
            .or_else(|| host::rms_norm_backward_residual(x, weight, dy, residual, eps))
            .unwrap_or_else(|| (backward(x, weight, dy, eps) + residual, forward(x, weight, eps)));
        (new(dx), new(y))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_equal, waves};
    use super::*;

    #[test]
    fn the_loop_equals_aten() {
        let (x, weight, dy) = (waves(1, [7, 53]), waves(2, [53]), waves(3, [7, 53]));
        assert_equal(&host::rms_norm(&x, &weight, 1e-5).unwrap(), &forward(&x, &weight, 1e-5));
        let dx = host::rms_norm_backward(&x, &weight, &dy, 1e-5).unwrap();
        assert_equal(&dx, &backward(&x, &weight, &dy, 1e-5));
        let residual = waves(4, [7, 53]);
        let (found, y) = host::rms_norm_backward_residual(&x, &weight, &dy, &residual, 1e-5).unwrap();
        assert_equal(&found, &(dx + residual));
        assert_equal(&y, &forward(&x, &weight, 1e-5));
    }
}
