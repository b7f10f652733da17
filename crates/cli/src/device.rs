//! Which backends this binary has and which one a name means. The only file that names one.
use crate::errors::Failure;
use crate::printer::plural;
use burn::tensor::Device;

/// One way to compute that this binary was built with.
pub struct Backend {
    pub name: &'static str,
    pub what: &'static str,
}

/// Compiled in, best first.
pub const BACKENDS: [Backend; 1] = [Backend {
    name: "flex",
    what: "pure-Rust CPU",
}];

pub struct Chosen {
    pub device: Device,
    /// What it is and why, as the plan shows it.
    pub why: String,
}

/// `auto`, `flex` or `cpu` to a device, and why it is that one.
pub fn choose(name: &str) -> anyhow::Result<Chosen> {
    let why = match name {
        "auto" => "auto: the only backend in this build",
        "flex" | "cpu" => "as asked",
        other => return Err(unknown(other)),
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Chosen {
        device: Device::flex(),
        why: format!("flex, pure-Rust CPU, {} ({why})", plural(cores, "core")),
    })
}

fn unknown(name: &str) -> anyhow::Error {
    let known = ["auto", "flex", "cpu"];
    let gpu = [
        "cuda", "tch", "libtorch", "rocm", "metal", "mps", "wgpu", "vulkan", "gpu",
    ];
    if gpu.contains(&name.split(':').next().unwrap_or_default()) {
        return Failure::error(
            format!("device `{name}` is not compiled into this binary; it has flex (pure-Rust CPU)"),
            "set device = \"auto\"; `tune doctor` lists what this build has",
        );
    }
    let near = crate::options::nearest(name, known).unwrap_or("auto");
    Failure::error(
        format!("unknown device `{name}`; wanted one of {}", known.join(", ")),
        format!("did you mean `{near}`?"),
    )
}
