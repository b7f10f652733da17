//! `tune data raft`: training rows for a model that answers from passages.
use crate::answerer::{Models, Wanted};
use crate::args::RaftArgs;
use crate::errors::Failure;
use crate::library::Opened;
use crate::printer::{Printer, plural};
use crate::watch::Console;
use crate::{End, device, resolve};
use std::collections::BTreeMap;
use std::path::Path;
use tune_model::{Precision, staging};
use tune_rag::question::read_questions;
use tune_rag::raft::rows;
use tune_rag::{PromptBuilder, Weights};
use tune_trainer::watch::{Event, Watch};

pub fn run(args: &RaftArgs, printer: &Printer) -> anyhow::Result<End> {
    let resolved = resolve::resolve(&args.config.config, &args.config.set.set)?;
    resolved.raft.validate()?;
    let questions = read_questions(&args.questions)?;
    let is_questions = |path: &Path| same_file(&args.questions, path);
    if is_questions(&args.out) {
        return Err(Failure::error(
            format!("--out {} is the file of the questions", args.out.display()),
            "name another file for the rows",
        ));
    }
    if is_questions(&resolved.eval.questions) {
        printer.warning(&format!(
            "{} is eval.questions: what is trained on these rows has seen the answers it will be asked for",
            args.questions.display()
        ));
    }
    let device = device::checked(&resolved.settings.device, printer)?.device;
    let opened = Opened::to_answer(&resolved.rag, &device, printer)?;
    let precision = Precision::resolve(resolved.settings.model.dtype, resolved.settings.model.quantize, &device)?;
    let wanted = Wanted::of(&resolved.settings, &resolved.eval, &[Weights::Base]);
    let models = Models::load(&wanted, &device, precision, printer)?;
    let prompts = PromptBuilder::new(&resolved.rag, &models.codec().special_tokens());
    let library = opened.library()?;
    let mut console = Console::new(printer);
    console.on(Event::Phase {
        name: "making rows",
        total: questions.len(),
    });
    let made = rows(&resolved.raft, &questions, &library, &prompts, &models, &mut |done| {
        console.on(Event::Progress { done })
    });
    console.finish();
    let made = made?;
    if made.rows.is_empty() {
        let reasons: Vec<String> = made
            .skipped
            .iter()
            .take(5)
            .map(|(id, why)| format!("  {id}: {why}"))
            .collect();
        return Err(Failure::error(
            format!(
                "no question of {} made a row:\n{}",
                args.questions.display(),
                reasons.join("\n")
            ),
            "questions need `answers` and `gold`, the gold documents an index, and the prompts room: fewer raft.distractors",
        ));
    }
    let mut text = String::new();
    for row in &made.rows {
        text += &serde_json::to_string(row)?;
        text.push('\n');
    }
    staging::write_file(&args.out, text.as_bytes())?;
    let counts: Vec<String> = made
        .counts
        .iter()
        .map(|(kind, n)| format!("{n} {}", kind.label()))
        .collect();
    printer.row(
        "rows",
        &format!("{} in {}: {}", made.rows.len(), args.out.display(), counts.join(", ")),
    );
    let mut skipped: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, why) in &made.skipped {
        *skipped.entry(why).or_default() += 1;
    }
    for (why, n) in skipped {
        printer.row("skipped", &format!("{}: {why}", plural(n, "row")));
    }
    Ok(End::Done)
}

/// By whatever names.
fn same_file(one: &Path, other: &Path) -> bool {
    let real = |path| fs_err::canonicalize(path).ok();
    real(one).is_some_and(|one| real(other) == Some(one))
}
