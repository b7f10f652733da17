//! How much memory there is, and how much this process has used, on a device or all in all. In bytes, `None` where the system
//! does not say.
use burn::tensor::Device;
use tune_model::DeviceKind;

/// What can still be used on `device`.
pub fn free(device: &Device) -> Option<u64> {
    match DeviceKind::of(device) {
        DeviceKind::Flex | DeviceKind::LibTorch => available(),
        DeviceKind::Cuda => gpu::free(device),
    }
}

/// What is in use where `device` computes: tensors on a GPU, the whole process elsewhere.
pub fn used(device: &Device) -> Option<u64> {
    match DeviceKind::of(device) {
        DeviceKind::Flex | DeviceKind::LibTorch => field("/proc/self/status", "VmRSS:"),
        DeviceKind::Cuda => gpu::used(device),
    }
}

/// The most that was in use there, since [`reset_peak`] where that can be.
pub fn peak_on(device: &Device) -> Option<u64> {
    match DeviceKind::of(device) {
        DeviceKind::Flex | DeviceKind::LibTorch => peak(),
        DeviceKind::Cuda => gpu::peak(device),
    }
}

/// Forgets the peak so far.
pub fn reset_peak(device: &Device) {
    match DeviceKind::of(device) {
        // Linux alone knows this; elsewhere the peak is that of the whole process.
        DeviceKind::Flex | DeviceKind::LibTorch => drop(fs_err::write("/proc/self/clear_refs", "5")),
        DeviceKind::Cuda => gpu::reset_peak(device),
    }
}

#[cfg(feature = "tch")]
mod gpu {
    use burn::tensor::Device;
    use tune_model::libtorch::{self, GpuMemory};

    fn of(device: &Device) -> Option<GpuMemory> {
        libtorch::gpu_memory(libtorch::gpu_index(device)?)
    }
    pub fn free(device: &Device) -> Option<u64> {
        Some(of(device)?.free)
    }
    pub fn used(device: &Device) -> Option<u64> {
        of(device)?.allocated
    }
    pub fn peak(device: &Device) -> Option<u64> {
        of(device)?.peak
    }
    pub fn reset_peak(device: &Device) {
        if let Some(index) = libtorch::gpu_index(device) {
            libtorch::reset_peak(index);
        }
    }
}

#[cfg(not(feature = "tch"))]
mod gpu {
    use burn::tensor::Device;
    pub fn free(_: &Device) -> Option<u64> {
        None
    }
    pub use free as used;
    pub use free as peak;
    pub fn reset_peak(_: &Device) {}
}

/// What can still be used without swapping: the smaller of the machine's and the container's.
pub fn available() -> Option<u64> {
    let machine = field("/proc/meminfo", "MemAvailable:");
    match (machine, container_left()) {
        (Some(machine), Some(container)) => Some(machine.min(container)),
        (one, other) => one.or(other),
    }
}

/// All the machine has.
pub fn total() -> Option<u64> {
    field("/proc/meminfo", "MemTotal:")
}

/// The most this process ever held (resident set).
pub fn peak() -> Option<u64> {
    field("/proc/self/status", "VmHWM:").or_else(peak_by_getrusage)
}

/// Control group v2; `max` (no limit) does not parse, which is right.
fn container_left() -> Option<u64> {
    let number = |path| fs_err::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let limit = number("/sys/fs/cgroup/memory.max")?;
    Some(limit.saturating_sub(number("/sys/fs/cgroup/memory.current")?))
}

fn field(path: &str, name: &str) -> Option<u64> {
    let text = fs_err::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    let kib: u64 = line[name.len()..].trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}

fn peak_by_getrusage() -> Option<u64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: getrusage fills the struct it is given, and all-zero bytes are a valid one.
    let usage = unsafe {
        if libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) != 0 {
            return None;
        }
        usage.assume_init()
    };
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    Some(usage.ru_maxrss as u64 * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_plausible() {
        let (total, available, peak) = (total().unwrap(), available().unwrap(), peak().unwrap());
        assert!(
            available <= total && peak > 1 << 20 && peak < total,
            "{total} {available} {peak}"
        );
        let kernel = peak_by_getrusage().unwrap();
        // It also counts what the process was before it became this program.
        assert!(kernel + (64 << 20) > peak, "{kernel} {peak}");
    }
}
