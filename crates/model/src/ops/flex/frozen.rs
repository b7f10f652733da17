//! A frozen matrix as the kernels multiply by it, whatever form it is stored in.
use super::coded::Coded;
use super::matmul::{View, matmul, parallel, times_transposed};
use super::{PackedBf16, Rows};
use crate::frozen::Weight;
use burn::backend::Flex;
use std::borrow::Cow;
use std::sync::Arc;

/// `[out, in]`
#[allow(clippy::large_enum_variant)] // One a call.
pub(super) enum Matrix {
    Dense(Rows),
    Packed(Arc<PackedBf16>),
    Coded(Coded),
}

impl From<Weight<Flex>> for Matrix {
    fn from(weight: Weight<Flex>) -> Self {
        match weight {
            Weight::Dense(weight) => Self::Dense(Rows::new(weight)),
            Weight::Packed(packed) => Self::Packed(packed),
            Weight::Nf4(weight) => Self::Coded(Coded::Nf4(weight)),
            Weight::Int8(weight) => Self::Coded(Coded::Int8(weight)),
        }
    }
}

impl Matrix {
    /// `(out, in)`
    pub fn dims(&self) -> (usize, usize) {
        match self {
            Self::Dense(weight) => weight.dims(),
            Self::Packed(packed) => packed.dims().into(),
            Self::Coded(coded) => coded.dims().into(),
        }
    }

    /// `y = x · Wᵀ`; `x` `[rows, in]`, `y` `[rows, out]`.
    pub fn forward(&self, y: &mut [f32], x: &[f32]) {
        let inputs = self.dims().1;
        match self {
            Self::Dense(weight) => times_transposed(y, 0.0, x, weight.as_slice(), inputs, 1.0),
            Self::Packed(packed) => packed.forward(x, y),
            Self::Coded(coded) if coded.few_rows(y, x) => (),
            Self::Coded(coded) => coded.dense(|weight| times_transposed(y, 0.0, x, weight, inputs, 1.0)),
        }
    }

    /// `dx = dy · W`, added to what `dx` holds or not; `dy` `[rows, out]`, `dx` `[rows, in]`.
    pub fn backward(&self, dx: &mut [f32], add: bool, dy: &[f32]) {
        let (outputs, inputs) = self.dims();
        let mut by = |weight: &[f32]| {
            let dy = View::new(dy, dy.len() / outputs, outputs);
            let weight = View::new(weight, outputs, inputs);
            matmul(dx, inputs, if add { 1.0 } else { 0.0 }, dy, weight, 1.0, parallel());
        };
        match self {
            Self::Dense(weight) => by(weight.as_slice()),
            Self::Packed(packed) => packed.backward(dy, dx, add),
            Self::Coded(coded) => coded.dense(by),
        }
    }

    /// Row `o`, `in` long.
    pub fn row(&self, o: usize) -> Cow<'_, [f32]> {
        let inputs = self.dims().1;
        let of = |weight: &'_ [f32]| weight[o * inputs..(o + 1) * inputs].to_vec();
        match self {
            Self::Dense(weight) => Cow::Borrowed(&weight.as_slice()[o * inputs..(o + 1) * inputs]),
            Self::Packed(packed) => Cow::Owned(packed.row(o)),
            Self::Coded(coded) => Cow::Owned(coded.dense(of)),
        }
    }
}
