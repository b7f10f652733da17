//! One AdamW update (Loshchilov & Hutter 2017, arXiv:1711.05101) of many parameters laid end to end.
use super::has_kernels;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWCfg {
    pub rate: f64,
    pub betas: [f64; 2],
    pub eps: f64,
    /// Decoupled: `p -= rate * weight_decay * p`.
    pub weight_decay: f64,
    /// Updates made, this one included.
    pub step: usize,
    /// The gradient is multiplied by this first.
    pub scale: f64,
}

impl AdamWCfg {
    /// What undoes the moments' start at zero: `1 - betaᵗ` of each.
    pub fn corrections(&self) -> [f64; 2] {
        self.betas
            .map(|beta| 1.0 - beta.powi(self.step.min(i32::MAX as usize) as i32))
    }
}

/// A parameter and its moments.
pub struct State<T> {
    pub parameter: T,
    pub mean: T,
    pub variance: T,
}

#[backend_extension(Flex, LibTorch: cfg(feature = "tch"))]
pub trait AdamWOp: Backend {
    /// `(parameter, mean, variance)`.
    fn adamw(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        cfg: AdamWCfg,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// `torch.optim.AdamW`'s update. What is handed over without another handle to it is updated in place.
///
/// # Shapes
/// - all: `[n]`, f32
pub fn adamw(state: State<Tensor<1>>, gradient: Tensor<1>, cfg: AdamWCfg) -> State<Tensor<1>> {
    if !has_kernels("adamw", &gradient) {
        return reference(state, gradient, cfg);
    }
    let (parameter, mean, variance) = <Dispatch as AdamWOp>::adamw(
        state.parameter.into_dispatch(),
        gradient.into_dispatch(),
        state.mean.into_dispatch(),
        state.variance.into_dispatch(),
        cfg,
    );
    State {
        parameter: Tensor::from_dispatch(parameter),
        mean: Tensor::from_dispatch(mean),
        variance: Tensor::from_dispatch(variance),
    }
}

/// The same from Burn's operations, as torch writes it: `m.lerp_(g, 1-b1)`, `v.mul_(b2).addcmul_(g, g, 1-b2)`,
/// `p.mul_(1 - lr*wd).addcdiv_(m, v.sqrt()/sqrt(1-b2^t) + eps, -lr/(1-b1^t))`.
pub fn reference(state: State<Tensor<1>>, gradient: Tensor<1>, cfg: AdamWCfg) -> State<Tensor<1>> {
    let ([beta1, beta2], [correction1, correction2]) = (cfg.betas, cfg.corrections());
    let g = gradient * cfg.scale;
    let mean = (g.clone() - state.mean.clone()) * (1.0 - beta1) + state.mean;
    let variance = state.variance * beta2 + g.clone() * g * (1.0 - beta2);
    let denominator = variance.clone().sqrt() / correction2.sqrt() + cfg.eps;
    let decayed = state.parameter * (1.0 - cfg.rate * cfg.weight_decay);
    State {
        parameter: decayed - mean.clone() / denominator * (cfg.rate / correction1),
        mean,
        variance,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::*;

    #[test]
    fn equals_the_reference() {
        let cfg = AdamWCfg {
            rate: 0.1,
            betas: [0.9, 0.99],
            eps: 1e-8,
            weight_decay: 0.05,
            step: 3,
            scale: 0.7,
        };
        let state = |place: &Place| State {
            parameter: place.exact(&random::<1>(1, [50_001])),
            mean: place.exact(&random::<1>(2, [50_001])),
            variance: place.exact(&random::<1>(3, [50_001]).abs()),
        };
        let gradient = random::<1>(4, [50_001]);
        for place in Place::all() {
            let wanted = reference(state(&place), place.exact(&gradient), cfg);
            let found = adamw(state(&place), place.exact(&gradient), cfg);
            assert!(max_difference(&found.parameter, &wanted.parameter) < 1e-5);
            assert!(max_difference(&found.mean, &wanted.mean) < 1e-6);
            assert!(max_difference(&found.variance, &wanted.variance) < 1e-6);
        }
    }
}
