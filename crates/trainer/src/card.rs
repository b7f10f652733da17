//! The model card of what is exported: base and its licence, data, settings, what was measured, how it is loaded.
use crate::Result;
use crate::checkpoint::{Best, Progress};
use std::collections::BTreeMap;
use std::path::Path;
use tune_model::Checkpoint;
use tune_model::peft::AdapterConfig;

/// Which `README.md` it is.
pub enum Card<'a> {
    Adapter,
    /// `onto`: what the adapter was merged into, in words; `stored`: the type of the weights.
    Merged {
        onto: &'a str,
        stored: &'a str,
    },
}

impl Card<'_> {
    pub fn write(&self, config: &AdapterConfig, base: &Checkpoint, progress: Option<&Progress>) -> Result<String> {
        // A hub id says where to find it; of a path, only its end means something elsewhere.
        let name = match base.kind {
            "hub" => base.name.as_str().into(),
            _ => Path::new(&base.name).file_name().unwrap_or_default().to_string_lossy(),
        };
        let license = base.license()?;
        let bare = config.target_modules.is_empty();
        let front = self.front(base, license.as_deref(), bare);
        let adapter = adapter(config);
        let head = match self {
            Self::Adapter => format!("# LoRA adapter for {name}\n\n{adapter} Trained with `tune`."),
            Self::Merged { .. } if bare => format!("# {name}, as `tune` reads it"),
            Self::Merged { onto, stored } => {
                format!(
                    "# {name}, fine-tuned\n\n{adapter} Trained and merged into {onto} with `tune`, stored as {stored}."
                )
            }
        };
        let license = match license {
            Some(license) => format!("The base's licence is `{license}`; it holds for what is made of it."),
            None => "No licence was found with the base: look for it where the base came from.".to_string(),
        };
        let recorded = progress.map(|p| [measured(p), data(p), settings(p)].concat());
        Ok(format!(
            "{front}\n{head}\n\n{license}\n\n{}{}",
            recorded.unwrap_or_default(),
            self.usage(&base.name)
        ))
    }

    /// `bare`: a base without an adapter.
    fn front(&self, base: &Checkpoint, license: Option<&str>, bare: bool) -> String {
        let mut front = vec!["---".to_string()];
        if base.kind == "hub" {
            front.push(format!("base_model: {}", base.name));
        }
        front.extend(license.map(|license| format!("license: {license}")));
        front.push(match self {
            Self::Adapter => "library_name: peft".into(),
            Self::Merged { .. } => "library_name: transformers".into(),
        });
        front.push("pipeline_tag: text-generation".into());
        if !bare {
            front.push("tags:\n- lora".into());
        }
        front.push("---\n".into());
        front.join("\n")
    }

    fn usage(&self, base: &str) -> String {
        let here = "\"path/to/this/folder\"";
        let load = match self {
            Self::Adapter => format!(
                "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
                 model = AutoModelForCausalLM.from_pretrained(\"{base}\")\n\
                 model = PeftModel.from_pretrained(model, {here})\n"
            ),
            Self::Merged { .. } => format!(
                "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
                 model = AutoModelForCausalLM.from_pretrained({here})\n"
            ),
        };
        format!("```python\n{load}tokenizer = AutoTokenizer.from_pretrained({here})\n```\n")
    }
}

fn adapter(config: &AdapterConfig) -> String {
    let held = config.quantize.name().map(|form| format!(", the base held in {form}"));
    format!(
        "Rank {}, alpha {}{}, on {}{}.",
        config.r,
        config.lora_alpha,
        match (config.use_rslora, config.use_dora) {
            (true, true) => " (rsLoRA, DoRA)",
            (true, false) => " (rsLoRA)",
            (false, true) => " (DoRA)",
            (false, false) => "",
        },
        config.target_modules.join(", "),
        held.unwrap_or_default(),
    )
}

/// A table in Markdown.
fn table(head: &str, rows: impl Iterator<Item = (String, String)>) -> String {
    let rows: String = rows.map(|(name, value)| format!("| {name} | {value} |\n")).collect();
    match rows.is_empty() {
        true => rows,
        false => format!("| {head} | |\n|---|---|\n{rows}\n"),
    }
}

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
    table(
        "measured",
        facts.into_iter().map(|(fact, value)| (fact.to_string(), value)),
    )
}

/// Names without their folders: a card is published.
fn data(progress: &Progress) -> String {
    let files = progress.identity.files.iter().map(|(path, hash)| {
        let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
        (name.into_owned(), format!("blake3 `{hash}`"))
    });
    table("data", files)
}

fn settings(progress: &Progress) -> String {
    let told = |key: &str| {
        ["lora.", "train.", "model.quantize"]
            .iter()
            .any(|prefix| key.starts_with(prefix))
    };
    let settings: BTreeMap<_, _> = progress.identity.settings.iter().filter(|(key, _)| told(key)).collect();
    table(
        "setting",
        settings
            .into_iter()
            .map(|(key, value)| (format!("`{key}`"), format!("`{value}`"))),
    )
}
