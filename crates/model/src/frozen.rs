//! A frozen weight matrix, in the form its device multiplies it by.
use crate::ops::PackedBf16;
use crate::precision::Stored;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, ExtensionType, autodiff::checkpoint::strategy::CheckpointStrategy};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use std::sync::Arc;

/// `[out, in]`, as checkpoints have it. Cloning copies a handle.
#[derive(Debug, Clone)]
pub enum Frozen {
    /// In the dtype of the activations.
    Dense(Tensor<2>),
    /// In bf16, on flex.
    Packed(Arc<PackedBf16>),
}

impl From<Tensor<2>> for Frozen {
    fn from(dense: Tensor<2>) -> Self {
        Self::Dense(dense)
    }
}

impl Frozen {
    /// Brings a dense matrix into the form it is to be stored in.
    pub fn new(dense: Tensor<2>, stored: Stored) -> Self {
        match stored {
            Stored::Dense => Self::Dense(dense),
            Stored::PackedBf16 => {
                let (dims, data) = (dense.dims(), dense.cast(DType::F32).into_data());
                Self::Packed(PackedBf16::new(data.as_slice().unwrap_or(&[]), dims).into())
            }
        }
    }

    /// `[out, in]`
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) => weight.dims(),
            Self::Packed(packed) => packed.dims(),
        }
    }

    /// Rows `ids`, `[ids, in]`: a look-up in an embedding.
    pub fn rows(&self, ids: &[u32]) -> Tensor<2> {
        match self {
            Self::Dense(table) => {
                let signed: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
                let ids = Tensor::<1, Int>::from_data(TensorData::new(signed, [ids.len()]), &table.device());
                table.clone().select(0, ids)
            }
            Self::Packed(table) => {
                let rows = ids.iter().flat_map(|id| table.row(*id as usize)).collect();
                let data = TensorData::new(rows, [ids.len(), table.dims()[1]]);
                Tensor::from_data(data, (&Device::flex(), DType::F32))
            }
        }
    }

    /// As a plain matrix of `dtype`, made anew where it is stored otherwise: for references and tests.
    pub fn dense(&self, dtype: DType) -> Tensor<2> {
        match self {
            Self::Dense(weight) => weight.clone().cast(dtype),
            Self::Packed(packed) => {
                let data = TensorData::new(packed.dense(), packed.dims());
                Tensor::from_data(data, (&Device::flex(), dtype))
            }
        }
    }

    pub(crate) fn into_dispatch(self) -> Weight<Dispatch> {
        match self {
            Self::Dense(weight) => Weight::Dense(weight.into_dispatch()),
            Self::Packed(packed) => Weight::Packed(packed),
        }
    }
}

/// [`Frozen`] on a backend: what its kernels are given.
#[derive(Debug, Clone, ExtensionType)]
pub enum Weight<B: Backend> {
    Dense(FloatTensor<B>),
    Packed(Arc<PackedBf16>),
}

impl<B: Backend, C: CheckpointStrategy> Weight<Autodiff<B, C>> {
    /// Off the tape, where a frozen weight never is anyway.
    pub(crate) fn into_primitive(self) -> Weight<B> {
        match self {
            Self::Dense(weight) => Weight::Dense(weight.into_primitive()),
            Self::Packed(packed) => Weight::Packed(packed),
        }
    }
}
