//! What a run was made of and where: hashes, versions, machine.
use crate::{Result, files, memory};
use serde_json::json;
use std::path::Path;
use tune_data::Corpus;
use tune_model::{Checkpoint, Precision};

/// `base_hash`: blake3 over config and tensors; `config`: the text of `config.toml`; `device`: as the plan names it; `held`: how the base's
/// numbers were.
pub fn write(
    path: &Path,
    base: &Checkpoint,
    base_hash: &str,
    corpus: &Corpus,
    config: &str,
    device: &str,
    held: Precision,
) -> Result<()> {
    let receipt = json!({
        "program": { "name": "tune", "version": env!("CARGO_PKG_VERSION"), "blake3": program_hash()?, "burn": "0.22.1" },
        "base": { "name": base.name, "revision": base.revision, "kind": base.kind, "blake3": base_hash, "held": held },
        "data": { "fingerprint": corpus.fingerprint, "files": corpus.report.files },
        "config_blake3": blake3::hash(config.as_bytes()).to_hex().to_string(),
        "device": device,
        "machine": {
            "os": std::env::consts::OS,
            "arch": std::env::consts::ARCH,
            "cpu": cpu_name(),
            "cores": std::thread::available_parallelism().map(usize::from).ok(),
            "memory_bytes": memory::total(),
        },
    });
    files::write_json(path, &receipt)
}

/// blake3 of the running program; `None` where the system does not say which file that is.
fn program_hash() -> Result<Option<String>> {
    let Ok(path) = std::env::current_exe() else {
        return Ok(None);
    };
    // Replaced by a newer build while it runs.
    if !path.exists() {
        return Ok(None);
    }
    files::hash(&path).map(Some)
}

fn cpu_name() -> Option<String> {
    let text = fs_err::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}
