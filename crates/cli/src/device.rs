//! Which backends this binary has and which one a name means. The only file that names one.
use crate::errors::Failure;
use burn::tensor::Device;

/// One way to compute that this binary was built with.
pub struct Backend {
    pub name: &'static str,
    pub what: &'static str,
}

/// Compiled in, best first.
pub const BACKENDS: [Backend; 1] = [Backend { name: "flex", what: "pure-Rust CPU" }];

pub struct Chosen {
    pub device: Device,
    /// As the plan shows it.
    pub why: String,
}

/// `auto`, `flex` or `cpu` to a device, and why it is that one.
pub fn choose(name: &str) -> anyhow::Result<Chosen> {
    let why = match name {
        "auto" => "auto: the only backend in this build".to_string(),
        "flex" | "cpu" => format!("device = \"{name}\""),
        other => return Err(unknown(other)),
    };
    Ok(Chosen { device: Device::flex(), why })
}

fn unknown(name: &str) -> anyhow::Error {
    let known = ["auto", "flex", "cpu"];
    let gpu = ["cuda", "tch", "libtorch", "rocm", "metal", "mps", "wgpu", "vulkan", "gpu"];
    if gpu.contains(&name.split(':').next().unwrap_or_default()) {
        return Failure::new(
            format!("device `{name}` is not compiled into this binary; it has flex (pure-Rust CPU)"),
            "set device = \"auto\"; `tune doctor` lists what this build has",
        );
    }
    let near = crate::options::nearest(name, known).unwrap_or("auto");
    Failure::new(
        format!("unknown device `{name}`; wanted one of {}", known.join(", ")),
        format!("did you mean `{near}`?"),
    )
}
