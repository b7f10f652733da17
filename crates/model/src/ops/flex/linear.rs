//! Two products on all cores.
use super::matmul::{View, matmul, parallel, times_transposed};
use super::{Rows, dense::Dense, tensor, unwritten};
use crate::frozen::Weight;
use crate::ops::linear::LinearOp;
use burn::backend::{Flex, tensor::FloatTensor};

impl LinearOp for Flex {
    fn frozen_linear(x: FloatTensor<Self>, weight: Weight<Self>) -> FloatTensor<Self> {
        let (x, weight) = (Rows::new(x), Dense::new(weight));
        let ((n, inputs), (outputs, _)) = (x.dims(), weight.dims());
        let mut y = unwritten(n * outputs);
        times_transposed(&mut y, 0.0, x.as_slice(), weight.as_slice(), inputs, 1.0);
        tensor(y, [n, outputs])
    }

    fn frozen_linear_backward(dy: FloatTensor<Self>, weight: Weight<Self>) -> FloatTensor<Self> {
        let (dy, weight) = (Rows::new(dy), Dense::new(weight));
        let (n, (outputs, inputs)) = (dy.dims().0, weight.dims());
        let mut dx = unwritten(n * inputs);
        let (dy, w) = (
            View::new(dy.as_slice(), n, outputs),
            View::new(weight.as_slice(), outputs, inputs),
        );
        matmul(&mut dx, inputs, 0.0, dy, w, 1.0, parallel());
        tensor(dx, [n, inputs])
    }
}
