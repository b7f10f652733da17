//! `tune bench`: measures steps or decoding, and says it as a table and as JSON.
use crate::args::{Bench, Lengths, Shape, Synthetic};
use crate::device::Chosen;
use crate::errors::Failure;
use crate::printer::{Printer, Style, bytes, count, duration, plural, row};
use crate::watch::{Console, blocks, grouped};
use crate::{End, device, environment, interrupt, resolve, shapes};
use clap::ValueEnum;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;
use tune_data::Batch;
use tune_model::lora::LoraSpec;
use tune_model::ops::switch;
use tune_model::{Checkpoint, DeviceKind, Precision, noise, staging};
use tune_trainer::bench::{self, Decoding, DecodingReport, Planned, Spread, Steps, Subject, Training, TrainingReport};
use tune_trainer::optim::Options;
use tune_trainer::train::Start;

/// Beyond any machine.
const MOST_TOKENS: usize = 1 << 24;
const MOST_RANK: usize = 65_536;

pub fn run(args: &Bench, printer: &Printer, started: Instant) -> anyhow::Result<End> {
    args.ops.apply()?;
    if args.shape.is_some() && !args.set.set.is_empty() {
        return Err(Failure::error(
            "--set changes a config, and --shape has none",
            "`tune bench --help` lists what a shape is measured with",
        ));
    }
    let mut told = match (&args.config, args.shape) {
        (_, Some(shape)) => of_shape(args, shape, printer, started)?,
        (Some(config), None) => of_config(args, config, printer, started)?,
        // clap asks for one of the two.
        (None, None) => return Ok(End::Done),
    };
    let off = switch::reasons();
    for (name, why) in &off {
        printer.talk(&format!("kernel {name} is off: {why}"));
    }
    if let Some(path) = &args.json {
        told["off"] = json!(off);
        told["program"] = env!("CARGO_PKG_VERSION").into();
        staging::write_file(path, format!("{told:#}\n").as_bytes())?;
    }
    Ok(End::Done)
}

fn of_config(args: &Bench, config: &Path, printer: &Printer, started: Instant) -> anyhow::Result<Value> {
    let resolved = resolve::resolve(config, &args.set.set)?;
    let settings = &resolved.settings;
    let chosen = device::checked(args.device.as_deref().unwrap_or(&settings.device), printer)?;
    let start = Start {
        settings,
        resume: None,
        force: false,
        cache: environment::token_cache().filter(|_| settings.data.cache),
        hub: environment::hub(Some(&settings.model.revision), settings.model.offline, false),
        device: chosen.device.clone(),
        device_why: chosen.why.clone(),
        memory: None,
        planned_for: None,
        stop: &interrupt::STOP,
        started,
    };
    let mut console = Console::new(printer);
    let begun = bench::of_run(&start, steps(args), &mut console);
    console.finish();
    let (base, lora, precision, training) = begun?;
    let subject = Subject {
        base: &base,
        lora: &lora,
        device: &chosen.device,
        precision,
        started,
    };
    let report = measured(&subject, &training, &chosen, printer)?;
    Ok(json!({ "what": "train", "base": base.name, "precision": precision, "report": report }))
}

/// The plan before the steps, and what they were after them.
fn measured(
    subject: &Subject<'_>,
    training: &Training,
    chosen: &Chosen,
    printer: &Printer,
) -> anyhow::Result<TrainingReport> {
    let planned = bench::plan(subject, training, DeviceKind::of(subject.device))?;
    tell_plan(&planned, subject, chosen, printer)?;
    let report = bench::train(subject, training, planned)?;
    tell_training(&report, printer)?;
    Ok(report)
}

fn of_shape(args: &Bench, shape: Shape, printer: &Printer, started: Instant) -> anyhow::Result<Value> {
    let with = &args.synthetic;
    check(with, args.generate)?;
    let name = shape
        .to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_string());
    let kind = with.planned_for.map(Into::into);
    let chosen = match kind {
        Some(kind) => device::absent(kind),
        None => device::checked(args.device.as_deref().unwrap_or("auto"), printer)?,
    };
    let kind = kind.unwrap_or_else(|| DeviceKind::of(&chosen.device));
    let precision = Precision::resolve_for(with.dtype.into(), with.quantize.into(), kind)
        .map_err(|error| Failure::caused("no such precision here", "use --dtype auto", error))?;
    let config = shapes::config(shape);
    let base = Checkpoint::outline(&name, config.clone())?;
    let lora = LoraSpec::all_linears(with.lora);
    let subject = Subject {
        base: &base,
        lora: &lora,
        device: &chosen.device,
        precision,
        started,
    };
    let asked = json!({
        "shape": name, "config": config, "batch": with.batch, "seq": with.seq, "lora": with.lora,
        "precision": precision, "learned": with.learned,
    });
    let (what, report) = if args.generate {
        let decoding = Decoding {
            prompts: with.batch,
            prompt: with.seq,
            new: args.new_tokens,
            rounds: 3,
        };
        for line in head(&subject, &chosen, &printer.data_style) {
            printer.data(&line)?;
        }
        let report = bench::decode(&subject, decoding)?;
        tell_decoding(&report, printer)?;
        ("generate", json!(report))
    } else {
        let vocab = config["vocab_size"].as_u64().unwrap_or(1) as usize;
        let training = Training {
            window: window(with, vocab),
            optimizer: Options::of(&Default::default()),
            keep: with.keep_blocks,
            memory: with.memory,
            steps: steps(args),
        };
        if with.dry_run {
            let planned = bench::plan(&subject, &training, kind)?;
            tell_plan(&planned, &subject, &chosen, printer)?;
            ("plan", json!(planned))
        } else {
            ("train", json!(measured(&subject, &training, &chosen, printer)?))
        }
    };
    let mut told = json!({ "what": what, "report": report });
    if let (Some(told), Value::Object(asked)) = (told.as_object_mut(), asked) {
        told.extend(asked);
    }
    Ok(told)
}

