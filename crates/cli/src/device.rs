//! Which backends this binary has and which one a name means. The only file that names one.
use crate::errors::Failure;
use crate::kernels;
use crate::printer::{Printer, plural};
use burn::tensor::Device;
use tune_model::DeviceKind;

/// One way to compute that this binary was built with.
pub struct Backend {
    pub name: &'static str,
    pub what: &'static str,
}

/// Compiled in.
pub const BACKENDS: &[Backend] = &[
    Backend {
        name: "flex",
        what: "pure-Rust CPU",
    },
    #[cfg(feature = "tch")]
    Backend {
        name: "libtorch",
        what: "LibTorch on the CPU",
    },
    #[cfg(feature = "tch")]
    Backend {
        name: "cuda:N",
        what: "LibTorch on GPU N",
    },
];

pub struct Chosen {
    pub device: Device,
    /// What it is and why, as the plan shows it.
    pub why: String,
}

/// A device's name, as a setting has it, to the device, and why it is that one.
pub fn choose(name: &str) -> anyhow::Result<Chosen> {
    match name {
        "auto" => Ok(best()),
        "flex" | "cpu" => Ok(flex("as asked")),
        other => libtorch(other),
    }
}

/// The same for a model's weights: on a GPU its kernels are checked first.
pub fn checked(name: &str, printer: &Printer) -> anyhow::Result<Chosen> {
    let chosen = choose(name)?;
    kernels::check(&chosen.device, printer);
    Ok(chosen)
}

/// For plans alone: what stands in for a device that need not be here, and how the plan names it.
pub fn absent(kind: DeviceKind) -> Chosen {
    let why = match kind {
        DeviceKind::Flex => "a CPU, flex (planned for)",
        DeviceKind::LibTorch => "LibTorch on a CPU (planned for)",
        DeviceKind::Cuda => "a GPU, LibTorch (planned for)",
    };
    Chosen {
        device: Device::flex(),
        why: why.into(),
    }
}

fn flex(why: &str) -> Chosen {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Chosen {
        device: Device::flex(),
        why: format!("flex, pure-Rust CPU, {} ({why})", plural(cores, "core")),
    }
}

#[cfg(feature = "tch")]
fn best() -> Chosen {
    match tune_model::libtorch::cuda_devices() {
        0 => flex("auto: no GPU to be used"),
        _ => cuda(0, "auto: a GPU is there"),
    }
}

#[cfg(not(feature = "tch"))]
fn best() -> Chosen {
    flex("auto: the only backend in this build")
}

#[cfg(feature = "tch")]
fn cuda(index: usize, why: &str) -> Chosen {
    Chosen {
        device: tune_model::libtorch::cuda(index),
        why: format!("cuda:{index}, LibTorch ({why})"),
    }
}

#[cfg(feature = "tch")]
fn libtorch(name: &str) -> anyhow::Result<Chosen> {
    use tune_model::libtorch;
    if name == "libtorch" {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        return Ok(Chosen {
            device: libtorch::cpu(),
            why: format!("LibTorch on the CPU, {} (as asked)", plural(cores, "core")),
        });
    }
    let index = match name.split_once(':') {
        None if name == "cuda" => 0,
        Some(("cuda", index)) => index.parse().map_err(|_| unknown(name))?,
        _ => return Err(unknown(name)),
    };
    match libtorch::cuda_devices() {
        found if index < found => Ok(cuda(index, "as asked")),
        0 => Err(Failure::error(
            format!("device `{name}` cannot be used: LibTorch sees no GPU"),
            "`tune doctor` says what is missing: the driver, or a LibTorch with CUDA",
        )),
        found => Err(Failure::error(
            format!("there is no device `{name}`: LibTorch sees {}", plural(found, "GPU")),
            format!("the last one is cuda:{}", found - 1),
        )),
    }
}

#[cfg(not(feature = "tch"))]
fn libtorch(name: &str) -> anyhow::Result<Chosen> {
    Err(unknown(name))
}

fn unknown(name: &str) -> anyhow::Error {
    let known: Vec<&str> = ["auto", "cpu"]
        .into_iter()
        .chain(BACKENDS.iter().map(|b| b.name))
        .collect();
    let gpu = [
        "cuda", "tch", "libtorch", "rocm", "metal", "mps", "wgpu", "vulkan", "gpu",
    ];
    if gpu.contains(&name.split(':').next().unwrap_or_default()) {
        let names: Vec<&str> = BACKENDS.iter().map(|b| b.name).collect();
        return Failure::error(
            format!(
                "device `{name}` is not compiled into this binary; it has {}",
                names.join(", ")
            ),
            "set device = \"auto\"; a build with `--features tch` computes on NVIDIA GPUs",
        );
    }
    let near = crate::options::nearest(name, known.iter().copied()).unwrap_or("auto");
    Failure::error(
        format!("unknown device `{name}`; wanted one of {}", known.join(", ")),
        format!("did you mean `{near}`?"),
    )
}
