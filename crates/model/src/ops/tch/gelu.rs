//! ATen's kernels.
use super::new;
use crate::ops::gelu::GeluOp;
use burn::backend::{LibTorch, tensor::FloatTensor};

impl GeluOp for LibTorch {
    fn gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        new(x.tensor.gelu("tanh"))
    }

    fn gelu_tanh_backward(x: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
        new(x.tensor.gelu_backward(&dy.tensor, "tanh"))
    }
}
