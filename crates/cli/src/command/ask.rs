//! `tune ask`: one question, answered by one arm, with its sources.
use crate::answerer::{Models, Wanted};
use crate::args::Ask;
use crate::errors::Failure;
use crate::library::Opened;
use crate::printer::{Printer, duration, plural};
use crate::{End, device, resolve};
use serde_json::json;
use std::time::{SystemTime, UNIX_EPOCH};
use tune_model::Precision;
use tune_rag::eval::arm::{Arm, Context};
use tune_rag::eval::{Library, Prompts};
use tune_rag::log::{Interaction, Logged, append};
use tune_rag::metrics::{abstention::abstains, citation::cited};
use tune_rag::{Answerer, Prompt, PromptBuilder, Retrieved, Weights};

pub fn run(args: &Ask, printer: &Printer) -> anyhow::Result<End> {
    let mut resolved = resolve::resolve(&args.config.config, &args.config.set.set)?;
    if !args.only.is_empty() {
        resolved.rag.only.clone_from(&args.only);
    }
    let (settings, eval) = (&resolved.settings, &resolved.eval);
    eval.validate_answer()?;
    let arm = Arm::parse(&args.arm).filter(|arm| matches!(arm.context, Context::None | Context::Retrieved));
    let arm = arm.ok_or_else(|| {
        Failure::error(
            format!("`{}` is no arm that can be asked", args.arm),
            "wanted base, rag, tuned or hybrid",
        )
    })?;
    let kept = Some(&resolved.log.path).filter(|path| !path.as_os_str().is_empty());
    let log = args.log.as_ref().or(kept);
    if args.redact && log.is_none() {
        return Err(Failure::error(
            "--redact has nothing to redact: no log is kept",
            "give --log FILE, or set log.path",
        ));
    }
    if !args.only.is_empty() && arm.context == Context::None {
        return Err(Failure::error(
            format!(
                "--only has nothing to choose from: arm `{}` is given no passages",
                args.arm
            ),
            "leave --only out, or ask rag or hybrid",
        ));
    }
    let device = device::checked(&settings.device, printer)?.device;
    let opened = match arm.context {
        Context::Retrieved => Some(Opened::to_answer(&resolved.rag, &device, printer)?),
        _ => None,
    };
    let library = opened.as_ref().map(Opened::library).transpose()?;
    let retrieved = library
        .as_ref()
        .map(|library| library.retrieve(&args.question))
        .transpose()?;

    let precision = Precision::resolve(settings.model.dtype, settings.model.quantize, &device)?;
    let mut models = Models::load(&Wanted::of(settings, eval, &[arm.weights]), &device, precision, printer)?;
    if models.identity(arm.weights).is_none() {
        let (key, dir) = match arm.weights {
            Weights::Hybrid => ("eval.hybrid_adapter", &eval.hybrid_adapter),
            _ => ("eval.adapter", &eval.adapter),
        };
        return Err(Failure::error(
            format!("arm `{}` needs an adapter: there is none at {key} = {dir:?}", args.arm),
            format!("train it first, and name its folder in {key}"),
        ));
    }
    let prompts = PromptBuilder::new(&resolved.rag, &models.codec().special_tokens());
    let passages = retrieved.as_ref().map(|retrieved| retrieved.passages.as_slice());
    let prompt = prompts.prompt(&models, &args.question, passages, eval.max_new_tokens)?;
    let answers = models.answer(
        arm.weights,
        std::slice::from_ref(&prompt.messages),
        eval.max_new_tokens,
        &mut |_, _| {},
    )?;
    let Some(answer) = answers.into_iter().next() else {
        anyhow::bail!("the model gave no answer");
    };

    let mut interaction = Interaction {
        id: new_id(),
        time: seconds_now(),
        arm,
        question: args.question.clone(),
        abstained: abstains(&answer.text, &eval.abstentions),
        answer,
        weights: models.identity(arm.weights).unwrap_or_default(),
        index: library.as_ref().map(|library| library.identity()).transpose()?,
        prompt: blake3::hash(&serde_json::to_vec(&prompt.messages)?)
            .to_hex()
            .to_string(),
        passages: logged(&prompt, retrieved.as_ref()),
        retrieval: retrieved.as_ref().map(|retrieved| retrieved.timings),
        redacted: false,
        feedback: None,
    };
    if args.json {
        let row = json!({ "interaction": interaction, "passages": prompt.passages, "left_out": prompt.left_out });
        printer.data(&row.to_string())?;
    } else {
        show(&interaction, &prompt, printer)?;
    }
    if let Some(log) = log {
        if args.redact || resolved.log.redact {
            interaction.redact();
        }
        append(log, &interaction)?;
        printer.talk(&format!("logged as {} in {}", interaction.id, log.display()));
    }
    Ok(End::Done)
}

/// The answer, and the passages it had, those it cites marked.
fn show(interaction: &Interaction, prompt: &Prompt, printer: &Printer) -> anyhow::Result<()> {
    let style = &printer.data_style;
    printer.data(&interaction.answer.text)?;
    let cited = cited(&interaction.answer.text);
    if !prompt.passages.is_empty() {
        printer.data("")?;
    }
    for (number, passage) in (1..).zip(&prompt.passages) {
        let page = passage.page.map(|page| format!(", page {page}")).unwrap_or_default();
        let heading = match passage.heading.is_empty() {
            true => String::new(),
            false => format!(", {}", passage.heading),
        };
        let line = format!("[{number}] {}{page}{heading}", passage.document);
        printer.data(&match cited.contains(&number) {
            true => style.bold(&line),
            false => style.dim(&line),
        })?;
    }
    let answer = &interaction.answer;
    printer.talk(&format!(
        "{} of prompt, {} of answer, {}",
        answer.prompt_tokens,
        answer.answer_tokens,
        duration(answer.seconds)
    ));
    if !prompt.left_out.is_empty() {
        printer.talk(&format!(
            "{} retrieved did not fit the prompt",
            plural(prompt.left_out.len(), "passage")
        ));
    }
    Ok(())
}

fn logged(prompt: &Prompt, retrieved: Option<&Retrieved>) -> Vec<Logged> {
    let Some(retrieved) = retrieved else { return Vec::new() };
    let scores = |id: &str| {
        let at = retrieved.passages.iter().position(|passage| passage.id == id);
        at.and_then(|at| retrieved.scores.get(at).copied()).unwrap_or_default()
    };
    let one = |passage: &tune_rag::Passage| Logged {
        id: passage.id.clone(),
        document: passage.document.clone(),
        score: passage.score,
        scores: scores(&passage.id),
    };
    prompt.passages.iter().map(one).collect()
}

fn seconds_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

/// Unique among the questions of a machine: its clock and process.
fn new_id() -> String {
    let nanoseconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos());
    format!("{nanoseconds:x}-{:x}", std::process::id())
}
