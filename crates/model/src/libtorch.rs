//! What can be asked of the LibTorch this program was built with.
use burn::tensor::Device;

/// LibTorch computing on the CPU.
///
/// From the first call on, freed memory stays with the process: by default every large activation is returned to the system and
/// its pages are zeroed again when the next one takes its place, an eighth of a training step.
#[allow(deprecated)] // Burn means to replace this backend by CubeCL; until that can be built here, it is the way to a GPU.
pub fn cpu() -> Device {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: two settings of the allocator, which may change at any time.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
    }
    Device::libtorch()
}

/// Whether `device` is LibTorch on the CPU.
#[allow(deprecated)] // as above
pub fn is_cpu(device: &Device) -> bool {
    device.clone().inner() == Device::libtorch()
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
