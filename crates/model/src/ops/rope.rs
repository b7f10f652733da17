//! Rotary position embedding (Su et al. 2021, arXiv:2104.09864), halves rotated as in Hugging Face Llama.
use super::{clock, has_kernels};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

#[backend_extension(Autodiff, Flex, LibTorch: cfg(feature = "tch"))]
pub trait RopeOp: Backend {
    fn rope(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        head_dim: usize,
        inverse: bool,
    ) -> FloatTensor<Self>;
}

/// Rotates each head's pairs `(i, i + rotated/2)` by the row's angles; dimensions past `rotated` pass through. `inverse` rotates
/// back, which is also the gradient.
///
/// # Shapes
/// - `x`: `[tokens, heads * head_dim]`, `cos`, `sin`: `[tokens, rotated / 2]`, result as `x`
pub fn rope(x: Tensor<2>, cos: &Tensor<2>, sin: &Tensor<2>, head_dim: usize, inverse: bool) -> Tensor<2> {
    let _running = clock::op("rotary");
    if !has_kernels("rope", &x) {
        return reference(x, cos, sin, head_dim, inverse);
    }
    Tensor::from_dispatch(<Dispatch as RopeOp>::rope(
        x.into_dispatch(),
        cos.clone().into_dispatch(),
        sin.clone().into_dispatch(),
        head_dim,
        inverse,
    ))
}

/// The same from Burn's operations.
pub fn reference(x: Tensor<2>, cos: &Tensor<2>, sin: &Tensor<2>, head_dim: usize, inverse: bool) -> Tensor<2> {
    let [n, width] = x.dims();
    let half = cos.dims()[1];
    let x = x.reshape([n, width / head_dim, head_dim]);
    let (cos, sin) = (cos.clone().unsqueeze_dim::<3>(1), sin.clone().unsqueeze_dim::<3>(1));
    let sin = if inverse { sin.neg() } else { sin };
    let first = x.clone().narrow(2, 0, half);
    let second = x.clone().narrow(2, half, half);
    let mut parts = vec![
        first.clone() * cos.clone() - second.clone() * sin.clone(),
        second * cos + first * sin,
    ];
    if head_dim > 2 * half {
        parts.push(x.narrow(2, 2 * half, head_dim - 2 * half));
    }
    Tensor::cat(parts, 2).reshape([n, width])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::*;

    #[test]
    fn equals_the_reference_in_value_and_gradient() {
        for (half, head_dim) in [(4, 8), (3, 8)] {
            let (cos, sin) = (random::<2>(2, [11, half]), random::<2>(3, [11, half]));
            for inverse in [false, true] {
                assert_parity(
                    &[random(1, [11, 3 * head_dim])],
                    |p, i| rope(i[0].clone(), &p.exact(&cos), &p.exact(&sin), head_dim, inverse),
                    |i| reference(i[0].clone(), &cos, &sin, head_dim, inverse),
                    1e-6,
                );
            }
        }
    }
}
