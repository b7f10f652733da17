//! The trained pairs as an adapter folder: PEFT layout, tokenizer and chat template, a model card.
use crate::{Result, files, serving, settings::Settings, tensors};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tune_model::causal_lm::AdapterTensors;
use tune_model::checkpoint::{Checkpoint, TextFiles};
use tune_model::peft::{Adapter, AdapterConfig, LoraPair};

/// The model's adapters on the host, as PEFT would describe them.
pub fn collect(tensors: &[AdapterTensors], settings: &Settings, base: &Checkpoint) -> Adapter {
    let pairs: BTreeMap<_, _> = tensors.iter().map(|adapter| (adapter.path.to_string(), pair(adapter))).collect();
    let lora = &settings.lora;
    let alpha = |pair: &LoraPair| {
        let alpha = pair.scale * if lora.rslora { (pair.r as f64).sqrt() } else { pair.r as f64 };
        if (alpha - alpha.round()).abs() < 1e-9 { alpha.round() } else { alpha }
    };
    let config = AdapterConfig {
        base_model_name_or_path: Some(base.name.clone()),
        revision: base.revision.clone(),
        r: lora.r,
        lora_alpha: lora.alpha,
        lora_dropout: lora.dropout,
        use_rslora: lora.rslora,
        target_modules: pairs.keys().map(|path| leaf(path).to_string()).collect::<BTreeSet<_>>().into_iter().collect(),
        rank_pattern: exceptions(&pairs, |pair| pair.r, lora.r),
        alpha_pattern: exceptions(&pairs, alpha, lora.alpha),
        layers_to_transform: (!lora.layers.is_empty()).then(|| lora.layers.clone()),
    };
    Adapter { config, pairs }
}

/// Modules whose value is not `default`, by leaf name where all of that name agree and by full path where not. No two
/// keys match one module, so that the order in which a reader tries them does not matter.
fn exceptions<T: PartialEq + Copy>(
    pairs: &BTreeMap<String, LoraPair>,
    value: impl Fn(&LoraPair) -> T,
    default: T,
) -> BTreeMap<String, T> {
    let mut by_leaf: BTreeMap<&str, Vec<(&str, T)>> = BTreeMap::new();
    for (path, pair) in pairs {
        by_leaf.entry(leaf(path)).or_default().push((path, value(pair)));
    }
    let mut found = BTreeMap::new();
    for (leaf, modules) in by_leaf {
        let first = modules[0].1;
        if modules.iter().all(|(_, value)| *value == first) {
            if first != default {
                found.insert(leaf.to_string(), first);
            }
        } else {
            let differing = modules.into_iter().filter(|(_, value)| *value != default);
            found.extend(differing.map(|(path, value)| (path.to_string(), value)));
        }
    }
    found
}

fn leaf(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

fn pair(adapter: &AdapterTensors) -> LoraPair {
    let ([r, inputs], [outputs, _]) = (adapter.a.dims(), adapter.b.dims());
    LoraPair { r, inputs, outputs, scale: adapter.scale, a: tensors::to_host(&adapter.a), b: tensors::to_host(&adapter.b) }
}

/// Writes the folder whole or not at all; in the portable form where one of `serve_target` would misread the other.
/// Returns what was written.
pub fn write(adapter: &Adapter, text: &TextFiles, card: &str, dir: &Path, serve_target: &[String]) -> Result<Adapter> {
    let portable = serving::needs_portable(&adapter.config, serve_target);
    let adapter = if portable { serving::portable(adapter) } else { adapter.clone() };
    let staged = files::Staged::beside(dir)?;
    // The adapter replaces whole folders, so it goes first.
    adapter.write(staged.path())?;
    for (name, bytes) in text_files(text) {
        files::write(&staged.path().join(name), &bytes)?;
    }
    files::write(&staged.path().join("README.md"), card.as_bytes())?;
    staged.commit()?;
    Ok(adapter)
}

/// Tokenizer and template by file name. The template goes into both places readers look at.
fn text_files(text: &TextFiles) -> Vec<(&'static str, Vec<u8>)> {
    let json = |value: &serde_json::Value| (format!("{value:#}") + "\n").into_bytes();
    let mut out = vec![("tokenizer.json", text.tokenizer_json.clone())];
    if let Some(mut config) = text.tokenizer_config.clone() {
        if let (Some(template), Some(config)) = (&text.chat_template, config.as_object_mut()) {
            config.insert("chat_template".into(), template.as_str().into());
        }
        out.push(("tokenizer_config.json", json(&config)));
    }
    out.extend(text.special_tokens_map.as_ref().map(|map| ("special_tokens_map.json", json(map))));
    out.extend(text.chat_template.as_ref().map(|template| ("chat_template.jinja", template.clone().into_bytes())));
    out
}

/// `README.md` of an adapter folder. `facts`: name and value of what was measured.
pub fn card(config: &AdapterConfig, base: &Checkpoint, facts: &[(&str, String)]) -> String {
    let name = &base.name;
    let hub_line = if base.kind == "hub" { format!("base_model: {name}\n") } else { String::new() };
    let rows: String = facts.iter().map(|(fact, value)| format!("| {fact} | {value} |\n")).collect();
    format!(
        "---\n{hub_line}library_name: peft\npipeline_tag: text-generation\ntags:\n- lora\n---\n\n\
         # LoRA adapter for {name}\n\n\
         Rank {}, alpha {}{}, on {}. Trained with `tune`.\n\n\
         | measured | |\n|---|---|\n{rows}\n\
         ```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
         model = AutoModelForCausalLM.from_pretrained(\"{name}\")\n\
         model = PeftModel.from_pretrained(model, \"path/to/this/folder\")\n\
         tokenizer = AutoTokenizer.from_pretrained(\"path/to/this/folder\")\n```\n",
        config.r,
        config.lora_alpha,
        if config.use_rslora { " (rsLoRA)" } else { "" },
        config.target_modules.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_named_by_leaf_or_by_path_never_twice() {
        let pair = |r| LoraPair { r, inputs: 1, outputs: 1, scale: 1.0, a: vec![0.0; r], b: vec![0.0; r] };
        let pairs: BTreeMap<_, _> = [
            ("layers.0.q_proj", 8), ("layers.1.q_proj", 8), ("layers.0.v_proj", 16), ("layers.1.v_proj", 4),
            ("layers.0.o_proj", 16),
        ]
        .map(|(path, r)| (path.to_string(), pair(r)))
        .into();
        let found = exceptions(&pairs, |pair| pair.r, 16);
        let wanted = [("layers.1.v_proj".to_string(), 4), ("q_proj".to_string(), 8)];
        assert_eq!(found, BTreeMap::from(wanted));
    }
}
