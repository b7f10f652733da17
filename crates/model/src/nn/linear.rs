//! A linear layer: weight frozen, with or without an adapter.
use super::Pass;
use crate::Frozen;
use crate::load::At;
use crate::lora::Factors;
use crate::noise;
use crate::ops::{self, Activation, LoraCfg, Update};
use crate::precision::ADAPTER;
use burn::tensor::Tensor;
use std::sync::Arc;

pub struct Linear {
    /// Module path, the checkpoint key without `.weight`.
    pub path: Arc<str>,
    /// Index of the block it stands in.
    pub layer: usize,
    pub inputs: usize,
    pub outputs: usize,
    /// `[out, in]`
    pub weight: Frozen,
    pub bias: Option<Tensor<1>>,
    /// Whether the checkpoint has the weight as `[in, out]`.
    pub transposed: bool,
    pub lora: Option<Lora>,
}

/// Adapter factors, f32.
pub struct Lora {
    pub factors: Factors,
    pub scale: f64,
    /// With DoRA.
    norms: Option<Norms>,
    /// What was taken out of the weight at first, with PiSSA.
    pub initial: Option<Factors>,
}

/// Lengths of the weight's rows, `[1, out]` f32.
struct Norms {
    /// Squared, without the update.
    frozen: Tensor<2>,
    /// With the update as it is: made anew when it changes, and not for every token.
    updated: Tensor<2>,
}

impl Linear {
    pub fn load(at: &At<'_, '_>, layer: usize, inputs: usize, outputs: usize, bias: bool) -> Self {
        Self {
            path: at.path().into(),
            layer,
            inputs,
            outputs,
            weight: at.linear("weight", outputs, inputs),
            bias: bias.then(|| at.vector("bias", outputs)),
            transposed: false,
            lora: None,
        }
    }

    /// One that is stored `[in, out]`, with a bias.
    pub fn conv1d(at: &At<'_, '_>, layer: usize, inputs: usize, outputs: usize) -> Self {
        Self {
            path: at.path().into(),
            layer,
            inputs,
            outputs,
            weight: at.conv1d("weight", outputs, inputs),
            bias: Some(at.vector("bias", outputs)),
            transposed: true,
            lora: None,
        }
    }

    /// `x·Wᵀ + bias`, plus the adapter's update.
    ///
    /// # Shapes
    /// - `x`: `[tokens, in]`, result: `[tokens, out]`
    pub fn forward(&self, x: impl Into<Activation>, pass: &Pass<'_>) -> Tensor<2> {
        let [y] = Self::forward_all([self], x, pass);
        y
    }

    /// Several over one activation, which costs less than one by one.
    pub fn forward_all<const N: usize>(
        linears: [&Self; N],
        x: impl Into<Activation>,
        pass: &Pass<'_>,
    ) -> [Tensor<2>; N] {
        Self::run(linears, pass, |weights| ((), ops::linears(x, weights))).1
    }

    /// The same over what a norm makes of the residual stream; and that stream, for the block's output to be added to.
    pub fn forward_with_residual<const N: usize>(
        linears: [&Self; N],
        x: impl Into<Activation>,
        pass: &Pass<'_>,
    ) -> (Tensor<2>, [Tensor<2>; N]) {
        Self::run(linears, pass, |weights| ops::linears_with_residual(x, weights))
    }

    fn run<T, const N: usize>(
        linears: [&Self; N],
        pass: &Pass<'_>,
        products: impl FnOnce([(&Frozen, Option<Update>); N]) -> (T, [Tensor<2>; N]),
    ) -> (T, [Tensor<2>; N]) {
        let mut magnitudes = Vec::with_capacity(N);
        let weights = linears.map(|linear| {
            let (update, magnitude) = linear.on(pass);
            magnitudes.push(magnitude);
            (&linear.weight, update)
        });
        let (residual, products) = products(weights);
        let mut each = linears.into_iter().zip(magnitudes);
        let finished = products.map(|y| match each.next() {
            Some((linear, magnitude)) => linear.finished(y, magnitude),
            None => y,
        });
        (residual, finished)
    }

