//! The elements of tensors that lie in host memory.
use tch::{Device, Kind, Tensor};

fn check(tensor: &Tensor, kind: Kind) -> usize {
    assert!(tensor.device() == Device::Cpu && tensor.is_contiguous() && tensor.kind() == kind);
    tensor.numel()
}

/// Of a contiguous f32 tensor on the CPU.
pub fn floats(tensor: &Tensor) -> &[f32] {
    let n = check(tensor, Kind::Float);
    match n {
        0 => &[],
        // SAFETY: `n` elements of f32 lie there as long as the tensor is held.
        _ => unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast(), n) },
    }
}

/// Of a contiguous f32 tensor on the CPU whose memory no other tensor shares.
pub fn floats_mut(tensor: &mut Tensor) -> &mut [f32] {
    let n = check(tensor, Kind::Float);
    match n {
        0 => &mut [],
        // SAFETY: as above, and the caller holds the only handle.
        _ => unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast(), n) },
    }
}