/// Sizes that can be run.
fn check(with: &Synthetic, generates: bool) -> anyhow::Result<()> {
    let least = if generates { 1 } else { 2 };
    let longest = with.packed.or(with.padded).map_or(0, |lengths| lengths.high);
    let wrong = if with.seq < least {
        format!("--seq {}: wanted {least} or more", with.seq)
    } else if with.lora > MOST_RANK {
        format!("--lora {}: wanted {MOST_RANK} at most", with.lora)
    } else if longest > with.seq {
        format!(
            "documents of up to {longest} tokens in rows of {}: wanted --seq {longest} or more",
            with.seq
        )
    } else if with
        .batch
        .checked_mul(with.seq)
        .is_none_or(|tokens| tokens > MOST_TOKENS)
    {
        format!(
            "--batch {} --seq {}: wanted {MOST_TOKENS} tokens in all at most",
            with.batch, with.seq
        )
    } else {
        return Ok(());
    };
    Err(Failure::error(wrong, "`tune bench --help` has examples"))
}

fn steps(args: &Bench) -> Steps {
    Steps {
        warm_up: args.warm_up,
        measured: args.steps,
        by_op: args.by_op,
    }
}

/// The micro-batches of a step, of made-up tokens.
fn window(with: &Synthetic, vocab: usize) -> Vec<Batch> {
    let whole = Lengths {
        low: with.seq,
        high: with.seq,
    };
    let lengths = with.packed.or(with.padded).unwrap_or(whole);
    let rows = rows(with.batch, with.seq, lengths);
    match with.padded {
        None => vec![batch(rows.concat(), None, with.learned, vocab)],
        Some(padded) => {
            let room = (with.batch * with.seq / padded.high).max(1);
            let documents = rows.concat();
            let micro = documents.chunks(room);
            micro
                .map(|documents| batch(documents.to_vec(), Some(padded.high), with.learned, vocab))
                .collect()
        }
    }
}

/// Documents, `(number, length)`, as many as each row of `seq` tokens takes.
fn rows(rows: usize, seq: usize, lengths: Lengths) -> Vec<Vec<(u64, usize)>> {
    let mut next = 0;
    // Lengths of documents spread by orders of magnitude.
    let length = |number: u64| {
        let (low, high) = (lengths.low as f64, lengths.high as f64);
        ((low * (high / low).powf(noise::uniform(7, number))).round() as usize).min(seq)
    };
    let fill = |_| {
        let (mut row, mut room) = (Vec::new(), seq);
        while row.is_empty() || length(next) <= room {
            row.push((next, length(next)));
            room -= length(next);
            next += 1;
        }
        row
    };
    (0..rows).map(fill).collect()
}

/// `documents` one after the other, each in its own segment, filled up to `padded` tokens where that is given.
fn batch(documents: Vec<(u64, usize)>, padded: Option<usize>, learned: f64, vocab: usize) -> Batch {
    let mut batch = Batch {
        tokens: Vec::new(),
        positions: Vec::new(),
        learn: Vec::new(),
        starts: vec![0],
        origins: Vec::new(),
    };
    for (number, length) in documents {
        let full = padded.unwrap_or(length).max(length);
        let from = ((1.0 - learned) * length as f64) as usize;
        batch.tokens.extend(bench::tokens(number, full, vocab));
        batch.positions.extend(0..full as u32);
        batch
            .learn
            .extend((0..full).map(|i| (from.max(1)..length).contains(&i)));
        batch.starts.push(batch.tokens.len());
    }
    batch
}

fn rate(rate: &Spread) -> String {
    format!(
        "{} tokens/s (quartiles {} to {})",
        count(rate.median),
        count(rate.low),
        count(rate.high)
    )
}

fn head(subject: &Subject<'_>, chosen: &Chosen, style: &Style) -> [String; 2] {
    let precision = subject.precision;
    [
        style.bold(&subject.base.name),
        row(style, "device", &format!("{}, {:?}", chosen.why, precision.compute)),
    ]
}

