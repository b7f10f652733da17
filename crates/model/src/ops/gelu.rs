//! GELU (Hendrycks & Gimpel 2016, arXiv:1606.08415), exact or by its tanh approximation.
use super::{clock, has_kernels};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Tensor, activation};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gelu {
    /// `x Φ(x)`, `gelu` in Hugging Face configs.
    Exact,
    /// `0.5 x (1 + tanh(sqrt(2/π) (x + 0.044715 x³)))`, `gelu_new` and `gelu_pytorch_tanh` there.
    Tanh,
}

#[backend_extension(Autodiff, Flex, LibTorch: cfg(feature = "tch"))]
pub trait GeluOp: Backend {
    fn gelu_of(x: FloatTensor<Self>, form: Gelu) -> FloatTensor<Self>;
    fn gelu_of_backward(x: FloatTensor<Self>, dy: FloatTensor<Self>, form: Gelu) -> FloatTensor<Self>;
}

/// Element by element.
///
/// # Shapes
/// - `x`, result: `[tokens, d]`
pub fn gelu(x: Tensor<2>, form: Gelu) -> Tensor<2> {
    let _running = clock::op("gelu");
    if !has_kernels("gelu", &x) {
        return reference(x, form);
    }
    Tensor::from_dispatch(<Dispatch as GeluOp>::gelu_of(x.into_dispatch(), form))
}

/// The same from Burn's operations.
pub fn reference(x: Tensor<2>, form: Gelu) -> Tensor<2> {
    match form {
        Gelu::Exact => activation::gelu(x),
        Gelu::Tanh => {
            let inner = (x.clone() + x.clone().powi_scalar(3) * 0.044_715) * (2.0 / std::f64::consts::PI).sqrt();
            x * 0.5 * (inner.tanh() + 1.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::*;

    #[test]
    fn equals_the_reference_in_value_and_gradient() {
        for form in [Gelu::Exact, Gelu::Tanh] {
            assert_parity(
                &[random(1, [11, 37]) * 6.0],
                |_, i| gelu(i[0].clone(), form),
                |i| reference(i[0].clone(), form),
                1e-5,
            );
        }
    }
}
