//! Rotates in place where nobody else holds the tensor.
use super::{Rows, rows_per_task, simd};
use crate::ops::rope::RopeOp;
use burn::backend::{Flex, tensor::FloatTensor};
use rayon::prelude::*;

impl RopeOp for Flex {
    fn rope(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        head_dim: usize,
        inverse: bool,
    ) -> FloatTensor<Self> {
        let (cos, sin) = (Rows::new(cos), Rows::new(sin));
        let half = cos.dims().1;
        let (cos, sin) = (cos.as_slice(), sin.as_slice());
        let mut x = if x.is_contiguous() && x.layout().start_offset() == 0 {
            x
        } else {
            x.to_contiguous()
        };
        let width = x.layout().shape()[1];
        let step = rows_per_task(width);
        let sign = if inverse { -1.0 } else { 1.0 };
        let n = x.layout().shape()[0];
        x.storage_mut::<f32>()[..n * width]
            .par_chunks_mut(step * width)
            .enumerate()
            .for_each(|(task, rows)| {
                simd::vectorized(
                    #[inline(always)]
                    || {
                        for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                            let angles = (task * step + i) * half..(task * step + i + 1) * half;
                            let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
                            for head in row.chunks_exact_mut(head_dim) {
                                let (first, rest) = head.split_at_mut(half);
                                for (((a, b), c), s) in first.iter_mut().zip(&mut rest[..half]).zip(cos).zip(sin) {
                                    let (x, y, s) = (*a, *b, s * sign);
                                    *a = x * c - y * s;
                                    *b = y * c + x * s;
                                }
                            }
                        }
                    },
                )
            });
        x
    }
}
