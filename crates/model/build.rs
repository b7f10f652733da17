//! Where the program finds LibTorch when it starts: in the folder it was linked with, or beside the program.
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Ok(folder) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib/libtorch:{folder}");
    }
}
