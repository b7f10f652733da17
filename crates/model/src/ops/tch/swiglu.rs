//! `silu` and a product; its gate is computed again for the backward pass.
use super::new;
use crate::ops::swiglu::SwigluOp;
use burn::backend::{LibTorch, tensor::FloatTensor};

impl SwigluOp for LibTorch {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        new(gate.tensor.silu().g_mul_(&up.tensor))
    }

    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let dup = gate.tensor.silu().g_mul_(&dy.tensor);
        let dgate = gate.tensor.silu_backward(&(dy.tensor * up.tensor));
        (new(dgate), new(dup))
    }
}
