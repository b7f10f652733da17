//! `tune export`: an adapter to what servers load, the checks of it, and the commands that serve it.
use crate::args::{self, Dtype, Export, GgufType, Onto};
use crate::errors::Failure;
use crate::printer::{Printer, bytes, plural, shell_word};
use crate::watch::Console;
use crate::{End, device, environment};
use std::path::Path;
use tune_model::checkpoint::StoredType;
use tune_trainer::TrainError;
use tune_trainer::export::{Check, ExportReport, ExportRequest, export};
use tune_trainer::outputs::{Form, Outputs, Written};
use tune_trainer::serving::Profile;

pub fn run(args: &Export, printer: &Printer) -> anyhow::Result<End> {
    let outputs = outputs(args);
    let wanted = [&args.adapter, &args.merged, &args.gguf, &args.gguf_lora, &args.mlx];
    if wanted.iter().all(|path| path.is_none()) {
        return Err(Failure::error(
            "nothing to write: no output was named",
            "add --adapter DIR, --merged DIR, --gguf FILE, --gguf-lora FILE, --mlx DIR or several of them",
        ));
    }
    if args.modelfile && args.gguf.is_none() && args.gguf_lora.is_none() {
        return Err(Failure::error(
            "--modelfile names a GGUF, and none is written",
            "add --gguf FILE or --gguf-lora FILE",
        ));
    }
    let chosen = device::checked(&args.device, printer)?;
    let request = ExportRequest {
        from: &args.from,
        base: args.base.as_deref(),
        outputs: &outputs,
        verify: args.verify,
        onto_original: args.onto == Onto::Original,
        serve_target: &args.serve_target,
        prompts: args.prompts.as_deref(),
        logits: args.logits.as_deref(),
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
    report.written.iter().for_each(|written| tell(written, printer));
    table(&report.checks, printer)?;
    commands(&report, printer);
    Ok(End::Done)
}

fn outputs(args: &Export) -> Outputs {
    Outputs {
        adapter: args.adapter.clone(),
        profile: args.profile.map(|profile| match profile {
            args::Profile::Peft => Profile::Peft,
            args::Profile::Portable => Profile::Portable,
        }),
        merged: args.merged.clone(),
        dtype: args.dtype.map(|dtype| match dtype {
            Dtype::F32 => StoredType::F32,
            Dtype::F16 => StoredType::F16,
            Dtype::Bf16 => StoredType::BF16,
        }),
        max_shard: args.max_shard,
        gguf: args.gguf.clone(),
        gguf_type: args.gguf_type.map(|dtype| match dtype {
            GgufType::F32 => StoredType::F32,
            GgufType::F16 => StoredType::F16,
            GgufType::Bf16 => StoredType::BF16,
            GgufType::Q8_0 => StoredType::Ggml("Q8_0"),
        }),
        gguf_lora: args.gguf_lora.clone(),
        mlx: args.mlx.clone(),
        modelfile: args.modelfile,
        force: args.force,
    }
}

fn tell(written: &Written, printer: &Printer) {
    let path = written.path.display();
    let Some(merge) = &written.merge else {
        printer.row(written.form.name(), &path.to_string());
        return;
    };
    let what = format!("{}, {}", plural(merge.files.len(), "file"), bytes(merge.bytes));
    let mut text = format!("{path} ({what})");
    if merge.merged_modules > 0 {
        let rounding = match merge.rounding.worst {
            0.0..1e-4 => "nothing lost by rounding".to_string(),
            worst => format!(
                "rounding is {} of the update, {} of the worst module's",
                percent(merge.rounding.whole()),
                percent(worst)
            ),
        };
        text += &format!("\n{} merged, {rounding}", plural(merge.merged_modules, "module"));
    }
    printer.row(written.form.name(), &text);
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// The checks are data: a table on stdout.
fn table(checks: &[Check], printer: &Printer) -> anyhow::Result<()> {
    if checks.is_empty() {
        return Ok(());
    }
    let style = printer.data_style;
    let head = format!(
        "{:<9}  {:>7}  {:>11}  {:>9}  {:>6}  {:>10}  {:>9}  {:>11}  result",
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
            "{:<9}  {:>7}  {:>11.2e}  {:>9.1e}  {top1:>6}  {:>10.3}  {:>9.3}  {texts:>11}  {result}",
            c.what, c.prompts, c.max_logit_difference, c.bound, c.perplexity_before, c.perplexity_after
        ))?;
    }
    Ok(())
}

/// Commands that serve what was written.
fn commands(report: &ExportReport, printer: &Printer) {
    printer.talk("\nserve it:");
    for written in &report.written {
        for line in serving(written, report) {
            printer.talk(&format!("  {line}"));
        }
    }
}

fn serving(written: &Written, report: &ExportReport) -> Vec<String> {
    let word = |path: &Path| shell_word(&path.display().to_string());
    let (at, base) = (word(&written.path), shell_word(&report.base));
    // Only `tune` and llama.cpp take a GGUF for a base.
    let file = report.base_path.is_file();
    let hf_base = if file { "BASE_FOLDER".to_string() } else { base.clone() };
    let mut lines = match written.form {
        Form::Merged => vec![format!("tune chat --base {at}"), format!("vllm serve {at}")],
        Form::Gguf => vec![format!("llama-server -m {at}")],
        Form::GgufLora => {
            let model = if file { base } else { "BASE.gguf".to_string() };
            vec![format!("llama-server -m {model} --lora {at}")]
        }
        Form::Mlx => vec![format!(
            "mlx_lm.generate --model {hf_base} --adapter-path {at} --prompt ..."
        )],
        Form::Modelfile => vec![format!("ollama create tuned -f {at}")],
        Form::Peft | Form::Portable => {
            let rank = vllm_rank(written.rank);
            vec![
                format!("tune chat --base {base} --adapter {at}"),
                format!("vllm serve {hf_base} --enable-lora{rank} --lora-modules tuned={at}"),
            ]
        }
    };
    if written.form == Form::Portable {
        lines.push(format!(
            "python -m sglang.launch_server --model-path {hf_base} --lora-paths tuned={at}"
        ));
    }
    if lines.iter().any(|line| line.contains("BASE_FOLDER")) {
        lines.push(format!(
            "  BASE_FOLDER: tune export {} --merged BASE_FOLDER",
            shell_word(&report.base)
        ));
    }
    if lines.iter().any(|line| line.contains("BASE.gguf")) {
        let from = word(&report.base_path);
        lines.push(format!("  BASE.gguf: tune export {from} --gguf BASE.gguf"));
    }
    lines
}

/// vLLM loads ranks up to 16 unless told otherwise, and takes only these as limits.
fn vllm_rank(largest: usize) -> String {
    let limit = [16, 32, 64, 128, 256, 320, 512]
        .into_iter()
        .find(|limit| *limit >= largest);
    limit
        .filter(|limit| *limit > 16)
        .map(|limit| format!(" --max-lora-rank {limit}"))
        .unwrap_or_default()
}
