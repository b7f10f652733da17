//! Where the tests find LibTorch: in the folder they were linked with.
#![allow(clippy::disallowed_methods)] // Cargo speaks to build scripts by the environment.
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Ok(folder) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    }
}
