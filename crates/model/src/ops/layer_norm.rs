//! Layer normalization (Ba et al. 2016, arXiv:1607.06450), weight and bias frozen.
use super::{clock, has_kernels};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

#[backend_extension(Autodiff, Flex, LibTorch: cfg(feature = "tch"))]
pub trait LayerNormOp: Backend {
    fn frozen_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self>;
    fn frozen_layer_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self>;
}

/// `(x - mean) / sqrt(variance + eps) * weight + bias`, row by row. Weight and bias get no gradient.
///
/// # Shapes
/// - `x`: `[tokens, d]`, `weight`, `bias`: `[d]`, result: `[tokens, d]`
pub fn layer_norm(x: Tensor<2>, weight: &Tensor<1>, bias: &Tensor<1>, eps: f64) -> Tensor<2> {
    let _running = clock::op("layer norm");
    if !has_kernels("layer_norm", &x) {
        return reference(x, weight, bias, eps);
    }
    Tensor::from_dispatch(<Dispatch as LayerNormOp>::frozen_layer_norm(
        x.into_dispatch(),
        weight.clone().into_dispatch(),
        bias.clone().into_dispatch(),
        eps,
    ))
}

/// The same from Burn's operations.
pub fn reference(x: Tensor<2>, weight: &Tensor<1>, bias: &Tensor<1>, eps: f64) -> Tensor<2> {
    let centred = x.clone() - x.mean_dim(1);
    let deviation = (centred.clone().powi_scalar(2).mean_dim(1) + eps).sqrt();
    centred / deviation * weight.clone().unsqueeze() + bias.clone().unsqueeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::*;

    #[test]
    fn equals_the_reference_in_value_and_gradient() {
        let (weight, bias) = (random::<1>(2, [37]), random::<1>(3, [37]));
        assert_parity(
            &[random(1, [11, 37])],
            |p, i| layer_norm(i[0].clone(), &p.put(&weight), &p.put(&bias), 1e-5),
            |i| reference(i[0].clone(), &weight, &bias, 1e-5),
            1e-5,
        );
    }
}
