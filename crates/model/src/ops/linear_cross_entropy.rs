//! The head and its loss in one: logits exist for a chunk of rows at a time, never `[tokens, vocabulary]`.
use super::{attention::capped, clock, has_kernels};
use crate::frozen::{Frozen, Weight};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{DType, Int, Tensor, activation};

/// Bytes the logits of one chunk may take.
const CHUNK_BYTES: usize = 64 << 20;

/// Rows of a chunk for a vocabulary of `vocab` tokens. A GPU takes eight times as many: each chunk reads the whole weight twice,
/// which of few rows takes longer than multiplying by it.
pub fn chunk_rows(vocab: usize, gpu: bool) -> usize {
    let bytes = if gpu { 8 * CHUNK_BYTES } else { CHUNK_BYTES };
    (bytes / (4 * vocab.max(1)) / 16 * 16).clamp(16, 4096)
}

#[backend_extension(Flex, LibTorch: cfg(feature = "tch"))]
pub trait LinearCrossEntropyOp: Backend {
    fn linear_cross_entropy(
        hidden: FloatTensor<Self>,
        #[extension_type] weight: Weight<Self>,
        targets: IntTensor<Self>,
        softcap: Option<f64>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    fn linear_cross_entropy_loss(
        hidden: FloatTensor<Self>,
        #[extension_type] weight: Weight<Self>,
        targets: IntTensor<Self>,
        softcap: Option<f64>,
    ) -> FloatTensor<Self>;
}

/// Negative log-likelihood of each row's target under `softmax(hidden · weightᵀ)`, and, if asked, the gradient of their sum for
/// `hidden`. `softcap` bends the logits first (Gemma 2). The weight is frozen; neither result is tracked by autodiff.
///
/// # Shapes
/// - `hidden`: `[rows, d]` (plain, not autodiff), `weight`: `[vocab, d]`, `targets`: `[rows]`, i64
/// - result: losses `[rows]`, gradient `[rows, d]`
pub fn linear_cross_entropy(
    hidden: Tensor<2>,
    weight: &Frozen,
    targets: &Tensor<1, Int>,
    softcap: Option<f64>,
    gradient: bool,
) -> (Tensor<1>, Option<Tensor<2>>) {
    let _running = clock::op("head and loss");
    assert_eq!((hidden.dims()[0], DType::I64), (targets.dims()[0], targets.dtype()));
    if !has_kernels("linear_cross_entropy", &hidden) {
        let (loss, dh) = reference(hidden, weight, targets, softcap);
        return (loss, gradient.then_some(dh));
    }
    let (hidden, weight) = (hidden.into_dispatch(), weight.clone().into_dispatch());
    let targets = targets.clone().into_dispatch();
    if gradient {
        let (loss, dh) = <Dispatch as LinearCrossEntropyOp>::linear_cross_entropy(hidden, weight, targets, softcap);
        (Tensor::from_dispatch(loss), Some(Tensor::from_dispatch(dh)))
    } else {
        let loss = <Dispatch as LinearCrossEntropyOp>::linear_cross_entropy_loss(hidden, weight, targets, softcap);
        (Tensor::from_dispatch(loss), None)
    }
}

/// The same from Burn's operations, all rows at once.
pub fn reference(
    hidden: Tensor<2>,
    weight: &Frozen,
    targets: &Tensor<1, Int>,
    softcap: Option<f64>,
) -> (Tensor<1>, Tensor<2>) {
    let n = targets.dims()[0];
    let dtype = hidden.dtype();
    let weight = weight.dense(dtype);
    let logits = capped(hidden.matmul(weight.clone().transpose()).cast(DType::F32), softcap);
    let loss = activation::log_softmax(logits.clone(), 1)
        .gather(1, targets.clone().reshape([n, 1]))
        .neg()
        .reshape([n]);
    let one_hot = targets.clone().one_hot::<2>(weight.dims()[0]).float().cast(DType::F32);
    let mut dlogits = activation::softmax(logits.clone(), 1) - one_hot;
    if let Some(cap) = softcap {
        dlogits = dlogits * ((logits / cap).powi_scalar(2).neg() + 1.0);
    }
    (loss, dlogits.cast(dtype).matmul(weight))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::*;
    use crate::precision::Stored;

    #[test]
    fn equals_the_reference_in_value_and_gradient() {
        let hidden = random::<2>(1, [50, 24]);
        let weight = random::<2>(2, [101, 24]) * 3.0;
        let targets: Vec<i64> = (0..50).map(|i| i * 37 % 101).collect();
        // Logits reach 9: the cap bends them.
        for softcap in [None, Some(6.0)] {
            let plain = Place::flex().indices(&targets);
            let (loss_ref, dh_ref) = reference(hidden.clone(), &weight.clone().into(), &plain, softcap);
            for place in Place::all() {
                let (hidden, weight) = (place.put(&hidden), place.put(&weight).into());
                let targets = place.indices(&targets);
                let (loss, dh) = linear_cross_entropy(hidden.clone(), &weight, &targets, softcap, true);
                place.assert_close("losses", &loss, &loss_ref, 1e-5);
                place.assert_close("gradients", &dh.unwrap(), &dh_ref, 1e-5);
                let (loss, none) = linear_cross_entropy(hidden, &weight, &targets, softcap, false);
                place.assert_close("losses", &loss, &loss_ref, 1e-5);
                assert!(none.is_none());
            }
        }
    }

    #[test]
    fn packed_in_bf16_equals_the_reference_within_its_noise() {
        let hidden = random::<2>(1, [50, 24]);
        let weight = Frozen::new(random::<2>(2, [101, 24]) * 3.0, Stored::PackedBf16);
        let targets = Place::flex().indices(&(0..50).map(|i| i * 37 % 101).collect::<Vec<_>>());
        let (loss_ref, dh_ref) = reference(hidden.clone(), &weight, &targets, None);
        let (loss, dh) = linear_cross_entropy(hidden, &weight, &targets, None, true);
        assert!(max_difference(&loss, &loss_ref) < 5e-2);
        assert!(max_difference(&dh.unwrap(), &dh_ref) < 5e-2);
    }
}