fn tell_plan(planned: &Planned, subject: &Subject<'_>, chosen: &Chosen, printer: &Printer) -> anyhow::Result<()> {
    let style = &printer.data_style;
    for line in head(subject, chosen, style) {
        printer.data(&line)?;
    }
    let show = |name: &str, value: String| printer.data(&row(style, name, &value));
    let kept = blocks(planned.keep, planned.blocks, planned.host_bytes, planned.recorded_bytes);
    show("planned", format!("{}; {kept}", bytes(planned.bytes())))?;
    for part in planned.parts.iter().filter(|part| part.bytes > 0) {
        show("", format!("{:>10}  {}", bytes(part.bytes), part.name))?;
    }
    if let Some(longest) = planned.longest {
        let fits = match longest {
            0 => "not one token fits beside the weights".into(),
            longest => format!("a row of {} tokens fits", grouped(longest)),
        };
        show("length", fits)?;
    }
    Ok(())
}

fn tell_training(report: &TrainingReport, printer: &Printer) -> anyhow::Result<()> {
    let style = &printer.data_style;
    let show = |name: &str, value: String| printer.data(&row(style, name, &value));
    let step = format!(
        "{}, {} learned",
        plural(report.tokens_per_step, "token"),
        count(report.learned_per_step as f64)
    );
    show("step", step)?;
    show("speed", rate(&report.tokens_per_second))?;
    show(
        "learned",
        format!("{} tokens/s", count(report.learned_tokens_per_second)),
    )?;
    let floor = format!(
        "{:.0} % of what {}FLOP/s of products allow ({}FLOP a token)",
        100.0 * report.floor_share,
        count(report.peak_flops),
        count(report.floor_flops_per_token)
    );
    show("floor", floor)?;
    let of_plan = 100.0 * report.measured_bytes as f64 / report.planned_bytes.max(1) as f64;
    let memory = format!(
        "{} at most, {of_plan:.0} % of what was planned",
        bytes(report.measured_bytes)
    );
    show("memory", memory)?;
    let start = format!(
        "{} to the first step, which took {}",
        duration(report.seconds_to_first_step),
        duration(report.first_step_seconds)
    );
    show("start", start)?;
    show(
        "loss",
        format!("{:.4} at first, {:.4} at last", report.first_loss, report.last_loss),
    )?;
    if report.by_op.is_empty() {
        return Ok(());
    }
    let of_step = format!(
        "a step with every op waited for, {}",
        milliseconds(report.accounted_step_seconds)
    );
    show("by op", of_step)?;
    for op in &report.by_op {
        let share = 100.0 * op.seconds / report.accounted_step_seconds;
        let calls = if op.calls == 0 {
            String::new()
        } else {
            format!(" ({})", op.calls)
        };
        show(
            "",
            format!("{:>10} {share:>3.0} %  {}{calls}", milliseconds(op.seconds), op.name),
        )?;
    }
    Ok(())
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.1} ms", 1e3 * seconds)
}

fn tell_decoding(report: &DecodingReport, printer: &Printer) -> anyhow::Result<()> {
    let style = &printer.data_style;
    let show = |name: &str, value: String| printer.data(&row(style, name, &value));
    let (prompts, prompt, new) = (report.prompts, report.prompt_tokens, report.new_tokens);
    show(
        "decoding",
        format!(
            "{} of {prompt} tokens together, {new} new tokens each",
            plural(prompts, "prompt")
        ),
    )?;
    show(
        "first token",
        format!("after {}", milliseconds(report.seconds_to_first_token.median)),
    )?;
    show("speed", rate(&report.new_tokens_per_second))?;
    show("memory", format!("{} at most", bytes(report.measured_bytes)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padded_and_packed_hold_the_same_documents() {
        let lengths = Some(Lengths { low: 10, high: 60 });
        let with = |packed, padded| Synthetic {
            batch: 2,
            seq: 128,
            lora: 4,
            dtype: crate::args::BaseDtype::Auto,
            quantize: crate::args::Quantize::None,
            learned: 0.5,
            packed,
            padded,
            memory: None,
            keep_blocks: None,
            dry_run: false,
            planned_for: None,
        };
        let (packed, padded) = (window(&with(lengths, None), 100), window(&with(None, lengths), 100));
        let learned = |window: &[Batch]| window.iter().map(Batch::learned).sum::<usize>();
        assert_eq!(learned(&packed), learned(&padded));
        let starts = |window: &[Batch]| window.iter().map(|b| b.starts.len() - 1).sum::<usize>();
        assert_eq!(starts(&packed), starts(&padded));
        assert!(packed.len() == 1 && packed[0].tokens.len() <= 256 && packed[0].tokens.len() > 128);
        assert!(
            padded
                .iter()
                .all(|batch| batch.tokens.len() <= 256 && batch.tokens.len().is_multiple_of(60))
        );
    }
}
