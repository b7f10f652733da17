//! The trained pairs as an adapter folder: PEFT layout, tokenizer and chat template, a model card.
use crate::checkpoint::{Best, Progress};
use crate::settings::{Settings, Targets};
use crate::{Result, serving, tensors};
use std::collections::BTreeSet;
use std::path::Path;
use tune_model::causal_lm::AdapterTensors;
use tune_model::lora::{Factors, Init};
use tune_model::peft::{Adapter, AdapterConfig, LoraPair};
use tune_model::staging::{self, StagedFolder};
use tune_model::{Checkpoint, pissa};

/// The model's adapters on the host, as PEFT would describe them.
pub fn collect(tensors: &[AdapterTensors], settings: &Settings, base: &Checkpoint) -> Adapter {
    let lora = &settings.lora;
    let by_leaf = match &lora.targets {
        Targets::One(one) => one == "all-linear",
        Targets::Names(names) => names.iter().all(|name| !name.contains('.')),
    };
    let names = tensors
        .iter()
        .map(|adapter| if by_leaf { leaf(&adapter.path) } else { &adapter.path });
    let config = AdapterConfig {
        base_model_name_or_path: Some(base.name.clone()),
        revision: base.revision.clone(),
        r: lora.r,
        lora_alpha: lora.alpha,
        lora_dropout: lora.dropout,
        use_rslora: lora.rslora,
        use_dora: lora.dora,
        fan_in_fan_out: false,
        target_modules: names.map(str::to_string).collect::<BTreeSet<_>>().into_iter().collect(),
        rank_pattern: lora.rank_pattern.clone(),
        alpha_pattern: lora.alpha_pattern.clone(),
        // Whole paths say it already.
        quantize: settings.model.quantize,
        layers_to_transform: (by_leaf && !lora.layers.is_empty()).then(|| lora.layers.clone()),
    };
    let whole = |adapter: &AdapterTensors| {
        let trained = pair(&adapter.factors, adapter.scale);
        match &adapter.initial {
            Some(initial) => pissa::joined(&trained, &pair(initial, adapter.scale)),
            None => trained,
        }
    };
    Adapter {
        config: match lora.init {
            Init::Kaiming => config,
            Init::Pissa => pissa::doubled(config),
        },
        pairs: tensors
            .iter()
            .map(|adapter| (adapter.path.to_string(), whole(adapter)))
            .collect(),
    }
}

fn leaf(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

fn pair(factors: &Factors, scale: f64) -> LoraPair {
    let Factors { a, b, m } = factors;
    let ([r, inputs], [outputs, _]) = (a.dims(), b.dims());
    LoraPair {
        r,
        inputs,
        outputs,
        scale,
        a: tensors::to_host(a),
        b: tensors::to_host(b),
        m: m.as_ref().map(tensors::to_host),
    }
}

/// Writes the folder whole or not at all, replacing an earlier one; in the portable form where one of `serve_target`
/// would misread the other. Returns what was written.
pub fn write(
    adapter: &Adapter,
    base: &Checkpoint,
    progress: Option<&Progress>,
    dir: &Path,
    serve_target: &[String],
    overwrite: bool,
) -> Result<Adapter> {
    let portable = serving::needs_portable(&adapter.config, serve_target);
    let adapter = if portable {
        serving::portable(adapter)
    } else {
        adapter.clone()
    };
    let folder = StagedFolder::create(dir, |older| overwrite || older.join("adapter_config.json").exists())?;
    // This replaces the whole folder, so it goes first.
    adapter.write(folder.path())?;
    base.write_text_files(folder.path())?;
    staging::write_file(
        &folder.path().join("README.md"),
        card(&adapter.config, base, progress).as_bytes(),
    )?;
    folder.commit()?;
    Ok(adapter)
}

/// `README.md` of an adapter folder, with what `progress` has measured.
fn card(config: &AdapterConfig, base: &Checkpoint, progress: Option<&Progress>) -> String {
    let name = &base.name;
    let hub_line = if base.kind == "hub" {
        format!("base_model: {name}\n")
    } else {
        String::new()
    };
    let measured = progress.map(measured).unwrap_or_default();
    let held = config
        .quantize
        .name()
        .map(|form| format!(", the base held in {form}"))
        .unwrap_or_default();
    format!(
        "---\n{hub_line}library_name: peft\npipeline_tag: text-generation\ntags:\n- lora\n---\n\n\
         # LoRA adapter for {name}\n\n\
         Rank {}, alpha {}{}{}, on {}{held}. Trained with `tune`.\n\n\
         {measured}\
         ```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
         model = AutoModelForCausalLM.from_pretrained(\"{name}\")\n\
         model = PeftModel.from_pretrained(model, \"path/to/this/folder\")\n\
         tokenizer = AutoTokenizer.from_pretrained(\"path/to/this/folder\")\n```\n",
        config.r,
        config.lora_alpha,
        if config.use_rslora { " (rsLoRA)" } else { "" },
        if config.use_dora {
            ", with magnitudes (DoRA)"
        } else {
            ""
        },
        config.target_modules.join(", "),
    )
}

/// A table in Markdown.
fn measured(progress: &Progress) -> String {
    let loss = |loss: f64| format!("{loss:.4} (perplexity {:.2})", loss.exp());
    let mut facts = vec![
        ("steps", progress.step.to_string()),
        ("tokens seen", progress.tokens.to_string()),
        ("tokens learned from", progress.learned_tokens.to_string()),
        ("training loss at the end", loss(progress.last_loss)),
    ];
    facts.extend(
        progress
            .first_eval
            .map(|before| ("validation loss before", loss(before))),
    );
    let best = |best: Best| {
        (
            "validation loss, best",
            format!("{} at step {}", loss(best.eval_loss), best.step),
        )
    };
    facts.extend(progress.best.map(best));
    let rows: String = facts
        .iter()
        .map(|(fact, value)| format!("| {fact} | {value} |\n"))
        .collect();
    format!("| measured | |\n|---|---|\n{rows}\n")
}
