//! The program: parse, run, print the error with its hint, and choose the exit code.
mod answerer;
mod args;
mod command;
mod config;
mod device;
mod embedder;
mod environment;
mod errors;
mod gpu;
mod import;
mod interrupt;
mod kernels;
mod library;
#[cfg(feature = "tch")]
mod libtorch_version;
mod options;
mod printer;
mod resolve;
mod self_test;
mod shapes;
#[cfg(feature = "tch")]
pub mod startup;
mod toml_file;
mod watch;

use args::{Cli, Command};
use clap::Parser;
use printer::Printer;
use std::path::Path;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How a command that did not fail ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Done,
    /// It did its work, and found faults in what it looked at.
    Faults,
    /// A comparison came to this exit code: 0 shown better, 3 not shown, 4 worse.
    Verdict(u8),
    /// Asked to stop by Ctrl-C, and stopped in order.
    Interrupted,
}

/// Keeps what a step frees for the next one: given back to the system in between, it comes back to be zeroed page by page.
fn keep_freed_memory() {
    /// `mi_option_purge_delay` in mimalloc's header; -1 is never.
    const PURGE_DELAY: libc::c_int = 15;
    unsafe extern "C" {
        fn mi_option_set(option: libc::c_int, value: libc::c_long);
    }
    // SAFETY: sets a number in the allocator that this program links, before other threads begin.
    unsafe { mi_option_set(PURGE_DELAY, -1) }
}

pub fn main() -> ExitCode {
    let started = std::time::Instant::now();
    keep_freed_memory();
    let cli = Cli::parse();
    let printer = Printer::new(&cli.talk);
    // There 1 could be taken for a verdict of a kind.
    let verdict = matches!(cli.command, Command::Eval(_));
    match run(cli.command, &printer, started) {
        Ok(End::Done) => ExitCode::SUCCESS,
        Ok(End::Faults) => ExitCode::from(2),
        Ok(End::Verdict(code)) => ExitCode::from(code),
        Err(error) if verdict && !errors::is_broken_pipe(&error) => {
            errors::report(&error, &printer);
            ExitCode::from(2)
        }
        Ok(End::Interrupted) => ExitCode::from(interrupt::EXIT_CODE),
        Err(error) if errors::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            errors::report(&error, &printer);
            ExitCode::FAILURE
        }
    }
}

/// The config whose settings are asked for in place of a run by them.
fn shown(command: &Command) -> Option<(&Path, &args::Set)> {
    let config = match command {
        Command::Train(args) => &args.config,
        Command::Data(args::Data::Raft(args)) => &args.config,
        Command::Index(args) => &args.config,
        Command::Search(args) => &args.config,
        Command::Ask(args) => &args.config,
        Command::Eval(args) if args.show_settings => return Some((args.config.as_deref()?, &args.set)),
        _ => return None,
    };
    config.show_settings.then_some((&config.config, &config.set))
}

fn run(command: Command, printer: &Printer, started: std::time::Instant) -> anyhow::Result<End> {
    if let Some((config, set)) = shown(&command) {
        printer.stream(&resolve::resolve(config, &set.set)?.show())?;
        return Ok(End::Done);
    }
    match command {
        Command::Train(args) => command::train::run(&args, printer, started),
        Command::Data(args) => command::data::run(&args, printer),
        Command::Index(args) => command::index::run(&args, printer),
        Command::Search(args) => command::search::run(&args, printer),
        Command::Ask(args) => command::ask::run(&args, printer),
        Command::Eval(args) => command::eval::run(&args, printer),
        Command::Advise(args) => command::advise::run(&args, printer),
        Command::Log(args) => command::log::run(&args, printer),
        Command::Generate(args) => command::generate::run(&args, printer),
        Command::Chat(args) => command::chat::run(&args, printer),
        Command::Export(args) => command::export::run(&args, printer),
        Command::Bench(args) => command::bench::run(&args, printer, started),
        Command::Doctor(args) => command::doctor::run(&args, printer),
        Command::Init(args) => command::init::run(&args, printer),
        Command::Import(args) => command::import::run(&args, printer),
        Command::Completions { shell } => command::manual::completions(shell, printer),
        Command::Man { dir } => command::manual::man(dir.as_deref(), printer),
    }
}
