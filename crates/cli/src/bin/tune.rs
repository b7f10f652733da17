//! `tune`: the program itself, or with the feature `tch` what starts it once a LibTorch for it is found.
#[cfg(not(feature = "tch"))]
fn main() -> std::process::ExitCode {
    tune_cli::main()
}

#[cfg(feature = "tch")]
#[path = "../libtorch_version.rs"]
mod libtorch_version;
#[cfg(feature = "tch")]
#[path = "../startup.rs"]
mod startup;

/// Must not name the crate `tune_cli`: that would link LibTorch.
#[cfg(feature = "tch")]
fn main() -> std::process::ExitCode {
    use std::os::unix::process::CommandExt;
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let here = std::env::current_exe().and_then(|path| path.canonicalize());
    let program = here.map_or_else(
        |_| startup::PROGRAM.into(),
        |path| path.with_file_name(startup::PROGRAM),
    );
    let problem = match startup::library_path(&program) {
        Ok(library_path) => {
            let mut command = std::process::Command::new(&program);
            command.arg0(name).args(arguments);
            command.envs(library_path.map(|path| ("LD_LIBRARY_PATH", path)));
            // Takes this process over; returns only where it cannot.
            let error = command.exec();
            format!("error: cannot start {}: {error}", program.display())
        }
        Err(problem) => problem,
    };
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{problem}");
    std::process::ExitCode::FAILURE
}
