//! Loops on the CPU; elsewhere `silu` and a product, its gate computed again for the backward pass.
use super::{cuda, host, new};
use crate::ops::swiglu::SwigluOp;
use burn::backend::{LibTorch, tensor::FloatTensor};
use tch::Tensor;

fn forward(gate: &Tensor, up: &Tensor) -> Tensor {
    gate.silu().g_mul_(up)
}

fn backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> (Tensor, Tensor) {
    (gate.silu_backward(&(dy * up)), gate.silu().g_mul_(dy))
}

impl SwigluOp for LibTorch {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let (gate, up) = (&gate.tensor, &up.tensor);
        new(cuda::swiglu(gate, up)
            .or_else(|| host::swiglu(gate, up))
            .unwrap_or_else(|| forward(gate, up)))
    }

    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (gate, up, dy) = (&gate.tensor, &up.tensor, &dy.tensor);
        let (dgate, dup) = cuda::swiglu_backward(gate, up, dy)
            .or_else(|| host::swiglu_backward(gate, up, dy))
            .unwrap_or_else(|| backward(gate, up, dy));
        (new(dgate), new(dup))
    }

    fn swiglu_backward_recompute(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        debug_assert!(dy.can_mut(), "it is written over");
        let (gate, up, dy) = (&gate.tensor, &up.tensor, &dy.tensor);
        let (dgate, dup, y) = cuda::swiglu_backward_recompute(gate, up, dy)
            .or_else(|| host::swiglu_backward_recompute(gate, up, dy))
            .unwrap_or_else(|| {
                let (dgate, dup) = backward(gate, up, dy);
                (dgate, dup, forward(gate, up))
            });
        (new(dgate), new(dup), new(y))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_equal, waves};
    use super::*;

    #[test]
    fn the_loops_equal_aten() {
        let (gate, up, dy) = (waves(1, [7, 53]) * 9.0, waves(2, [7, 53]), waves(3, [7, 53]));
        assert_equal(&host::swiglu(&gate, &up).unwrap(), &forward(&gate, &up));
        let (found, wanted) = (
            host::swiglu_backward(&gate, &up, &dy).unwrap(),
            backward(&gate, &up, &dy),
        );
        assert_equal(&found.0, &wanted.0);
        assert_equal(&found.1, &wanted.1);
        let (dgate, dup, y) = host::swiglu_backward_recompute(&gate, &up, &dy).unwrap();
        assert_equal(&dgate, &wanted.0);
        assert_equal(&dup, &wanted.1);
        assert_equal(&y, &forward(&gate, &up));
    }
}
