//! Root-mean-square normalization (Zhang & Sennrich 2019, arXiv:1910.07467), weight frozen.
use super::{clock, has_kernels};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

#[backend_extension(Autodiff, Flex, LibTorch: cfg(feature = "tch"))]
pub trait RmsNormOp: Backend {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self>;
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self>;
    /// `(dx + residual, y)`: the backward pass where `x` is a residual stream and gets that gradient as well, and the forward one
    /// again.
    fn rms_norm_backward_residual(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let y = Self::rms_norm(x.clone(), weight.clone(), eps);
        let dx = Self::rms_norm_backward(x, weight, dy, eps);
        (Self::float_add(dx, residual), y)
    }
}

/// `x / sqrt(mean(x²) + eps) * weight`, row by row. The weight gets no gradient.
///
/// # Shapes
/// - `x`: `[tokens, d]`, `weight`: `[d]`, result: `[tokens, d]`
pub fn rms_norm(x: Tensor<2>, weight: &Tensor<1>, eps: f64) -> Tensor<2> {
    let _running = clock::op("RMS norm");
    if !has_kernels("rms_norm", &x) {
        return reference(x, weight, eps);
    }
    Tensor::from_dispatch(<Dispatch as RmsNormOp>::rms_norm(
        x.into_dispatch(),
        weight.clone().into_dispatch(),
        eps,
    ))
}

/// The same from Burn's operations.
pub fn reference(x: Tensor<2>, weight: &Tensor<1>, eps: f64) -> Tensor<2> {
    let dtype = x.dtype();
    let rms = (x.clone().powi_scalar(2).mean_dim(1) + eps).sqrt();
    x / rms * weight.clone().cast(dtype).unsqueeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::*;

    #[test]
    fn equals_the_reference_in_value_and_gradient() {
        let weight = random::<1>(2, [37]);
        assert_parity(
            &[random(1, [11, 37])],
            |p, i| rms_norm(i[0].clone(), &p.put(&weight), 1e-5),
            |i| reference(i[0].clone(), &weight, 1e-5),
            1e-5,
        );
    }
}
