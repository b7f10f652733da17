//! GELU by its tanh approximation (Hendrycks & Gimpel 2016, arXiv:1606.08415), `gelu_new` in Hugging Face configs.
use super::{clock, has_kernels};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

#[backend_extension(Autodiff, Flex, LibTorch: cfg(feature = "tch"))]
pub trait GeluOp: Backend {
    fn gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn gelu_tanh_backward(x: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// `0.5 x (1 + tanh(sqrt(2/π) (x + 0.044715 x³)))`, element by element.
///
/// # Shapes
/// - `x`, result: `[tokens, d]`
pub fn gelu(x: Tensor<2>) -> Tensor<2> {
    let _running = clock::op("gelu");
    if !has_kernels(&x) {
        return reference(x);
    }
    Tensor::from_dispatch(<Dispatch as GeluOp>::gelu_tanh(x.into_dispatch()))
}

/// The same from Burn's operations.
pub fn reference(x: Tensor<2>) -> Tensor<2> {
    let inner = (x.clone() + x.clone().powi_scalar(3) * 0.044_715) * (2.0 / std::f64::consts::PI).sqrt();
    x * 0.5 * (inner.tanh() + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::*;

    #[test]
    fn equals_the_reference_in_value_and_gradient() {
        assert_parity(
            &[random(1, [11, 37]) * 6.0],
            |_, i| gelu(i[0].clone()),
            |i| reference(i[0].clone()),
            1e-5,
        );
    }
}
