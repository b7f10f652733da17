//! `tune eval`: the arms of a config on its questions, and a verdict with an exit code.
use crate::answerer::{Models, Wanted};
use crate::args::Eval as Args;
use crate::command::doctor::machine;
use crate::command::index::costs;
use crate::errors::Failure;
use crate::library::Opened;
use crate::printer::{Printer, duration, row};
use crate::resolve::Resolved;
use crate::watch::Console;
use crate::{End, device, environment, errors, interrupt, resolve};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tune_data::{Learn, Record};
use tune_model::Precision;
use tune_rag::eval::arm::Context;
use tune_rag::eval::cost::Facts;
use tune_rag::eval::library::Indexed;
use tune_rag::eval::settings::Eval;
use tune_rag::eval::{Inputs, Library, Progress, TrainingText, evaluate};
use tune_rag::judge::{Ask, HttpJudge};
use tune_rag::question::read_questions;
use tune_rag::results::Results;
use tune_rag::store::Store;
use tune_rag::{Embedder, PromptBuilder, Weights, report};
use tune_trainer::watch::{Event, Watch};

pub fn run(args: &Args, printer: &Printer) -> anyhow::Result<End> {
    match (&args.config, &args.report) {
        (_, Some(folder)) => render(folder, printer),
        (Some(config), None) => measure(config, &args.set.set, printer),
        (None, None) => Err(Failure::error("no config", "name one, or give --report DIR")),
    }
}

/// The pages again, from what was measured.
fn render(folder: &Path, printer: &Printer) -> anyhow::Result<End> {
    let results = Results::read(&folder.join("results.json"))?;
    report::render(&results, folder)?;
    told(&results, folder, printer)
}

fn measure(config: &Path, set: &[String], printer: &Printer) -> anyhow::Result<End> {
    let resolved = resolve::resolve(config, set)?;
    let (settings, eval) = (&resolved.settings, &resolved.eval);
    eval.validate()?;
    let questions = read_questions(&eval.questions)?;
    let key = environment::named(&eval.judge.key_variable);
    if !eval.judge.url.is_empty() && !eval.judge.key_variable.is_empty() && key.is_none() {
        let name = &eval.judge.key_variable;
        printer.warning(&format!(
            "eval.judge.key_variable = {name:?}: there is no such variable, or it is empty"
        ));
    }
    interrupt::ends(printer)?;
    let chosen = device::checked(&settings.device, printer)?;
    let needs_index = eval.chosen().iter().any(|arm| arm.context != Context::None);
    let opened = (needs_index && !resolved.rag.documents.is_empty())
        .then(|| Opened::open(&resolved.rag, &chosen.device, false, printer))
        .transpose()?;
    let precision = Precision::resolve(settings.model.dtype, settings.model.quantize, &chosen.device)?;
    let wanted = Wanted::of(settings, eval, &chosen_weights(eval));
    let mut models = Models::load(&wanted, &chosen.device, precision, printer)?;
    let prompts = PromptBuilder::new(&resolved.rag, &models.codec().special_tokens());
    let library = opened.as_ref().map(Opened::library).transpose()?;
    let training = training_texts(&resolved);
    let mut judge = (!eval.judge.url.is_empty()).then(|| HttpJudge::new(&eval.judge, key));

    let mut console = Console::new(printer);
    let mut phase = String::new();
    let results = evaluate(
        Inputs {
            settings: eval,
            questions: &questions,
            prompts: &prompts,
            answerer: &mut models,
            library: library.as_ref().map(|library| library as _),
            embedder: opened.as_ref().map(|opened| &opened.embedder as &dyn Embedder),
            training: &training,
            judge: judge.as_mut().map(|judge| judge as &mut dyn Ask),
            facts: Facts {
                config: config.to_path_buf(),
                retriever: library.as_ref().and_then(used).unwrap_or_default(),
                ..facts(
                    &resolved,
                    machine(&chosen.why),
                    &training,
                    opened.as_ref().map(|opened| &*opened.store),
                )?
            },
        },
        &mut |progress| match progress {
            Progress::Warning(text) => {
                console.finish();
                printer.warning(&text);
            }
            progress => show(&mut console, &mut phase, progress),
        },
    );
    console.finish();
    let results = results?;
    report::write(&results, &eval.output)?;
    told(&results, &eval.output, printer)
}