    /// What the adapter adds in this pass, and DoRA's magnitudes.
    fn on(&self, pass: &Pass<'_>) -> (Option<Update>, Option<Tensor<2>>) {
        let Some(lora) = &self.lora else { return (None, None) };
        let Factors { a, b, m } = pass.leaves(&self.path, &lora.factors);
        let cfg = LoraCfg {
            scale: lora.scale,
            dropout: pass.noise.dropout,
            seed: noise::derive(pass.noise.seed, &self.path),
        };
        let cast = pass.cast.as_ref().and_then(|cast| cast.get(&self.path));
        let cast = cast.map(|Factors { a, b, .. }| [a.clone(), b.clone()]);
        (Some(Update { a, b, cfg, cast }), m)
    }

    /// What comes after the products: DoRA's magnitudes and the bias.
    fn finished(&self, y: Tensor<2>, magnitude: Option<Tensor<2>>) -> Tensor<2> {
        let norms = self.lora.as_ref().and_then(|lora| lora.norms.as_ref());
        let y = match magnitude.zip(norms) {
            None => y,
            // The norms get no gradient (section 4.3 of the paper).
            Some((m, norms)) => {
                let dtype = y.dtype();
                y * (m / norms.updated.clone()).cast(dtype)
            }
        };
        match &self.bias {
            None => y,
            Some(bias) => y + bias.clone().unsqueeze(),
        }
    }

    /// A fresh adapter: with B zero, and magnitudes as they are, it changes nothing.
    pub fn adapt(&mut self, a: Tensor<2>, scale: f64, dora: bool) {
        let b = Tensor::zeros([self.outputs, a.dims()[0]], (&a.device(), ADAPTER));
        let m = dora.then(|| self.squared_norms().sqrt());
        self.attach(Factors { a, b, m }, scale);
    }

    pub fn attach(&mut self, factors: Factors, scale: f64) {
        let norms = factors.m.is_some().then(|| {
            let frozen = self.squared_norms();
            let updated = self.updated_norms(frozen.clone(), &factors, scale);
            Norms { frozen, updated }
        });
        self.lora = Some(Lora {
            factors,
            scale,
            norms,
            initial: None,
        });
    }

    /// Takes `scale · B·A` of these out of the weight of an adapted linear.
    pub fn take_out(&mut self, initial: Factors) {
        if let Some(lora) = &mut self.lora {
            let part = initial.b.clone().matmul(initial.a.clone()) * lora.scale;
            self.weight = self.weight.minus(part);
            lora.initial = Some(initial);
        }
    }

    /// Puts changed factors in the place of those attached.
    pub fn update(&mut self, factors: Factors) {
        let Some(mut lora) = self.lora.take() else { return };
        if let Some(norms) = &mut lora.norms {
            norms.updated = self.updated_norms(norms.frozen.clone(), &factors, lora.scale);
        }
        self.lora = Some(Lora { factors, ..lora });
    }

    /// `‖Wᵢ‖²` of each row of the weight.
    fn squared_norms(&self) -> Tensor<2> {
        let weight = self.weight.dense(ADAPTER);
        (weight.clone() * weight).sum_dim(1).transpose()
    }

    /// `‖Wᵢ + s·Bᵢ·A‖ = √(‖Wᵢ‖² + 2s·Bᵢ·(W·Aᵀ)ᵢ + s²·Bᵢ·A·Aᵀ·Bᵢᵀ)`: a product with `r` columns in place of the dense sum.
    fn updated_norms(&self, frozen: Tensor<2>, factors: &Factors, scale: f64) -> Tensor<2> {
        let Factors { a, b, .. } = factors;
        let dtype = match &self.weight {
            Frozen::Dense(weight) => weight.dtype(),
            _ => ADAPTER,
        };
        let along = ops::linear(a.clone().cast(dtype), &self.weight)
            .cast(ADAPTER)
            .transpose();
        let own = b.clone().matmul(a.clone().matmul(a.clone().transpose()));
        let added = (b.clone() * (along * 2.0 + own * scale)).sum_dim(1) * scale;
        (frozen + added.transpose()).sqrt()
    }
}
