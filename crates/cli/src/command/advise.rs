//! `tune advise`: prompting, RAG, fine-tuning or both, with reasons and the next commands.
use crate::args::Advise;
use crate::config::Config;
use crate::printer::Printer;
use crate::resolve::{Resolved, resolve};
use crate::{End, errors::Failure};
use std::io::{BufRead, Write};
use std::path::Path;
use tune_rag::advise::{Advice, Change, Task, advise, advise_from};
use tune_rag::ingest::sources;
use tune_rag::results::Results;

pub fn run(args: &Advise, printer: &Printer) -> anyhow::Result<End> {
    let path = &args.config_or_report;
    let report = [path.clone(), path.join("results.json")]
        .into_iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "json") && path.is_file());
    let (advice, config) = match report {
        Some(report) => (advise_from(&Results::read(&report)?, args.latency.unwrap_or(0.0)), None),
        None => {
            let resolved = resolve(path, &args.set.set)?;
            let latency = resolved.advise.latency_seconds;
            if !(latency >= 0.0 && latency.is_finite()) {
                return Err(Failure::error(
                    format!("advise.latency_seconds: found {latency}, wanted 0 or more"),
                    "change it in the config file, or give --latency SECONDS",
                ));
            }
            let mut task = facts(&resolved, args.latency);
            if args.ask {
                task = ask(task, printer)?;
            }
            (advise(&task), Some(path.as_path()))
        }
    };
    if args.json {
        printer.data(&serde_json::to_string(&advice)?)?;
    } else {
        tell(&advice, config, printer)?;
    }
    Ok(End::Done)
}

/// `[advise]`, with what can be counted counted where the config does not say.
fn facts(resolved: &Resolved, latency: Option<f64>) -> Task {
    let mut task = resolved.advise.clone();
    if task.documents == 0 {
        task.documents = sources(&resolved.rag.documents).map_or(0, |(found, _)| found.len());
    }
    if task.examples == 0 {
        let spec = resolved.settings.data_spec();
        let rows = spec
            .train
            .iter()
            .filter_map(|file| tune_data::corpus::records(&file.path, &spec).ok());
        task.examples = rows.map(|(_, records)| records.len()).sum();
    }
    if let Some(latency) = latency {
        task.latency_seconds = latency;
    }
    task
}

fn tell(advice: &Advice, config: Option<&Path>, printer: &Printer) -> anyhow::Result<()> {
    let style = &printer.data_style;
    let list = |title: &str, lines: &[String]| match lines.is_empty() {
        true => String::new(),
        false => format!(
            "\n{title}\n{}\n",
            lines
                .iter()
                .map(|line| format!("  - {line}"))
                .collect::<Vec<_>>()
                .join("\n")
        ),
    };
    let named = |command: &String| match config {
        Some(config) => command.replace("CONFIG", &config.display().to_string()),
        None => command.clone(),
    };
    let next: String = advice
        .next
        .iter()
        .map(|command| format!("\n  {}", named(command)))
        .collect();
    printer.data(&format!(
        "{}\n{}{}\nnext:{next}",
        style.bold(&advice.headline),
        list("because", &advice.reasons),
        list("mind", &advice.cautions),
    ))?;
    Ok(())
}

/// The decision tree's questions, what is known already offered as the answer.
fn ask(known: Task, printer: &Printer) -> anyhow::Result<Task> {
    let mut lines = std::io::stdin().lock().lines();
    let mut answer = |question: &str, offered: &str| -> anyhow::Result<String> {
        printer.ask(&format!("{question} [{offered}] "));
        std::io::stderr().flush()?;
        let line = lines.next().transpose()?.unwrap_or_default();
        Ok(match line.trim() {
            "" => offered.to_string(),
            text => text.to_lowercase(),
        })
    };
    let word = |yes: bool| if yes { "yes" } else { "no" };
    let is_yes = |text: String| text.starts_with('y');
    let own_facts = is_yes(answer(
        "Do answers need facts the base model cannot know?",
        word(known.own_facts),
    )?);
    let change = match own_facts {
        true => change(&answer(
            "How often do those facts change: never, yearly, monthly, weekly, daily?",
            name(known.change),
        )?)?,
        false => known.change,
    };
    Ok(Task {
        own_facts,
        change,
        must_cite: is_yes(answer("Must answers name their sources?", word(known.must_cite))?),
        own_form: is_yes(answer(
            "Is a tone or format needed that prompting does not bring?",
            word(known.own_form),
        )?),
        can_train: is_yes(answer(
            "Can you train, on a GPU or for hours on a CPU?",
            word(known.can_train),
        )?),
        ..known
    })
}

fn name(change: Change) -> &'static str {
    match change {
        Change::Never => "never",
        Change::Yearly => "yearly",
        Change::Monthly => "monthly",
        Change::Weekly => "weekly",
        Change::Daily => "daily",
    }
}

fn change(text: &str) -> anyhow::Result<Change> {
    let all = [
        Change::Never,
        Change::Yearly,
        Change::Monthly,
        Change::Weekly,
        Change::Daily,
    ];
    all.into_iter().find(|change| name(*change) == text).ok_or_else(|| {
        Failure::error(
            format!("`{text}` is none of never, yearly, monthly, weekly, daily"),
            format!(
                "`tune advise` can also be told in the config: [advise] change = \"{}\"",
                name(Config::default().advise.change)
            ),
        )
    })
}