/// The exit code is the verdict whether or not somebody reads on.
fn told(results: &Results, output: &Path, printer: &Printer) -> anyhow::Result<End> {
    match tell(results, output, printer) {
        Err(error) if !errors::is_broken_pipe(&error) => Err(error),
        _ => Ok(End::Verdict(results.verdict.exit_code())),
    }
}

/// The retriever of the prompts; the others are measured beside it.
fn used(library: &Indexed) -> Option<String> {
    library.retrievers().into_iter().next()
}

fn show(console: &mut Console, phase: &mut String, progress: Progress) {
    let (name, done, of) = match progress {
        Progress::Warning(_) => return,
        Progress::Retrieving { done, of } => ("retrieving".to_string(), done, of),
        Progress::Answering { arm, done, of, .. } => (format!("answering, {}", arm.name()), done, of),
        Progress::Weighing { arm, done, of } => (format!("perplexity, {}", arm.name()), done, of),
        Progress::Embedding { texts } => ("comparing meanings".to_string(), 0, texts),
        Progress::Judging { done, of } => ("judging".to_string(), done, of),
    };
    if name != *phase {
        console.on(Event::Phase { name: &name, total: of });
        *phase = name;
    }
    console.on(Event::Progress { done });
}

fn tell(results: &Results, output: &Path, printer: &Printer) -> anyhow::Result<()> {
    let style = &printer.data_style;
    let metric = results.settings.metric;
    printer.data(&style.bold(&results.verdict.line))?;
    for note in &results.verdict.notes {
        printer.data(note)?;
    }
    printer.data("")?;
    for summary in &results.arms {
        let scored = summary.scores.get(&metric).map_or("not measured".into(), |score| {
            let [mean, low, high] = [score.mean, score.low, score.high].map(|share| format!("{:.1}", 100.0 * share));
            format!("{mean} % {} [{low}, {high}]", metric.label())
        });
        // Times are of the batch an answer came in.
        let together = results.settings.batch_size.min(summary.answered).max(1);
        let time = summary.cost.total.map_or(String::new(), |total| {
            let each = duration(total.p50 / together as f64);
            format!(", {each} an answer, {together} at once")
        });
        printer.data(&row(style, &summary.arm.to_string(), &format!("{scored}{time}")))?;
    }
    printer.talk("");
    printer.row("report", &output.join("report.html").display().to_string());
    printer.row("numbers", &output.join("results.json").display().to_string());
    Ok(())
}

/// Of the arms to ask.
fn chosen_weights(eval: &Eval) -> Vec<Weights> {
    eval.chosen().iter().map(|arm| arm.weights).collect()
}

/// Those the config names, of the arms to ask.
fn adapters(resolved: &Resolved) -> impl Iterator<Item = (Weights, &PathBuf)> {
    let (eval, chosen) = (&resolved.eval, chosen_weights(&resolved.eval));
    let named = [(Weights::Tuned, &eval.adapter), (Weights::Hybrid, &eval.hybrid_adapter)];
    named
        .into_iter()
        .filter(move |(weights, adapter)| chosen.contains(weights) && !adapter.as_os_str().is_empty())
}

/// What the adapters were trained on, as far as their run folders tell: to find questions that training gives away.
fn training_texts(resolved: &Resolved) -> Vec<TrainingText> {
    let spec = resolved.settings.data_spec();
    let mut texts = Vec::new();
    for (weights, adapter) in adapters(resolved) {
        for file in run_config(adapter).map(|config| config.files).unwrap_or_default() {
            let Ok((_, records)) = tune_data::corpus::records(&file, &spec) else {
                continue;
            };
            texts.extend(records.into_iter().map(|record: Record| TrainingText {
                weights,
                origin: record.origin.to_string(),
                taught: taught(&record, spec.learn),
                text: record.plain_text(),
            }));
        }
    }
    texts
}

fn taught(record: &Record, learn: Learn) -> String {
    if learn == Learn::All || record.messages().is_empty() {
        return record.plain_text();
    }
    let answers = record.messages().iter().filter(|message| message.role == "assistant");
    let before = match learn {
        Learn::LastTurn => answers.clone().count().saturating_sub(1),
        Learn::Assistant | Learn::All => 0,
    };
    let learned = answers.skip(before).filter(|message| message.weight != 0.0);
    let learned: Vec<&str> = learned.map(|message| message.content.as_str()).collect();
    learned.join("\n")
}

