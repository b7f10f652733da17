//! One loop on the CPU; elsewhere both halves written into one new tensor. The angles stay in f32.
use super::{cuda, host, new};
use crate::ops::rope::RopeOp;
use burn::backend::{LibTorch, tensor::FloatTensor};
use tch::Tensor;

fn rotated(x: &Tensor, cos: &Tensor, sin: &Tensor, head_dim: usize, inverse: bool) -> Tensor {
    let (d, half) = (head_dim as i64, cos.size()[1]);
    let x = x.contiguous();
    let heads = x.view([x.size()[0], -1, d]);
    let (first, second) = (heads.narrow(2, 0, half), heads.narrow(2, half, half));
    let (cos, sin) = (cos.unsqueeze(1), sin.unsqueeze(1));
    let sin = if inverse { sin.neg() } else { sin };

    let out = x.copy();
    let rotated = out.view([x.size()[0], -1, d]);
    rotated.narrow(2, 0, half).copy_(&(&first * &cos - &second * &sin));
    rotated.narrow(2, half, half).copy_(&(second * cos + first * sin));
    out
}

impl RopeOp for LibTorch {
    fn rope(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        head_dim: usize,
        inverse: bool,
    ) -> FloatTensor<Self> {
        let (x, cos, sin) = (&x.tensor, &cos.tensor, &sin.tensor);
        let found =
            cuda::rope(x, cos, sin, head_dim as i64, inverse).or_else(|| host::rope(x, cos, sin, head_dim, inverse));
        new(found.unwrap_or_else(|| rotated(x, cos, sin, head_dim, inverse)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_equal, waves};
    use super::*;

    #[test]
    fn the_loop_equals_aten() {
        let (x, cos, sin) = (waves(1, [7, 24]), waves(2, [7, 3]), waves(3, [7, 3]));
        for inverse in [false, true] {
            let found = host::rope(&x, &cos, &sin, 8, inverse).unwrap();
            assert_equal(&found, &rotated(&x, &cos, &sin, 8, inverse));
        }
    }
}
