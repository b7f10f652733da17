//! Both halves written into one new tensor; the angles stay in f32.
use super::{cuda, new};
use crate::ops::rope::RopeOp;
use burn::backend::{LibTorch, tensor::FloatTensor};

impl RopeOp for LibTorch {
    fn rope(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        head_dim: usize,
        inverse: bool,
    ) -> FloatTensor<Self> {
        if let Some(y) = cuda::rope(&x.tensor, &cos.tensor, &sin.tensor, head_dim as i64, inverse) {
            return new(y);
        }
        let (d, half) = (head_dim as i64, cos.tensor.size()[1]);
        let x = x.tensor.contiguous();
        let heads = x.view([x.size()[0], -1, d]);
        let (first, second) = (heads.narrow(2, 0, half), heads.narrow(2, half, half));
        let (cos, sin) = (cos.tensor.unsqueeze(1), sin.tensor.unsqueeze(1));
        let sin = if inverse { sin.neg() } else { sin };

        let out = x.copy();
        let rotated = out.view([x.size()[0], -1, d]);
        rotated.narrow(2, 0, half).copy_(&(&first * &cos - &second * &sin));
        rotated.narrow(2, half, half).copy_(&(second * cos + first * sin));
        new(out)
    }
}
