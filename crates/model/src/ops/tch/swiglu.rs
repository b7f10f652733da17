//! `silu` and a product; its gate is computed again for the backward pass.
use super::{cuda, new};
use crate::ops::swiglu::SwigluOp;
use burn::backend::{LibTorch, tensor::FloatTensor};

impl SwigluOp for LibTorch {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        if let Some(y) = cuda::swiglu(&gate.tensor, &up.tensor) {
            return new(y);
        }
        new(gate.tensor.silu().g_mul_(&up.tensor))
    }

    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if let Some((dgate, dup)) = cuda::swiglu_backward(&gate.tensor, &up.tensor, &dy.tensor) {
            return (new(dgate), new(dup));
        }
        let dup = gate.tensor.silu().g_mul_(&dy.tensor);
        let dgate = gate.tensor.silu_backward(&(dy.tensor * up.tensor));
        (new(dgate), new(dup))
    }
}
