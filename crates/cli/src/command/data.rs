//! `tune data check|show|stats`: what a run would be trained on, seen before it is.
use crate::args::{Data, DataInput};
use crate::command::{answering, raft};
use crate::errors::Failure;
use crate::printer::{Printer, Style, plural};
use crate::{End, environment, resolve};
use tune_data::summary::summarize;
use tune_data::{Batch, Codec, DataSpec, Sample, TooLong};
use tune_model::Checkpoint;
use tune_trainer::settings::Settings;

pub fn run(args: &Data, printer: &Printer) -> anyhow::Result<End> {
    match args {
        Data::Raft(args) => raft::run(args, printer),
        Data::Check(input) => check(input, printer),
        Data::Show { input, rows } => show(input, *rows, printer),
        Data::Stats(input) => stats(input, printer),
    }
}

fn check(input: &DataInput, printer: &Printer) -> anyhow::Result<End> {
    let (spec, codec) = open(input, printer)?;
    if codec.is_none() {
        printer.talk("no base model is named, so tokens are not counted: add --base");
    }
    let summary = summarize(&spec, codec.as_ref())?;
    printer.stream(&summary.to_string())?;
    Ok(if summary.faults() > 0 { End::Faults } else { End::Done })
}

fn stats(input: &DataInput, printer: &Printer) -> anyhow::Result<End> {
    let (spec, codec) = open(input, printer)?;
    let summary = summarize(&spec, codec.as_ref())?;
    printer.data(&serde_json::to_string_pretty(&summary)?)?;
    Ok(if summary.faults() > 0 { End::Faults } else { End::Done })
}

fn show(input: &DataInput, rows: usize, printer: &Printer) -> anyhow::Result<End> {
    let (spec, codec) = open(input, printer)?;
    let codec = codec.ok_or_else(|| {
        Failure::error(
            "no base model is named: without its tokenizer there are no tokens to show",
            "add --base PATH_OR_ID",
        )
    })?;
    let mut samples = Vec::new();
    for source in &spec.train {
        let (_, records) = tune_data::corpus::records(&source.path, &spec)?;
        for record in records.iter().take(rows.saturating_sub(samples.len())) {
            samples.push(codec.encode_record(record, spec.learn)?);
        }
    }
    let style = printer.data_style;
    for sample in &samples {
        let learned = format!("{}, {} learned", plural(sample.tokens.len(), "token"), sample.learned());
        printer.data(&style.bold(&format!("{} ({learned})", sample.origin)))?;
        printer.data(&format!("{}\n", painted(sample, &codec, style)))?;
    }
    let packed = tune_data::pack::pack(&samples, spec.max_length, spec.packing, TooLong::Cut)?;
    if let Some(row) = packed.rows.first() {
        printer.data(&style.bold(&format!("a row of at most {} tokens, as packed", spec.max_length)))?;
        let picture = Batch::new(&[row], &samples)?.picture(&|token| codec.decode(&[token], false));
        printer.stream(&picture)?;
    }
    Ok(End::Done)
}

/// The sample's text, its learned tokens green, or between ⟦ and ⟧ where there are no colours.
fn painted(sample: &Sample, codec: &Codec, style: Style) -> String {
    let mut text = String::new();
    let mut start = 0;
    for run in sample.learn.chunk_by(|a, b| a == b) {
        let end = start + run.len();
        let part = codec.decode(&sample.tokens[start..end], false);
        text += &match (run[0], style.on) {
            (false, _) => part,
            (true, true) => style.green(&part),
            (true, false) => format!("⟦{part}⟧"),
        };
        start = end;
    }
    text
}

/// A config's data with its base's tokenizer; or one data file, with the tokenizer of `--base` if there is one.
fn open(input: &DataInput, printer: &Printer) -> anyhow::Result<(DataSpec, Option<Codec>)> {
    let mut set = input.set.set.clone();
    set.extend(input.base.iter().map(|base| format!("model.base={base}")));
    let is_config = input.input.extension().is_some_and(|extension| extension == "toml");
    let resolved = if is_config {
        resolve::resolve(&input.input, &set)?
    } else {
        resolve::data_file(&input.input, &set)?
    };
    let settings = resolved.settings;
    Ok((settings.data_spec(), tokenizer(&settings, printer)?))
}

fn tokenizer(settings: &Settings, printer: &Printer) -> anyhow::Result<Option<Codec>> {
    let model = &settings.model;
    if model.base.is_empty() {
        return Ok(None);
    }
    let hub = environment::hub(Some(&model.revision), model.offline, printer.live && !printer.quiet);
    let base = Checkpoint::open(&model.base, &hub)?;
    let template = Some(model.chat_template.as_path()).filter(|path| !path.as_os_str().is_empty());
    answering::codec(&base, template).map(Some)
}
