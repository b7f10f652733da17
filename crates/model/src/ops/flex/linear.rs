//! Two products on all cores.
use super::frozen::Matrix;
use super::{Rows, tensor, unwritten};
use crate::frozen::Weight;
use crate::ops::linear::LinearOp;
use burn::backend::{Flex, tensor::FloatTensor};

impl LinearOp for Flex {
    fn frozen_linear(x: FloatTensor<Self>, weight: Weight<Self>) -> FloatTensor<Self> {
        let (x, weight) = (Rows::new(x), Matrix::from(weight));
        let (n, outputs) = (x.dims().0, weight.dims().0);
        let mut y = unwritten(n * outputs);
        weight.forward(&mut y, x.as_slice());
        tensor(y, [n, outputs])
    }

    fn frozen_linear_backward(dy: FloatTensor<Self>, weight: Weight<Self>) -> FloatTensor<Self> {
        let (dy, weight) = (Rows::new(dy), Matrix::from(weight));
        let (n, inputs) = (dy.dims().0, weight.dims().1);
        let mut dx = unwritten(n * inputs);
        weight.backward(&mut dx, false, dy.as_slice());
        tensor(dx, [n, inputs])
    }
}
