//! Tensors that stay where they are while their contents change, which no operation of Burn does to one that is held twice.
use burn::backend::{LibTorch, libtorch::TchTensor};
use burn::tensor::{Int, Tensor};

/// Puts the elements of `from` in the place of `into`'s, where every handle to them sees it.
///
/// # Errors
/// In words: another shape, or not on LibTorch.
pub fn overwrite<const D: usize>(into: &Tensor<D>, from: &Tensor<D>) -> Result<(), String> {
    copy(primitive(into)?, &primitive(from)?)
}

/// As [`overwrite`].
///
/// # Errors
/// As there.
pub fn overwrite_indices(into: &Tensor<1, Int>, from: &Tensor<1, Int>) -> Result<(), String> {
    let primitive = |t: &Tensor<1, Int>| t.clone().try_into_primitive::<LibTorch>();
    let (into, from) = (primitive(into), primitive(from));
    copy(
        into.map_err(|e| format!("{e:?}"))?,
        &from.map_err(|e| format!("{e:?}"))?,
    )
}

/// The same elements in memory of their own.
///
/// # Errors
/// In words: not on LibTorch.
pub fn copied<const D: usize>(t: &Tensor<D>) -> Result<Tensor<D>, String> {
    let copy = super::new(primitive(t)?.tensor.copy());
    Ok(Tensor::from_primitive::<LibTorch>(copy))
}

fn primitive<const D: usize>(t: &Tensor<D>) -> Result<TchTensor, String> {
    t.clone().try_into_primitive::<LibTorch>().map_err(|e| format!("{e:?}"))
}

fn copy(into: TchTensor, from: &TchTensor) -> Result<(), String> {
    let (mut into, from) = (into.tensor, &from.tensor);
    if into.size() != from.size() {
        return Err(format!("{:?} cannot take the place of {:?}", from.size(), into.size()));
    }
    into.f_copy_(from).map_err(|e| e.to_string())
}
