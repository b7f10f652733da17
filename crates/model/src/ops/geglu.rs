//! GEGLU's gate (Shazeer 2020, arXiv:2002.05202), its GELU by the tanh approximation.
use super::{Gelu, clock, gelu, has_kernels};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

#[backend_extension(Autodiff, Flex, LibTorch: cfg(feature = "tch"))]
pub trait GegluOp: Backend {
    fn geglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `(dgate, dup)`.
    fn geglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// `gelu(gate) * up`, element by element.
///
/// # Shapes
/// - `gate`, `up`, result: `[tokens, d]`
pub fn geglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    let _running = clock::op("GEGLU");
    if !has_kernels("geglu", &gate) {
        return reference(gate, up);
    }
    Tensor::from_dispatch(<Dispatch as GegluOp>::geglu(gate.into_dispatch(), up.into_dispatch()))
}

/// The same from Burn's operations.
pub fn reference(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    gelu::reference(gate, Gelu::Tanh) * up
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::*;

    #[test]
    fn equals_the_reference_in_value_and_gradient() {
        assert_parity(
            &[random(1, [11, 37]) * 6.0, random(2, [11, 37])],
            |_, i| geglu(i[0].clone(), i[1].clone()),
            |i| reference(i[0].clone(), i[1].clone()),
            2e-5,
        );
    }
}
