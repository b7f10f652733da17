//! Loops over the elements of tensors that lie in host memory, where they take fewer passes than ATen's calls.
mod cross_entropy;
mod elementwise;

pub use cross_entropy::cross_entropy;
pub use elementwise::{
    rms_norm, rms_norm_backward, rms_norm_backward_residual, rope, swiglu, swiglu_backward, swiglu_backward_recompute,
};

use half::bf16;
use tch::{Device, Kind, Tensor};

/// What activations are made of.
pub trait Element: Copy + Send + Sync {
    const KIND: Kind;
    fn get(self) -> f32;
    fn put(value: f32) -> Self;
}

impl Element for f32 {
    const KIND: Kind = Kind::Float;
    #[inline(always)]
    fn get(self) -> f32 {
        self
    }
    #[inline(always)]
    fn put(value: f32) -> Self {
        value
    }
}

/// Without the crate's care for NaN's payload, which would keep loops from being vectorized.
impl Element for bf16 {
    const KIND: Kind = Kind::BFloat16;
    #[inline(always)]
    fn get(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn put(value: f32) -> Self {
        let bits = value.to_bits();
        Self::from_bits((bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16) as u16)
    }
}

fn check<E: Element>(tensor: &Tensor) -> usize {
    assert!(tensor.device() == Device::Cpu && tensor.is_contiguous() && tensor.kind() == E::KIND);
    tensor.numel()
}

/// The elements of a contiguous tensor on the CPU.
pub fn slice<E: Element>(tensor: &Tensor) -> &[E] {
    match check::<E>(tensor) {
        0 => &[],
        // SAFETY: so many elements of that kind lie there as long as the tensor is held.
        n => unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast(), n) },
    }
}

/// The same to be written; no other tensor may be using the memory.
pub fn slice_mut<E: Element>(tensor: &mut Tensor) -> &mut [E] {
    match check::<E>(tensor) {
        0 => &mut [],
        // SAFETY: as above, and the caller holds the only handle in use.
        n => unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast(), n) },
    }
}
