//! Where the program finds LibTorch when it starts: in the folder it was linked with, or beside the program. And the files in
//! `cuda/`: the calls tch lacks (`shim.cpp`) where this LibTorch has CUDA, and the kernels as C++ for the tests.
#![allow(clippy::disallowed_methods)] // Cargo speaks to build scripts by the environment.
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(tune_cuda)");
    let Ok(folder) = std::env::var("DEP_TCH_LIBTORCH_LIB") else {
        return;
    };
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib/libtorch:{folder}");
    kernels_for_tests();
    match cuda_headers(Path::new(&folder)) {
        Ok(headers) => shim(Path::new(&folder), &headers),
        Err(why) => println!("cargo:rustc-env=TUNE_NO_CUDA={why}"),
    }
}

/// Linked by tests alone.
fn kernels_for_tests() {
    for file in ["cuda/kernels.cu", "cuda/host.cpp"] {
        println!("cargo:rerun-if-changed={file}");
    }
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(2).file("cuda/host.cpp");
    build
        .flag("-fno-strict-aliasing")
        .flag("-ffp-contract=off")
        .cargo_metadata(false);
    build.compile("tune_kernels_for_tests");
    if let Ok(out) = std::env::var("OUT_DIR") {
        println!("cargo:rustc-link-search=native={out}");
    }
}

/// `cuda_runtime_api.h` and what it includes: of a CUDA toolkit, or of the PyPI packages beside PyTorch.
fn cuda_headers(libtorch: &Path) -> Result<Vec<PathBuf>, String> {
    println!("cargo:rerun-if-env-changed=CUDA_HOME");
    if !libtorch.join("libtorch_cuda.so").exists() {
        return Err(format!(
            "the LibTorch in {} was made for the CPU alone",
            libtorch.display()
        ));
    }
    let toolkit = std::env::var("CUDA_HOME").unwrap_or_else(|_| "/usr/local/cuda".into());
    let packages = libtorch.join("../../nvidia");
    let folders = [
        Path::new(&toolkit).join("include"),
        packages.join("cu13/include"),
        packages.join("cuda_runtime/include"),
        packages.join("cuda_nvcc/include"),
    ];
    let has = |file: &str| folders.iter().any(|folder| folder.join(file).exists());
    for (file, package) in [
        ("cuda_runtime_api.h", "nvidia-cuda-runtime"),
        ("crt/host_config.h", "nvidia-cuda-crt"),
    ] {
        if !has(file) {
            return Err(format!(
                "at build time no {file} was found in CUDA_HOME, {toolkit} or beside PyTorch (package {package})"
            ));
        }
    }
    Ok(folders.into_iter().filter(|folder| folder.exists()).collect())
}

fn shim(libtorch: &Path, headers: &[PathBuf]) {
    println!("cargo:rerun-if-changed=cuda/shim.cpp");
    println!("cargo:rustc-cfg=tune_cuda");
    let torch = libtorch.join("../include");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").warnings(false).file("cuda/shim.cpp");
    build
        .include(&torch)
        .include(torch.join("torch/csrc/api/include"))
        .includes(headers);
    build.compile("tune_cuda");
    println!("cargo:rustc-link-search=native={}", libtorch.display());
    println!("cargo:rustc-link-lib=c10_cuda");
}
