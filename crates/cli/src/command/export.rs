//! `tune export`: an adapter to what servers load, the checks of it, and the commands that serve it.
use crate::args::{Dtype, Export, Onto};
use crate::errors::Failure;
use crate::printer::{Printer, bytes, plural, shell_word};
use crate::watch::Console;
use crate::{End, device, environment};
use std::path::Path;
use tune_model::checkpoint::StoredType;
use tune_trainer::TrainError;
use tune_trainer::export::{Check, ExportReport, ExportRequest, export};

pub fn run(args: &Export, printer: &Printer) -> anyhow::Result<End> {
    if args.adapter.is_none() && args.merged.is_none() {
        return Err(Failure::error(
            "nothing to write: neither --adapter nor --merged was given",
            "add --adapter DIR, --merged DIR or both",
        ));
    }
    let chosen = device::choose(&args.device)?;
    let request = ExportRequest {
        from: &args.from,
        base: args.base.as_deref(),
        adapter: args.adapter.as_deref(),
        merged: args.merged.as_deref(),
        verify: args.verify,
        dtype: args.dtype.map(stored),
        onto_original: args.onto == Onto::Original,
        max_shard: args.max_shard,
        serve_target: &args.serve_target,
        prompts: args.prompts.as_deref(),
        logits: args.logits.as_deref(),
        force: args.force,
        hub: environment::hub(None, false, printer.live && !printer.quiet),
        device: chosen.device,
    };
    let mut console = Console::new(printer);
    let exported = export(&request, &mut console);
    console.finish();
    if let Err(TrainError::Verify { checks }) = &exported {
        table(checks, printer)?;
    }
    let report = exported?;
    written(&report, printer);
    table(&report.checks, printer)?;
    commands(&report, printer);
    Ok(End::Done)
}

fn stored(dtype: Dtype) -> StoredType {
    match dtype {
        Dtype::F32 => StoredType::F32,
        Dtype::F16 => StoredType::F16,
        Dtype::Bf16 => StoredType::BF16,
    }
}

fn written(report: &ExportReport, printer: &Printer) {
    if let Some(dir) = &report.adapter {
        printer.row("adapter", &dir.display().to_string());
    }
    if let (Some(dir), Some(merge)) = (&report.merged, &report.merge) {
        let what = format!("{}, {}", plural(merge.files.len(), "file"), bytes(merge.bytes));
        let rounding = format!(
            "{} merged, rounding at worst {:.1e} of an update",
            plural(merge.merged_modules, "module"),
            merge.worst_rounding
        );
        printer.row("merged", &format!("{} ({what})\n{rounding}", dir.display()));
    }
}

/// The checks are data: a table on stdout.
fn table(checks: &[Check], printer: &Printer) -> anyhow::Result<()> {
    if checks.is_empty() {
        return Ok(());
    }
    let style = printer.data_style;
    let head = format!(
        "{:<8}  {:>7}  {:>11}  {:>9}  {:>6}  {:>10}  {:>9}  {:>11}  result",
        "check", "prompts", "logit diff", "bound", "top-1", "ppl before", "ppl after", "equal texts"
    );
    printer.data(&style.bold(&head))?;
    for c in checks {
        let result = if c.passed {
            style.green("passed")
        } else {
            style.red_bold("FAILED")
        };
        let texts = format!("{} of {}", c.equal_texts, c.prompts);
        let top1 = format!("{:.1} %", c.top1_agreement * 100.0);
        printer.data(&format!(
            "{:<8}  {:>7}  {:>11.2e}  {:>9.1e}  {top1:>6}  {:>10.3}  {:>9.3}  {texts:>11}  {result}",
            c.what, c.prompts, c.max_logit_difference, c.bound, c.perplexity_before, c.perplexity_after
        ))?;
    }
    Ok(())
}

/// Commands that serve what was written.
fn commands(report: &ExportReport, printer: &Printer) {
    let word = |dir: &Path| shell_word(&dir.display().to_string());
    printer.talk("\nserve it:");
    if let Some(dir) = &report.merged {
        let dir = word(dir);
        printer.talk(&format!("  tune chat --base {dir}"));
        printer.talk(&format!("  vllm serve {dir}"));
        printer.talk(&format!("  python convert_hf_to_gguf.py {dir}      # of llama.cpp"));
    }
    if let Some(dir) = &report.adapter {
        let base = named_base(dir).unwrap_or_else(|| "BASE".into());
        let (base, dir) = (shell_word(&base), word(dir));
        printer.talk(&format!("  tune chat --base {base} --adapter {dir}"));
        // Both of these want the base as a folder or hub id; the converter gets a hub id from the adapter itself.
        if !base.ends_with(".gguf") {
            let folder = if Path::new(&base).is_dir() {
                format!(" --base {base}")
            } else {
                String::new()
            };
            printer.talk(&format!(
                "  vllm serve {base} --enable-lora{} --lora-modules tuned={dir}",
                vllm_rank(report)
            ));
            printer.talk(&format!(
                "  python convert_lora_to_gguf.py{folder} {dir}    # of llama.cpp, for --lora"
            ));
        }
    }
}

/// An adapter's own `adapter_config.json`, where it can be read.
fn adapter_config(dir: &Path) -> Option<serde_json::Value> {
    serde_json::from_slice(&fs_err::read(dir.join("adapter_config.json")).ok()?).ok()
}

fn named_base(dir: &Path) -> Option<String> {
    adapter_config(dir)?
        .get("base_model_name_or_path")?
        .as_str()
        .map(str::to_string)
}

/// vLLM loads ranks up to 16 unless told otherwise, and takes only these as limits.
fn vllm_rank(report: &ExportReport) -> String {
    let config = report.adapter.as_deref().and_then(adapter_config);
    let largest = config.as_ref().map(largest_rank).unwrap_or(0);
    let limit = [16, 32, 64, 128, 256, 320, 512]
        .into_iter()
        .find(|limit| *limit >= largest);
    limit
        .filter(|limit| *limit > 16)
        .map(|limit| format!(" --max-lora-rank {limit}"))
        .unwrap_or_default()
}

fn largest_rank(config: &serde_json::Value) -> u64 {
    let patterns = config["rank_pattern"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, rank)| rank.as_u64());
    patterns.chain(config["r"].as_u64()).max().unwrap_or(0)
}
