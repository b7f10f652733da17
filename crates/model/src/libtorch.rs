//! What can be asked of the LibTorch this program was built with.
use crate::ops::tch::cuda::{driver::Card, shim};
use burn::tensor::Device;

/// LibTorch computing on the CPU.
#[allow(deprecated)] // Burn means to replace this backend by CubeCL; until that can be built here, it is the way to a GPU.
pub fn cpu() -> Device {
    keep_freed_memory();
    Device::libtorch()
}

/// From the first call on, freed memory stays with the process: by default every large activation, and every tensor on its way to
/// a GPU, is returned to the system, and its pages are zeroed again when the next one takes its place, an eighth of a training
/// step.
fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: two settings of the allocator, which may change at any time.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
    }
}

/// Whether `device` is LibTorch on the CPU.
#[allow(deprecated)] // as above
pub fn is_cpu(device: &Device) -> bool {
    device.clone().inner() == Device::libtorch()
}

/// LibTorch computing on a GPU.
pub fn cuda(index: usize) -> Device {
    keep_freed_memory();
    let _ = shim::no_cudnn_in_aten(); // without CUDA there is none
    gpu(index)
}

#[allow(deprecated)] // as above
fn gpu(index: usize) -> Device {
    Device::libtorch_cuda(index)
}

/// GPUs that can be used now: 0 without a driver, or if this LibTorch was made for the CPU alone.
pub fn cuda_devices() -> usize {
    usize::try_from(tch::Cuda::device_count()).unwrap_or(0)
}

/// Bytes on a GPU: what its driver has, and what LibTorch's allocator holds in tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuMemory {
    pub free: u64,
    pub total: u64,
    /// `None` where this program was built without CUDA's headers.
    pub allocated: Option<u64>,
    pub peak: Option<u64>,
}

/// `None` without a driver.
pub fn gpu_memory(index: usize) -> Option<GpuMemory> {
    let (free, total) = Card::get(index).and_then(|card| card.memory()).ok()?;
    let held = shim::allocated(i32::try_from(index).ok()?).ok();
    Some(GpuMemory {
        free,
        total,
        allocated: held.map(|held| held.now as u64),
        peak: held.map(|held| held.peak as u64),
    })
}

/// Forgets the peak so far.
pub fn reset_peak(index: usize) {
    // Without CUDA there is none.
    let _ = i32::try_from(index).map(shim::reset_peak);
}

/// Gives memory that is in no tensor back to the driver.
pub fn empty_cache() {
    let _ = shim::empty_cache(); // as above
}

/// Which GPU `device` is.
pub fn gpu_index(device: &Device) -> Option<usize> {
    let device = device.clone().inner();
    (0..cuda_devices()).find(|index| gpu(*index) == device)
}

/// A GPU's name and compute capability, (9, 0) for an H100.
///
/// # Errors
/// In words: no driver, or no such GPU.
pub fn gpu_name(index: usize) -> Result<(String, (i32, i32)), String> {
    let card = Card::get(index)?;
    Ok((card.name()?, card.capability()?))
}

/// Why this program has no kernels of its own for CUDA; `None` if it has.
pub fn why_no_kernels() -> Option<&'static str> {
    shim::absent()
}
