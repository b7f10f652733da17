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
