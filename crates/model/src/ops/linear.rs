//! Linears over one activation, their weights frozen, with low-rank updates (Hu et al. 2021, arXiv:2106.09685) or without. An update
//! is never composed into a dense weight; what q, k and v share, or gate and up, is done once.
use super::activation::{Activation, Remake, Source};
use super::{clock, has_kernels};
use crate::frozen::{Frozen, Weight};
use crate::noise;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, ExtensionType, backend_extension};
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

/// A low-rank update, `a` `[r, in]`, `b` `[out, r]`.
#[derive(Debug, Clone)]
pub struct Update {
    pub a: Tensor<2>,
    pub b: Tensor<2>,
    pub cfg: LoraCfg,
    /// `s·A` and `B` in the dtype of the activations, where they were made for all adapters at once.
    pub cast: Option<[Tensor<2>; 2]>,
}

/// One of the linears, as kernels are given it.
#[derive(Debug, Clone, ExtensionType)]
#[allow(clippy::large_enum_variant)] // One a linear: a box would save nothing.
pub enum Part<B: Backend> {
    Frozen(#[extension_type] Weight<B>),
    Adapted {
        #[extension_type]
        weight: Weight<B>,
        a: FloatTensor<B>,
        b: FloatTensor<B>,
        cfg: LoraCfg,
        #[extension_type]
        cast: Cast<B>,
    },
}

/// As [`Update::cast`].
#[derive(Debug, Clone, ExtensionType)]
pub enum Cast<B: Backend> {
    No,
    Yes { a: FloatTensor<B>, b: FloatTensor<B> },
}

/// Up to three, which is what blocks have: tensors cross to a backend in structs and enums alone.
#[derive(Debug, Clone, ExtensionType)]
#[allow(clippy::large_enum_variant)] // as above
pub enum Parts<B: Backend> {
    One(#[extension_type] Part<B>),
    Two(#[extension_type] Part<B>, #[extension_type] Part<B>),
    Three(
        #[extension_type] Part<B>,
        #[extension_type] Part<B>,
        #[extension_type] Part<B>,
    ),
}

/// The products, and the tensor that was read where it is wanted, back from a backend.
#[derive(Debug, Clone, ExtensionType)]
pub enum Outputs<B: Backend> {
    One(FloatTensor<B>),
    Two(FloatTensor<B>, FloatTensor<B>),
    Three(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
    Four(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
}

impl<B: Backend> Part<B> {
    pub(super) fn weight(&self) -> &Weight<B> {
        match self {
            Self::Frozen(weight) | Self::Adapted { weight, .. } => weight,
        }
    }
    /// `(a, b)`, and how they count.
    pub(super) fn update(&self) -> Option<(&FloatTensor<B>, &FloatTensor<B>, LoraCfg)> {
        match self {
            Self::Frozen(_) => None,
            Self::Adapted { a, b, cfg, .. } => Some((a, b, *cfg)),
        }
    }
}

impl<B: Backend> Parts<B> {
    fn of(parts: Vec<Part<B>>) -> Self {
        let mut parts = parts.into_iter();
        match [parts.next(), parts.next(), parts.next(), parts.next()] {
            [Some(a), None, None, None] => Self::One(a),
            [Some(a), Some(b), None, None] => Self::Two(a, b),
            [Some(a), Some(b), Some(c), None] => Self::Three(a, b, c),
            _ => unreachable!("`run` takes one to three"),
        }
    }
    pub(super) fn into_vec(self) -> Vec<Part<B>> {
        match self {
            Self::One(a) => vec![a],
            Self::Two(a, b) => vec![a, b],
            Self::Three(a, b, c) => vec![a, b, c],
        }
    }
}

impl<B: Backend> Outputs<B> {
    pub(super) fn of(tensors: Vec<FloatTensor<B>>) -> Self {
        let mut tensors = tensors.into_iter();
        match [tensors.next(), tensors.next(), tensors.next(), tensors.next()] {
            [Some(a), None, None, None] => Self::One(a),
            [Some(a), Some(b), None, None] => Self::Two(a, b),
            [Some(a), Some(b), Some(c), None] => Self::Three(a, b, c),
            [Some(a), Some(b), Some(c), Some(d)] => Self::Four(a, b, c, d),
            _ => unreachable!("`run` takes one to three"),
        }
    }
    fn into_vec(self) -> Vec<FloatTensor<B>> {
        match self {
            Self::One(a) => vec![a],
            Self::Two(a, b) => vec![a, b],
            Self::Three(a, b, c) => vec![a, b, c],
            Self::Four(a, b, c, d) => vec![a, b, c, d],
        }
    }
}

#[backend_extension(Autodiff, Flex, LibTorch: cfg(feature = "tch"))]
pub trait LinearsOp: Backend {
    /// The products in the order of their weights; then, with `residual`, the tensor that `x` was normed from, or is.
    fn linears(
        #[extension_type] x: Source<Self>,
        #[extension_type] parts: Parts<Self>,
        residual: bool,
    ) -> Outputs<Self>;
}

/// What a backend computes for [`LinearsOp`], off the tape.
pub trait LinearKernels: Remake {
    /// The products `x·Wᵀ + s·(dropout(x)·Aᵀ)·Bᵀ`, and what the same backend's backward pass wants of the inner ones.
    fn linears_forward(x: FloatTensor<Self>, parts: &[Part<Self>]) -> (Vec<FloatTensor<Self>>, Vec<FloatTensor<Self>>);
    /// The first half of the backward pass, which does without `x`; the sum of what goes to `x` if it is wanted.
    fn linears_backward(
        dys: &[FloatTensor<Self>],
        inner: &[FloatTensor<Self>],
        parts: &[Part<Self>],
        to_x: bool,
    ) -> Backpassed<Self>;
    /// The second half: the gradients of `A`, an adapted part each.
    fn linears_backward_a(
        x: FloatTensor<Self>,
        inner: Vec<FloatTensor<Self>>,
        parts: &[Part<Self>],
    ) -> Vec<FloatTensor<Self>>;
}

pub struct Backpassed<B: Backend> {
    pub dx: Option<FloatTensor<B>>,
    /// An adapted part each.
    pub db: Vec<FloatTensor<B>>,
    /// `dy·B`, scaled or not, in a form of the backend's own.
    pub inner: Vec<FloatTensor<B>>,
}

/// [`LinearsOp::linears`] where nothing is differentiated.
pub(super) fn plain<B: LinearKernels>(x: Source<B>, parts: Parts<B>, residual: bool) -> Outputs<B> {
    let read = residual.then(|| x.read());
    let (mut outputs, _) = B::linears_forward(x.remake(), &parts.into_vec());
    outputs.extend(read);
    Outputs::of(outputs)
}

/// `x·Wᵀ + s·(dropout(x)·Aᵀ)·Bᵀ` for each weight, the second term where it has an update. `x`, `a` and `b` get gradients, weights
/// none. All products must be read by what is differentiated: the last of their gradients is waited for.
///
/// # Shapes
/// - `x`: `[tokens, in]`, weights: `[out, in]`, results: `[tokens, out]`
pub fn linears<const N: usize>(x: impl Into<Activation>, weights: [(&Frozen, Option<Update>); N]) -> [Tensor<2>; N] {
    let (_, products) = run(x.into(), weights, false);
    products
}

/// The same, and the tensor that was normed: the residual stream, whose gradient is added while the norm's is made.
pub fn linears_with_residual<const N: usize>(
    x: impl Into<Activation>,
    weights: [(&Frozen, Option<Update>); N],
) -> (Tensor<2>, [Tensor<2>; N]) {
    let (mut residual, products) = run(x.into(), weights, true);
    (residual.remove(0), products)
}

/// One without an update.
pub fn linear(x: impl Into<Activation>, weight: &Frozen) -> Tensor<2> {
    let [y] = linears(x, [(weight, None)]);
    y
}

fn run<const N: usize>(
    x: Activation,
    weights: [(&Frozen, Option<Update>); N],
    residual: bool,
) -> (Vec<Tensor<2>>, [Tensor<2>; N]) {
    const { assert!(1 <= N && N <= 3, "one to three linears over one activation") };
    let adapted = weights.iter().any(|(_, update)| update.is_some());
    let (op, name) = match adapted {
        true => ("lora_linear", "linear with adapter"),
        false => ("linear", "linear"),
    };
    let _running = clock::op(name);
    if !has_kernels(op, x.read()) {
        let read = residual.then(|| x.read().clone()).into_iter().collect();
        let x = x.value();
        return (
            read,
            weights.map(|(weight, update)| reference(x.clone(), weight, update)),
        );
    }
    let part = |(weight, update): (&Frozen, Option<Update>)| {
        let weight = weight.clone().into_dispatch();
        match update {
            None => Part::Frozen(weight),
            Some(Update { a, b, cfg, cast }) => Part::Adapted {
                weight,
                a: a.into_dispatch(),
                b: b.into_dispatch(),
                cfg,
                cast: match cast.map(|cast| cast.map(Tensor::into_dispatch)) {
                    None => Cast::No,
                    Some([a, b]) => Cast::Yes { a, b },
                },
            },
        }
    };
    let parts = Parts::of(weights.into_iter().map(part).collect());
    let outputs = <Dispatch as LinearsOp>::linears(x.into_source(), parts, residual);
    let mut outputs = outputs.into_vec().into_iter().map(Tensor::from_dispatch);
    let products = std::array::from_fn(|_| outputs.next().expect("a product for each weight"));
    (outputs.collect(), products)
}

/// One of them from Burn's operations.
pub fn reference(x: Tensor<2>, weight: &Frozen, update: Option<Update>) -> Tensor<2> {
    let dtype = x.dtype();
    let y = x.clone().matmul(weight.dense(dtype).transpose());
    let Some(Update { a, b, cfg, .. }) = update else {
        return y;
    };
    let x = if cfg.dropout > 0.0 {
        let [n, inputs] = x.dims();
        let mask: Vec<f32> = (0..n * inputs)
            .map(|i| noise::keep(cfg.seed, i as u64, cfg.dropout))
            .collect();
        x.clone() * Tensor::from_data(TensorData::new(mask, [n, inputs]), (&x.device(), dtype))
    } else {
        x
    };
    let update = x.matmul(a.cast(dtype).transpose()).matmul(b.cast(dtype).transpose());
    y + update.mul_scalar(cfg.scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Gelu;
    use crate::ops::testing::*;
    use crate::precision::{ADAPTER, Stored};

    fn cfg(dropout: f64) -> LoraCfg {
        LoraCfg {
            scale: 1.7,
            dropout,
            seed: 5,
        }
    }

    /// `a` and `b`, in f32 whatever the place.
    fn update(a: &Tensor<2>, b: &Tensor<2>, dropout: f64) -> Option<Update> {
        let [a, b] = [a, b].map(|adapter| adapter.clone().cast(ADAPTER));
        let (cfg, cast) = (cfg(dropout), None);
        Some(Update { a, b, cfg, cast })
    }

    #[test]
    fn a_frozen_one_equals_the_reference_in_value_and_gradient() {
        let weight = random::<2>(2, [21, 37]);
        // Few rows, as while decoding, have a path of their own.
        for rows in [1, 11, 40] {
            assert_parity(
                &[random(1, [rows, 37])],
                |p, i| linear(i[0].clone(), &p.put(&weight).into()),
                |i| reference(i[0].clone(), &weight.clone().into(), None),
                1e-5,
            );
        }
    }

    #[test]
    fn an_adapted_one_equals_the_reference_in_value_and_gradient() {
        let weight = random::<2>(2, [21, 37]);
        for (rows, dropout) in [(11, 0.0), (11, 0.3), (40, 0.0), (40, 0.3)] {
            assert_parity(
                &[random(1, [rows, 37]), random(3, [4, 37]), random(4, [21, 4])],
                |p, i| {
                    let weight = p.put(&weight).into();
                    let [y] = linears(i[0].clone(), [(&weight, update(&i[1], &i[2], dropout))]);
                    y
                },
                |i| reference(i[0].clone(), &weight.clone().into(), update(&i[1], &i[2], dropout)),
                5e-5,
            );
        }
    }

    #[test]
    fn factors_that_were_cast_before_give_the_same() {
        let weight = random::<2>(2, [21, 37]);
        for dropout in [0.0, 0.3] {
            assert_parity(
                &[random(1, [40, 37]), random(3, [4, 37]), random(4, [21, 4])],
                |p, i| {
                    let weight = p.put(&weight).into();
                    let update = update(&i[1], &i[2], dropout).map(|update| Update {
                        cast: Some(
                            [i[1].clone().inner().cast(ADAPTER) * 1.7, i[2].clone().inner()].map(|t| t.cast(p.dtype)),
                        ),
                        ..update
                    });
                    let [y] = linears(i[0].clone(), [(&weight, update)]);
                    y
                },
                |i| reference(i[0].clone(), &weight.clone().into(), update(&i[1], &i[2], dropout)),
                5e-5,
            );
        }
    }

    /// An activation of inputs 0 and 1, at a place.
    type Make = fn(&Place, &[Tensor<2>]) -> Activation;

    /// Three over one, of which the second has no update, with the residual stream; weights, ranks and dropouts differ.
    #[test]
    fn several_over_one_activation_equal_the_reference_in_value_and_gradient() {
        let weights = [(2, 21), (3, 5), (4, 13)].map(|(seed, out)| random::<2>(seed, [out, 37]));
        let inputs = [
            random(1, [11, 37]) * 3.0,
            random(9, [11, 37]),
            random(5, [4, 37]),
            random(6, [21, 4]),
            random(7, [3, 37]),
            random(8, [13, 3]),
        ];
        let kept: Make = |_, i| (i[0].clone() + i[1].clone()).into();
        let rms: Make = |p, i| Activation::rms_norm(i[0].clone() + i[1].clone(), &p.put(&random(10, [37])), 1e-5);
        let layer: Make = |p, i| {
            let [weight, bias] = [10, 11].map(|seed| p.put(&random::<1>(seed, [37])));
            Activation::layer_norm(i[0].clone() + i[1].clone(), &weight, &bias, 1e-5)
        };
        for make in [kept, rms, layer] {
            for dropout in [0.0, 0.3] {
                assert_parity(
                    &inputs,
                    |p, i| {
                        let [q, k, v] = weights.each_ref().map(|w| Frozen::from(p.put(w)));
                        let updates = [update(&i[2], &i[3], dropout), update(&i[4], &i[5], dropout)];
                        let [first, last] = updates;
                        let (x, [q, k, v]) = linears_with_residual(make(p, i), [(&q, first), (&k, None), (&v, last)]);
                        Tensor::cat(vec![q * 0.5, k, v, x], 1)
                    },
                    |i| {
                        let x = make(&Place::flex(), i);
                        let read = i[0].clone() + i[1].clone();
                        let [q, k, v] = weights.each_ref().map(|w| Frozen::from(w.clone()));
                        let q = reference(x.value(), &q, update(&i[2], &i[3], dropout));
                        let k = reference(x.value(), &k, None);
                        let v = reference(x.value(), &v, update(&i[4], &i[5], dropout));
                        Tensor::cat(vec![q * 0.5, k, v, read], 1)
                    },
                    1e-3,
                );
            }
        }
    }

    #[test]
    fn over_gates_they_equal_the_reference_in_value_and_gradient() {
        let weight = random::<2>(2, [21, 37]);
        let inputs = [
            random(1, [11, 37]) * 4.0,
            random(9, [11, 37]),
            random(5, [4, 37]),
            random(6, [21, 4]),
        ];
        let swiglu: Make = |_, i| Activation::swiglu(i[0].clone(), i[1].clone());
        let geglu: Make = |_, i| Activation::geglu(i[0].clone(), i[1].clone());
        let gelu: Make = |_, i| Activation::gelu(i[0].clone() + i[1].clone(), Gelu::Tanh);
        for make in [swiglu, geglu, gelu] {
            for dropout in [0.0, 0.3] {
                assert_parity(
                    &inputs,
                    |p, i| {
                        let weight = p.put(&weight).into();
                        let [y] = linears(make(p, i), [(&weight, update(&i[2], &i[3], dropout))]);
                        y
                    },
                    |i| {
                        let x = make(&Place::flex(), i).value();
                        reference(x, &weight.clone().into(), update(&i[2], &i[3], dropout))
                    },
                    2e-4,
                );
            }
        }
    }

    /// As in the lowest block with an adapter, whose input gets no gradient.
    #[test]
    fn where_the_input_is_constant_adapters_get_the_same_gradients() {
        for place in Place::all() {
            let (x, weight) = (place.put(&random::<2>(1, [11, 37])), random::<1>(2, [37]));
            let frozen = Frozen::from(place.put(&random::<2>(3, [21, 37])));
            let gradients = |x: Tensor<2>| {
                let [a, b] = [random::<2>(4, [4, 37]), random(5, [21, 4])]
                    .map(|adapter| place.exact(&adapter).autodiff().require_grad());
                let normed = Activation::rms_norm(x, &place.put(&weight), 1e-5);
                let (residual, [y]) = linears_with_residual(normed, [(&frozen, update(&a, &b, 0.0))]);
                let mut gradients = (y.sum() + residual.sum()).backward();
                [a, b].map(|leaf| leaf.grad_remove(&mut gradients).unwrap())
            };
            let (constant, tracked) = (gradients(x.clone()), gradients(x.autodiff().require_grad()));
            for (found, wanted) in constant.iter().zip(&tracked) {
                place.assert_close("gradients", found, wanted, 1e-6);
            }
        }
    }

    #[test]
    fn a_residual_that_nobody_reads_is_not_waited_for() {
        let x = random::<2>(1, [11, 37]).autodiff().require_grad();
        let frozen = Frozen::from(random::<2>(3, [21, 37]));
        let gradient = |residual: bool| {
            let normed = Activation::rms_norm(x.clone(), &random(2, [37]), 1e-5);
            let y = match residual {
                true => linears_with_residual(normed, [(&frozen, None)]).1,
                false => linears(normed, [(&frozen, None)]),
            };
            let [y] = y;
            x.grad_remove(&mut y.sum().backward()).unwrap()
        };
        assert_eq!(max_difference(&gradient(true), &gradient(false)), 0.0);
    }

    #[test]
    fn packed_in_bf16_they_equal_the_reference_within_its_noise() {
        let weight = Frozen::new(random::<2>(2, [101, 67]), Stored::PackedBf16);
        for rows in [1, 11, 40] {
            assert_parity_at(
                &[Place::flex()],
                &[random(1, [rows, 67])],
                |_, i| linear(i[0].clone(), &weight),
                |i| reference(i[0].clone(), &weight, None),
                3e-2,
            );
        }
        let weight = Frozen::new(random::<2>(2, [21, 37]), Stored::PackedBf16);
        for (rows, dropout) in [(11, 0.0), (11, 0.3), (40, 0.0), (40, 0.3)] {
            assert_parity_at(
                &[Place::flex()],
                &[random(1, [rows, 37]), random(3, [4, 37]), random(4, [21, 4])],
                |_, i| {
                    let [y] = linears(i[0].clone(), [(&weight, update(&i[1], &i[2], dropout))]);
                    y
                },
                |i| reference(i[0].clone(), &weight, update(&i[1], &i[2], dropout)),
                5e-2,
            );
        }
    }
}
