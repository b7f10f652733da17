//! The program, linked with LibTorch; `tune` starts it.
fn main() -> std::process::ExitCode {
    tune_cli::main()
}
