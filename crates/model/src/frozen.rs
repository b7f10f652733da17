//! A frozen weight matrix, in the form its device multiplies it by.
use crate::precision::Stored;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, ExtensionType, autodiff::checkpoint::strategy::CheckpointStrategy};
use burn::tensor::{DType, Tensor};

/// `[out, in]`, as checkpoints have it. Cloning copies a handle.
#[derive(Debug, Clone)]
pub enum Frozen {
    /// In the dtype of the activations.
    Dense(Tensor<2>),
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
        }
    }

    /// `[out, in]`
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) => weight.dims(),
        }
    }

    /// As a plain matrix of `dtype`, made anew where it is stored otherwise: for references and tests.
    pub fn dense(&self, dtype: DType) -> Tensor<2> {
        match self {
            Self::Dense(weight) => weight.clone().cast(dtype),
        }
    }

    pub(crate) fn into_dispatch(self) -> Weight<Dispatch> {
        match self {
            Self::Dense(weight) => Weight::Dense(weight.into_dispatch()),
        }
    }
}

/// [`Frozen`] on a backend: what its kernels are given.
#[derive(Debug, Clone, ExtensionType)]
pub enum Weight<B: Backend> {
    Dense(FloatTensor<B>),
}

impl<B: Backend, C: CheckpointStrategy> Weight<Autodiff<B, C>> {
    /// Off the tape, where a frozen weight never is anyway.
    pub(crate) fn into_primitive(self) -> Weight<B> {
        match self {
            Self::Dense(weight) => Weight::Dense(weight.into_primitive()),
        }
    }
}
