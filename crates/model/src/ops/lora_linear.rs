//! Linear with a low-rank update (Hu et al. 2021, arXiv:2106.09685), the update never composed into a dense weight.
use super::{clock, has_kernels};
use crate::frozen::{Frozen, Weight};
use crate::noise;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Tensor, TensorData};

/// Scale of the update (`alpha / r`, or `alpha / sqrt(r)` for rsLoRA) and the dropout before `A`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraCfg {
    pub scale: f64,
    /// Probability that an element of the adapter's input is zeroed; the rest is scaled by `1 / (1 - dropout)`.
    pub dropout: f64,
    /// Same seed, same mask: the backward pass and a recomputed forward draw it again instead of storing it.
    pub seed: u64,
}

#[backend_extension(Autodiff, Flex, LibTorch: cfg(feature = "tch"))]
pub trait LoraLinearOp: Backend {
    fn lora_linear(
        x: FloatTensor<Self>,
        #[extension_type] weight: Weight<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        cfg: LoraCfg,
    ) -> FloatTensor<Self>;
    /// `(y, u)` with `u = dropout(x) · aᵀ`, scaled or not, kept for the same backend's backward pass.
    fn lora_linear_forward(
        x: FloatTensor<Self>,
        #[extension_type] weight: Weight<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        cfg: LoraCfg,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// `(dx, da, db)`.
    fn lora_linear_backward(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        u: FloatTensor<Self>,
        #[extension_type] weight: Weight<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        cfg: LoraCfg,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// `x · weightᵀ + scale · (dropout(x) · aᵀ) · bᵀ`. `x`, `a` and `b` get gradients, the weight none.
///
/// # Shapes
/// - `x`: `[tokens, in]`, `weight`: `[out, in]`, `a`: `[r, in]`, `b`: `[out, r]`, result: `[tokens, out]`
pub fn lora_linear(x: Tensor<2>, weight: &Frozen, a: Tensor<2>, b: Tensor<2>, cfg: LoraCfg) -> Tensor<2> {
    let _running = clock::op("linear with adapter");
    if !has_kernels("lora_linear", &x) {
        return reference(x, weight, a, b, cfg);
    }
    Tensor::from_dispatch(<Dispatch as LoraLinearOp>::lora_linear(
        x.into_dispatch(),
        weight.clone().into_dispatch(),
        a.into_dispatch(),
        b.into_dispatch(),
        cfg,
    ))
}

/// The same from Burn's operations.
pub fn reference(x: Tensor<2>, weight: &Frozen, a: Tensor<2>, b: Tensor<2>, cfg: LoraCfg) -> Tensor<2> {
    let y = x.clone().matmul(weight.dense(x.dtype()).transpose());
    let x = if cfg.dropout > 0.0 {
        let [n, inputs] = x.dims();
        let mask: Vec<f32> = (0..n * inputs)
            .map(|i| noise::keep(cfg.seed, i as u64, cfg.dropout))
            .collect();
        x.clone() * Tensor::from_data(TensorData::new(mask, [n, inputs]), (&x.device(), x.dtype()))
    } else {
        x
    };
    let dtype = x.dtype();
    let update = x.matmul(a.cast(dtype).transpose()).matmul(b.cast(dtype).transpose());
    y + update.mul_scalar(cfg.scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::*;
    use crate::precision::{ADAPTER, Stored};

    #[test]
    fn equals_the_reference_in_value_and_gradient() {
        let weight = random::<2>(2, [21, 37]);
        for (rows, dropout) in [(11, 0.0), (11, 0.3), (40, 0.0), (40, 0.3)] {
            let cfg = LoraCfg {
                scale: 1.7,
                dropout,
                seed: 5,
            };
            assert_parity(
                &[random(1, [rows, 37]), random(3, [4, 37]), random(4, [21, 4])],
                |p, i| {
                    let [a, b] = [&i[1], &i[2]].map(|adapter| adapter.clone().cast(ADAPTER));
                    lora_linear(i[0].clone(), &p.put(&weight).into(), a, b, cfg)
                },
                |i| reference(i[0].clone(), &weight.clone().into(), i[1].clone(), i[2].clone(), cfg),
                5e-5,
            );
        }
    }

    #[test]
    fn packed_in_bf16_equals_the_reference_within_its_noise() {
        let weight = Frozen::new(random::<2>(2, [21, 37]), Stored::PackedBf16);
        for (rows, dropout) in [(11, 0.0), (11, 0.3), (40, 0.0), (40, 0.3)] {
            let cfg = LoraCfg {
                scale: 1.7,
                dropout,
                seed: 5,
            };
            assert_parity_at(
                &[Place::flex()],
                &[random(1, [rows, 37]), random(3, [4, 37]), random(4, [21, 4])],
                |_, i| lora_linear(i[0].clone(), &weight, i[1].clone(), i[2].clone(), cfg),
                |i| reference(i[0].clone(), &weight, i[1].clone(), i[2].clone(), cfg),
                5e-2,
            );
        }
    }
}
