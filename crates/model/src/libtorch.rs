//! What can be asked of the LibTorch this program was built with.
use burn::tensor::Device;

/// LibTorch computing on the CPU.
#[allow(deprecated)] // Burn means to replace this backend by CubeCL; until that can be built here, it is the way to a GPU.
pub fn cpu() -> Device {
    Device::libtorch()
}

/// LibTorch computing on a GPU.
#[allow(deprecated)] // as above
pub fn cuda(index: usize) -> Device {
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
    pub allocated: u64,
    pub peak: u64,
}

/// `None` without CUDA.
pub fn gpu_memory(_index: usize) -> Option<GpuMemory> {
    None
}

/// Forgets the peak so far.
pub fn reset_peak(_index: usize) {}

/// Gives memory that is in no tensor back to the driver.
pub fn empty_cache() {}

/// Which GPU `device` is.
pub fn gpu_index(device: &Device) -> Option<usize> {
    let device = device.clone().inner();
    (0..cuda_devices()).find(|index| cuda(*index) == device)
}
