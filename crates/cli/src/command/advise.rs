//! `tune advise`: prompting, RAG, fine-tuning or both, with reasons and the next commands.
use crate::args::Advise;
use crate::printer::{Printer, shell_word};
use crate::resolve::{Resolved, resolve};
use crate::{End, errors::Failure};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tune_rag::advise::{Advice, Change, Dates, Limits, Names, Task, advise, advise_from, run_of};
use tune_rag::ingest::sources;
use tune_rag::results::Results;

pub fn run(args: &Advise, printer: &Printer) -> anyhow::Result<End> {
    let advice = match report(&args.config_or_report)? {
        Some(file) => from_report(&file, args)?,
        None => from_config(args, printer)?,
    };
    if args.json {
        printer.data(&serde_json::to_string(&advice)?)?;
    } else {
        tell(&advice, printer)?;
    }
    Ok(End::Done)
}

/// The results at `path`, unless that is a config.
fn report(path: &Path) -> anyhow::Result<Option<PathBuf>> {
    let has = |end: &str| path.extension().is_some_and(|extension| extension == end);
    let file = if path.is_dir() {
        path.join("results.json")
    } else {
        path.to_path_buf()
    };
    if path.is_dir() && !file.is_file() || has("html") || has("md") {
        return Err(Failure::error(
            format!("{} holds no results to read", path.display()),
            "give the folder or results.json that `tune eval` wrote, or a config",
        ));
    }
    Ok((path.is_dir() || has("json")).then_some(file))
}

fn from_report(file: &Path, args: &Advise) -> anyhow::Result<Advice> {
    let given = [(args.ask, "--ask"), (!args.set.set.is_empty(), "--set")];
    if let Some((_, flag)) = given.iter().find(|(given, _)| *given) {
        return Err(Failure::error(
            format!("{flag} changes nothing of what was measured in {}", file.display()),
            format!("leave {flag} out, or give the config"),
        ));
    }
    let results = Results::read(file)?;
    let config = &results.facts.config;
    let known = match config.is_file() {
        true => Some(resolve(config, &[])?),
        false => None,
    };
    let (task, names) = match &known {
        Some(resolved) => (resolved.advise.clone(), names(config, resolved)),
        None => (Task::default(), Names::default()),
    };
    let task = limited(task, args)?;
    let limits = Limits {
        latency_seconds: task.latency_seconds,
        budget_per_1000: task.budget_per_1000,
    };
    Ok(advise_from(&results, &limits, &names))
}

fn from_config(args: &Advise, printer: &Printer) -> anyhow::Result<Advice> {
    let config = &args.config_or_report;
    let resolved = resolve(config, &args.set.set)?;
    let task = limited(counted(&resolved), args)?;
    let dates = dates(&resolved);
    let task = match args.ask {
        true => ask(task, dates, printer)?,
        false => task,
    };
    Ok(advise(&task, dates, &resolved.eval.rates, &names(config, &resolved)))
}

fn names(config: &Path, resolved: &Resolved) -> Names {
    let word = |path: &Path| shell_word(&path.display().to_string());
    let given = |path: &Path| !path.as_os_str().is_empty();
    let (hybrid, log) = (&resolved.eval.hybrid_adapter, &resolved.log.path);
    Names {
        config: word(config),
        hybrid_run: given(hybrid).then(|| word(&run_of(hybrid))),
        log: if given(log) { word(log) } else { Names::default().log },
    }
}

/// With the limits that were typed, all of which can be kept.
fn limited(mut task: Task, args: &Advise) -> anyhow::Result<Task> {
    task.latency_seconds = args.latency.unwrap_or(task.latency_seconds);
    task.budget_per_1000 = args.budget.unwrap_or(task.budget_per_1000);
    let limits = [
        ("latency_seconds", task.latency_seconds, "--latency SECONDS"),
        ("budget_per_1000", task.budget_per_1000, "--budget PRICE"),
    ];
    for (key, limit, flag) in limits {
        if !(limit >= 0.0 && limit.is_finite()) {
            return Err(Failure::error(
                format!("advise.{key}: found {limit}, wanted 0 or more"),
                format!("change it in the config file, or give {flag}"),
            ));
        }
    }
    Ok(task)
}

/// `[advise]`, with what can be counted counted where the config does not say.
fn counted(resolved: &Resolved) -> Task {
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
    task
}

fn dates(resolved: &Resolved) -> Option<Dates> {
    let (found, _) = sources(&resolved.rag.documents).ok()?;
    let changed = found
        .iter()
        .filter_map(|source| source.path.metadata().ok()?.modified().ok());
    Dates::of(&changed.collect::<Vec<_>>(), SystemTime::now())
}

fn tell(advice: &Advice, printer: &Printer) -> anyhow::Result<()> {
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
    let next: String = advice.next.iter().map(|command| format!("\n  {command}")).collect();
    printer.data(&format!(
        "{}\n{}{}\nnext:{next}",
        style.bold(&advice.headline),
        list("because", &advice.reasons),
        list("mind", &advice.cautions),
    ))?;
    Ok(())
}

/// The decision tree's questions, what is known already offered as the answer.
fn ask(known: Task, dates: Option<Dates>, printer: &Printer) -> anyhow::Result<Task> {
    const CHANGE: &str = "How often do those facts change: never, yearly, monthly, weekly, daily?";
    let questions = Questions { printer };
    let own_facts = questions.yes("Do answers need facts the base model cannot know?", known.own_facts)?;
    let offered = match (known.change, dates) {
        (Change::Auto, Some(dates)) => dates.change(),
        (Change::Auto, None) => Change::Monthly,
        (told, _) => told,
    };
    let change = match own_facts {
        true => questions.choice(
            CHANGE,
            &Change::KNOWN.map(|change| (change.name(), change)),
            offered.name(),
        )?,
        false => known.change,
    };
    Ok(Task {
        own_facts,
        // By the dates, where nobody knew better.
        change: if change == offered && dates.is_some() {
            known.change
        } else {
            change
        },
        must_cite: questions.yes("Must answers name their sources?", known.must_cite)?,
        own_form: questions.yes(
            "Is a tone or format needed that prompting does not bring?",
            known.own_form,
        )?,
        can_train: questions.yes("Can you train, on a GPU or for hours on a CPU?", known.can_train)?,
        ..known
    })
}

struct Questions<'a> {
    printer: &'a Printer,
}

impl Questions<'_> {
    fn yes(&self, question: &str, offered: bool) -> anyhow::Result<bool> {
        let all = [("yes", true), ("no", false), ("y", true), ("n", false)];
        self.choice(question, &all, if offered { "yes" } else { "no" })
    }

    /// Asks until one of them is given; an empty line and the end of the input are what is offered.
    fn choice<T: Copy>(&self, question: &str, all: &[(&str, T)], offered: &str) -> anyhow::Result<T> {
        let stdin = std::io::stdin();
        loop {
            self.printer.ask(&format!("{question} [{offered}] "));
            let mut line = String::new();
            stdin.read_line(&mut line)?;
            if !stdin.is_terminal() {
                self.printer.talk("");
            }
            let given = match line.trim() {
                "" => offered.to_string(),
                text => text.to_lowercase(),
            };
            if let Some((_, value)) = all.iter().find(|(name, _)| *name == given) {
                return Ok(*value);
            }
            let names: Vec<&str> = all
                .iter()
                .map(|(name, _)| *name)
                .filter(|name| name.len() > 1)
                .collect();
            self.printer.talk(&format!("`{given}` is none of {}", names.join(", ")));
        }
    }
}
