//! ATen's kernels.
use super::new;
use crate::ops::gelu::{Gelu, GeluOp};
use burn::backend::{LibTorch, tensor::FloatTensor};

/// As ATen names the form.
fn name(form: Gelu) -> &'static str {
    match form {
        Gelu::Exact => "none",
        Gelu::Tanh => "tanh",
    }
}

impl GeluOp for LibTorch {
    fn gelu_of(x: FloatTensor<Self>, form: Gelu) -> FloatTensor<Self> {
        new(x.tensor.gelu(name(form)))
    }

    fn gelu_of_backward(x: FloatTensor<Self>, dy: FloatTensor<Self>, form: Gelu) -> FloatTensor<Self> {
        new(x.tensor.gelu_backward(&dy.tensor, name(form)))
    }
}