/// What a run left about itself in its folder; `adapter` is that folder or one in it.
struct RunConfig {
    files: Vec<PathBuf>,
    folder: PathBuf,
}

fn run_config(adapter: &Path) -> Option<RunConfig> {
    let is_run = |folder: &&Path| {
        ["config.toml", "state.json"]
            .iter()
            .all(|file| folder.join(file).is_file())
    };
    let folder = [Some(adapter), adapter.parent()].into_iter().flatten().find(is_run)?;
    let table: toml::Table = fs_err::read_to_string(folder.join("config.toml")).ok()?.parse().ok()?;
    let files = table.get("data")?.get("train")?.as_array()?;
    let path = |file: &toml::Value| Some(PathBuf::from(file.as_str().or(file.get("path")?.as_str())?));
    Some(RunConfig {
        files: files
            .iter()
            .filter_map(|file| file.as_str().map(PathBuf::from).or_else(|| path(file)))
            .collect(),
        folder: folder.to_path_buf(),
    })
}

fn facts(
    resolved: &Resolved,
    machine: String,
    training: &[TrainingText],
    store: Option<&dyn Store>,
) -> anyhow::Result<Facts> {
    let records = store.map(Store::records).transpose()?;
    let index = store.and_then(|_| costs(&resolved.rag));
    let mut facts = Facts {
        title: format!(
            "{} on {}",
            resolved.eval.questions.display(),
            resolved.settings.model.base
        ),
        machine,
        base: resolved.settings.model.base.clone(),
        documents: records.map(|records| records.iter().filter(|record| record.skipped.is_none()).count()),
        chunks: store.map(Store::count).transpose()?,
        index_seconds: index.as_ref().and_then(|index| index.seconds),
        index_bytes: store.map(Store::bytes).transpose()?.flatten(),
        reindex: index.and_then(|index| index.reindex),
        ..Facts::default()
    };
    for (weights, adapter) in adapters(resolved) {
        let rows = training.iter().filter(|text| text.weights == weights).count();
        if rows > 0 {
            facts.training_rows.insert(weights, rows);
        }
        let size = [adapter.clone(), adapter.join("adapter")]
            .iter()
            .find_map(|dir| Some(dir.join("adapter_model.safetensors").metadata().ok()?.len()));
        facts.adapter_bytes.extend(size.map(|size| (weights, size)));
        let seconds = run_config(adapter).and_then(|config| training_seconds(&config.folder));
        facts.training_seconds.extend(seconds.map(|seconds| (weights, seconds)));
    }
    Ok(facts)
}

/// Tokens over tokens a second, summed over the steps of a run.
fn training_seconds(run: &Path) -> Option<f64> {
    let text = fs_err::read_to_string(run.join("metrics.jsonl")).ok()?;
    let rows: Vec<BTreeMap<String, Value>> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let steps = rows
        .iter()
        .filter_map(|row| Some((row.get("tokens")?.as_f64()?, row.get("tokens_per_second")?.as_f64()?)));
    let (mut before, mut seconds) = (0.0, 0.0);
    for (tokens, speed) in steps {
        seconds += (tokens - before) / speed.max(1e-9);
        before = tokens;
    }
    (seconds > 0.0).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tune_data::record::Body;
    use tune_data::{Message, Origin};

    #[test]
    fn a_row_teaches_what_is_learned_of_it() {
        let turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")];
        let mut messages = turns.map(|(role, text)| Message::new(role, text)).to_vec();
        let row = |body| Record {
            origin: Origin {
                file: "rows.jsonl".into(),
                line: 1,
            },
            body,
            tools: None,
        };
        let chat = row(Body::Chat(messages.clone()));
        assert_eq!(taught(&chat, Learn::Assistant), "b\nd");
        assert_eq!(taught(&chat, Learn::LastTurn), "d");
        assert_eq!(taught(&chat, Learn::All), "a\nb\nc\nd");
        messages[3].weight = 0.0;
        let chat = row(Body::Chat(messages));
        assert_eq!(taught(&chat, Learn::Assistant), "b");
        assert_eq!(taught(&chat, Learn::LastTurn), "");
        assert_eq!(
            taught(&row(Body::Text("all of it".into())), Learn::Assistant),
            "all of it"
        );
    }
}
