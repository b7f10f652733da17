//! ATen's GELU and a product, the gate computed again for the backward pass.
use super::new;
use crate::ops::geglu::GegluOp;
use burn::backend::{LibTorch, tensor::FloatTensor};

impl GegluOp for LibTorch {
    fn geglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        new(gate.tensor.gelu("tanh").g_mul_(&up.tensor))
    }

    fn geglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (gate, up, dy) = (&gate.tensor, &up.tensor, &dy.tensor);
        let dgate = gate.gelu_backward(&(dy * up), "tanh"); // The product is gone before the next is made.
        (new(dgate), new(gate.gelu("tanh").g_mul_(dy)))
    }
}
