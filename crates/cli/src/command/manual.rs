//! `tune completions` and `tune man`: both made from the arguments themselves.
use crate::End;
use crate::args::Cli;
use crate::printer::Printer;
use anyhow::Context;
use clap::CommandFactory;
use std::path::Path;

pub fn completions(shell: clap_complete::Shell, printer: &Printer) -> anyhow::Result<End> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tune", &mut script);
    printer.stream(&String::from_utf8(script)?)?;
    Ok(End::Done)
}

pub fn man(dir: Option<&Path>, printer: &Printer) -> anyhow::Result<End> {
    match dir {
        Some(dir) => {
            fs_err::create_dir_all(dir)?;
            clap_mangen::generate_to(Cli::command(), dir)
                .with_context(|| format!("cannot write manual pages into {}", dir.display()))?;
            printer.talk(&format!("wrote manual pages into {}", dir.display()));
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            printer.stream(&String::from_utf8(page)?)?;
        }
    }
    Ok(End::Done)
}
