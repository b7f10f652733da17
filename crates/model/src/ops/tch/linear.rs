//! One product forward, one backward.
use super::{dense, new, times_transposed};
use crate::frozen::Weight;
use crate::ops::linear::LinearOp;
use burn::backend::{LibTorch, tensor::FloatTensor};

impl LinearOp for LibTorch {
    fn frozen_linear(x: FloatTensor<Self>, weight: Weight<Self>) -> FloatTensor<Self> {
        new(times_transposed(&x.tensor, &weight))
    }

    fn frozen_linear_backward(dy: FloatTensor<Self>, weight: Weight<Self>) -> FloatTensor<Self> {
        new(dy.tensor.mm(&dense(&weight, dy.tensor.kind())))
    }
}
