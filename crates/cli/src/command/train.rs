//! `tune train`: settings to a run, and what to do with it.
use crate::args::{Kind, Train};
use crate::interrupt::STOP;
use crate::printer::{Printer, bytes, duration, shell_word};
use crate::watch::{Console, plan_table};
use crate::{End, device, environment, interrupt, kernels, resolve};
use std::time::Instant;
use tune_trainer::settings::Settings;
use tune_trainer::train::{Ended, Outcome, Start};

pub fn run(args: &Train, printer: &Printer, started: Instant) -> anyhow::Result<End> {
    args.ops.apply()?;
    let resolved = resolve::resolve(&args.config.config, &args.config.set.set)?;
    let settings = &resolved.settings;
    let planned_for = args.planned_for.or(asked_kind(settings, args)).map(Into::into);
    let chosen = match planned_for {
        Some(kind) => device::absent(kind),
        None => device::choose(&settings.device)?,
    };
    let start = Start {
        settings,
        resume: args.resume.as_deref(),
        force: args.force,
        cache: environment::token_cache().filter(|_| settings.data.cache),
        hub: environment::hub(
            Some(&settings.model.revision),
            settings.model.offline,
            printer.live && !printer.quiet,
        ),
        device: chosen.device,
        device_why: chosen.why,
        memory: args.memory,
        planned_for,
        stop: &STOP,
        started,
    };
    let mut console = Console::new(printer);
    if args.dry_run {
        let planned = tune_trainer::train::dry_run(&start, &mut console);
        console.finish();
        let plan = planned?;
        printer.data(&plan_table(&printer.data_style, &plan))?;
        plan.warnings.iter().for_each(|warning| printer.warning(warning));
        return Ok(End::Done);
    }
    let again = printer.clone();
    kernels::check(&start.device, printer);
    interrupt::install(move || again.talk("\nsaving and stopping; Ctrl-C again stops at once"))?;
    let ended = tune_trainer::train::train(&start, &mut console);
    console.finish();
    let outcome = ended?;
    tell(&outcome, args, printer);
    Ok(if outcome.ended == Ended::Stopped {
        End::Interrupted
    } else {
        End::Done
    })
}

/// A dry run with a given amount of memory needs no GPU to plan for one that the settings name.
fn asked_kind(settings: &Settings, args: &Train) -> Option<Kind> {
    (args.dry_run && args.memory.is_some() && settings.device.starts_with("cuda")).then_some(Kind::Cuda)
}

/// Where everything is, and the next commands.
fn tell(outcome: &Outcome, args: &Train, printer: &Printer) {
    let how = match outcome.ended {
        Ended::Finished => "finished",
        Ended::Stopped => "stopped",
        Ended::EarlyStopped => "stopped early: no improvement",
    };
    let dir = outcome.dir.display().to_string();
    let word = shell_word(&dir);
    let (steps, seconds) = (outcome.steps, duration(outcome.seconds));
    printer.talk(&format!(
        "\n{} after {steps} steps in {seconds}",
        printer.style.bold(how)
    ));
    if let Some((step, best)) = outcome.best_eval {
        let before = outcome
            .first_eval
            .map(|first| format!("{first:.4} before, "))
            .unwrap_or_default();
        printer.row("eval loss", &format!("{before}{best:.4} at best (step {step})"));
    }
    let memory = outcome.memory;
    if let Some(measured) = memory.measured {
        let off = 100.0 * (memory.planned as f64 / measured.max(1) as f64 - 1.0);
        printer.row(
            "memory",
            &format!(
                "{} planned, {} at its peak ({off:+.0} %)",
                bytes(memory.planned),
                bytes(measured)
            ),
        );
    }
    printer.row("adapter", &format!("{dir}/adapter"));
    let curves = ["loss.svg", "metrics.jsonl", "tensorboard"].map(|name| outcome.dir.join(name));
    let curves = curves.iter().filter(|path| path.exists());
    let curves: Vec<_> = curves.map(|path| path.display().to_string()).collect();
    printer.row("curve", &curves.join(", "));
    printer.row("checkpoints", &format!("{dir}/checkpoints"));
    printer.talk("\nnext:");
    if outcome.ended == Ended::Stopped {
        let config = shell_word(&args.config.config.display().to_string());
        let set: String = args
            .config
            .set
            .set
            .iter()
            .map(|set| format!(" --set {}", shell_word(set)))
            .collect();
        printer.talk(&format!("  tune train {config}{set} --resume {word}"));
    }
    printer.talk(&format!("  tune chat --adapter {word}"));
    printer.talk(&format!(
        "  tune export {word} --merged {} --verify",
        shell_word(&format!("{dir}/merged"))
    ));
}
