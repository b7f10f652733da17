//! `tune import`: the config of another trainer as one of ours, with an account of every key.
use crate::End;
use crate::args::Import;
use crate::errors::Failure;
use crate::import::{Outcome, import};
use crate::printer::{Printer, plural, shell_word};
use std::path::Path;
use tune_model::staging;

pub fn run(args: &Import, printer: &Printer) -> anyhow::Result<End> {
    let to_stdout = args.out == Path::new("-");
    let template_file = (!to_stdout).then(|| args.out.with_extension("jinja"));
    let taken = [Some(args.out.clone()), template_file.clone()];
    if let Some(taken) = taken
        .iter()
        .flatten()
        .find(|file| !to_stdout && !args.force && file.exists())
    {
        return Err(Failure::error(
            format!("{} already exists", taken.display()),
            "choose another --out, or add --force",
        ));
    }
    let imported = match import(&args.config, args.from, template_file)? {
        Outcome::Config(imported) => imported,
        Outcome::Refused { title, refusals } => {
            refused(args, title, &refusals, printer);
            return Ok(End::Faults);
        }
    };
    printer.talk(&imported.report);
    if to_stdout {
        printer.stream(&imported.toml)?;
        return Ok(End::Done);
    }
    if let Some((file, text)) = &imported.template {
        staging::write_file(file, text.as_bytes())?;
        printer.talk(&format!("wrote {}", file.display()));
    }
    staging::write_file(&args.out, imported.toml.as_bytes())?;
    let out = shell_word(&args.out.display().to_string());
    let todo = match imported.todo {
        0 => String::new(),
        todo => format!(", with {} to be done by you", plural(todo, "thing")),
    };
    printer.talk(&format!("wrote {}{todo}", args.out.display()));
    printer.talk(&format!(
        "\nnext:\n  tune data check {out}\n  tune train {out} --dry-run"
    ));
    Ok(End::Done)
}

fn refused(args: &Import, title: &str, refusals: &[(String, String)], printer: &Printer) {
    let file = args.config.display();
    let mut text = format!(
        "{} {file} is a config of {title} that tune cannot do, so nothing was written",
        printer.style.red_bold("refused:")
    );
    for (what, instead) in refusals {
        text += &format!("\n  {what}\n    instead: {instead}");
    }
    printer.error(&text);
}
