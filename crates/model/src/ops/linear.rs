//! Frozen linear: the weight gets no gradient.
use super::{clock, has_kernels};
use crate::frozen::{Frozen, Weight};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

#[backend_extension(Autodiff, Flex, LibTorch: cfg(feature = "tch"))]
pub trait LinearOp: Backend {
    fn frozen_linear(x: FloatTensor<Self>, #[extension_type] weight: Weight<Self>) -> FloatTensor<Self>;
    fn frozen_linear_backward(dy: FloatTensor<Self>, #[extension_type] weight: Weight<Self>) -> FloatTensor<Self>;
}

/// `x · weightᵀ`, the weight as checkpoints store it.
///
/// # Shapes
/// - `x`: `[tokens, in]`, `weight`: `[out, in]`, result: `[tokens, out]`
pub fn linear(x: Tensor<2>, weight: &Frozen) -> Tensor<2> {
    let _running = clock::op("linear");
    if !has_kernels("linear", &x) {
        return reference(x, weight);
    }
    Tensor::from_dispatch(<Dispatch as LinearOp>::frozen_linear(
        x.into_dispatch(),
        weight.clone().into_dispatch(),
    ))
}

/// The same from Burn's operations.
pub fn reference(x: Tensor<2>, weight: &Frozen) -> Tensor<2> {
    let weight = weight.dense(x.dtype());
    x.matmul(weight.transpose())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::*;
    use crate::precision::Stored;

    #[test]
    fn equals_the_reference_in_value_and_gradient() {
        let weight = random::<2>(2, [21, 37]);
        // Few rows, as while decoding, have a path of their own.
        for rows in [1, 11, 40] {
            assert_parity(
                &[random(1, [rows, 37])],
                |p, i| linear(i[0].clone(), &p.put(&weight).into()),
                |i| reference(i[0].clone(), &weight.clone().into()),
                1e-5,
            );
        }
    }

    #[test]
    fn packed_in_bf16_equals_the_reference_within_its_noise() {
        let weight = Frozen::new(random::<2>(2, [101, 67]), Stored::PackedBf16);
        for rows in [1, 11, 40] {
            assert_parity_at(
                &[Place::flex()],
                &[random(1, [rows, 67])],
                |_, i| linear(i[0].clone(), &weight),
                |i| reference(i[0].clone(), &weight),
                3e-2,
            );
        }
    }
}
