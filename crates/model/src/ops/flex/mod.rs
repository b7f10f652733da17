//! Kernels for `flex`, Burn's pure-Rust CPU backend: f32, contiguous rows, all cores.
pub(super) mod adamw;
mod attention;
mod coded;
mod frozen;
mod geglu;
mod gelu;
mod layer_norm;
mod linear;
mod linear_cross_entropy;
mod low_rank;
mod matmul;
mod packed;
mod rms_norm;
mod rope;
pub(super) mod simd;
mod swiglu;

#[cfg(feature = "tch")]
pub(super) use coded::few_coded_rows;
#[cfg(feature = "tch")]
pub(super) use matmul::FEW_ROWS;
pub use packed::{PackedBf16, has_dpbf16};

use burn::backend::flex::FlexTensor;
use burn::tensor::TensorData;

/// The elements of a contiguous tensor, copied only where a view is not contiguous.
pub(super) struct Rows(FlexTensor);
impl Rows {
    pub fn new(tensor: FlexTensor) -> Self {
        Self(if tensor.is_contiguous() {
            tensor
        } else {
            tensor.to_contiguous()
        })
    }
    pub fn as_slice(&self) -> &[f32] {
        self.0.as_slice::<f32>().unwrap_or(&[])
    }
    /// To be written over; a copy where others see them.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        let (start, end) = self.0.layout().contiguous_offsets().unwrap_or_default();
        &mut self.0.storage_mut::<f32>()[start..end]
    }
    pub fn into_tensor(self) -> FlexTensor {
        self.0
    }
    /// `[rows, columns]`; a 1-D tensor is one row.
    pub fn dims(&self) -> (usize, usize) {
        let shape = self.0.layout().shape();
        let columns = shape[shape.num_dims() - 1];
        (shape.num_elements() / columns.max(1), columns)
    }
}

/// A tensor around freshly written elements.
pub(super) fn tensor<const D: usize>(data: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(data, shape))
}

/// `n` floats to be written before they are read: zeroing them first would cost a pass over memory.
#[allow(clippy::uninit_vec)]
pub(super) fn unwritten(n: usize) -> Vec<f32> {
    let mut v = Vec::with_capacity(n);
    // SAFETY: f32 has no invalid bit patterns and no destructor; every caller writes all of it before handing it on.
    unsafe { v.set_len(n) };
    v
}

/// Rows a rayon task takes at once, so that a task moves about 64 KiB.
pub(super) fn rows_per_task(columns: usize) -> usize {
    (16_384 / columns.max(1)).max(1)
}
