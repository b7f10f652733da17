//! Which version of LibTorch lies in a folder, as its makers wrote it down. Shared with the build script.
#![allow(clippy::disallowed_methods)] // The launcher and the build script have the standard library alone, and no path to tell.
use std::path::Path;

/// `2.11.0+cu130`: from `version.py` of PyTorch's package or `build-version` of the archive, beside the `lib` folder.
pub fn version_in(lib: &Path) -> Option<String> {
    let beside = |name: &str| std::fs::read_to_string(lib.join("..").join(name)).ok();
    let of_package = || {
        let text = beside("version.py")?;
        let value = text.lines().find_map(|line| line.strip_prefix("__version__ = "))?;
        Some(value.trim_matches(['\'', '"']).to_string())
    };
    of_package().or_else(|| Some(beside("build-version")?.trim().to_string()))
}
