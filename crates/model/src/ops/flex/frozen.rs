//! A frozen matrix as the kernels multiply by it, whatever form it is stored in.
use super::matmul::{View, matmul, parallel, times_transposed};
use super::{PackedBf16, dense::Dense};
use crate::frozen::Weight;
use burn::backend::Flex;
use std::borrow::Cow;
use std::sync::Arc;

/// `[out, in]`
pub(super) enum Matrix {
    Dense(Dense),
    Packed(Arc<PackedBf16>),
}

impl From<Weight<Flex>> for Matrix {
    fn from(weight: Weight<Flex>) -> Self {
        match weight {
            Weight::Packed(packed) => Self::Packed(packed),
            other => Self::Dense(Dense::new(other)),
        }
    }
}

impl Matrix {
    /// `(out, in)`
    pub fn dims(&self) -> (usize, usize) {
        match self {
            Self::Dense(weight) => weight.dims(),
            Self::Packed(packed) => packed.dims().into(),
        }
    }

    /// `y = x · Wᵀ`; `x` `[rows, in]`, `y` `[rows, out]`.
    pub fn forward(&self, y: &mut [f32], x: &[f32]) {
        match self {
            Self::Dense(weight) => times_transposed(y, 0.0, x, weight.as_slice(), weight.dims().1, 1.0),
            Self::Packed(packed) => packed.forward(x, y),
        }
    }

    /// `dx = dy · W`, added to what `dx` holds or not; `dy` `[rows, out]`, `dx` `[rows, in]`.
    pub fn backward(&self, dx: &mut [f32], add: bool, dy: &[f32]) {
        match self {
            Self::Dense(weight) => {
                let (outputs, inputs) = weight.dims();
                let dy = View::new(dy, dy.len() / outputs, outputs);
                let weight = View::new(weight.as_slice(), outputs, inputs);
                matmul(dx, inputs, if add { 1.0 } else { 0.0 }, dy, weight, 1.0, parallel());
            }
            Self::Packed(packed) => packed.backward(dy, dx, add),
        }
    }

    /// Row `o`, `in` long.
    pub fn row(&self, o: usize) -> Cow<'_, [f32]> {
        match self {
            Self::Dense(weight) => {
                let inputs = weight.dims().1;
                Cow::Borrowed(&weight.as_slice()[o * inputs..(o + 1) * inputs])
            }
            Self::Packed(packed) => Cow::Owned(packed.row(o)),
        }
    }
}
