//! SwiGLU's gate (Shazeer 2020, arXiv:2002.05202).
use super::{clock, has_kernels};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Tensor, activation};

#[backend_extension(Autodiff, Flex, LibTorch: cfg(feature = "tch"))]
pub trait SwigluOp: Backend {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `(dgate, dup)`.
    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// `(dgate, dup, y)`: the backward pass, and the forward one again, which may be put in the place of `dy`.
    fn swiglu_backward_recompute(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// `silu(gate) * up`, element by element.
///
/// # Shapes
/// - `gate`, `up`, result: `[tokens, d]`
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    let _running = clock::op("SwiGLU");
    if !has_kernels("swiglu", &gate) {
        return reference(gate, up);
    }
    Tensor::from_dispatch(<Dispatch as SwigluOp>::swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// The same from Burn's operations.
pub fn reference(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    activation::silu(gate) * up
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::*;

    #[test]
    fn equals_the_reference_in_value_and_gradient() {
        assert_parity(
            &[random(1, [11, 37]) * 20.0, random(2, [11, 37])],
            |_, i| swiglu(i[0].clone(), i[1].clone()),
            |i| reference(i[0].clone(), i[1].clone()),
            2e-5,
        );
    }
}
