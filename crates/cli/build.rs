//! Where the program finds LibTorch when it starts: in the folder it was linked with, or beside the program.
#![allow(clippy::disallowed_methods)] // Cargo speaks to build scripts by the environment.
#[path = "src/libtorch_version.rs"]
mod libtorch_version;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Ok(folder) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        let version = libtorch_version::version_in(std::path::Path::new(&folder));
        println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib/libtorch:{folder}");
        println!("cargo:rustc-env=TUNE_LIBTORCH_FOLDER={folder}");
        println!("cargo:rustc-env=TUNE_LIBTORCH_VERSION={}", version.unwrap_or_default());
    }
}
