//! Going on from an adapter that is there: what it brings, and which settings contradict it.
use crate::settings::{Lora, Settings, Targets};
use crate::{Result, TrainError, error::Problem};
use std::path::Path;
use tune_model::lora::Init;
use tune_model::peft::{Adapter, AdapterConfig};
use tune_model::{CausalLm, ModelError};

/// The settings with what `lora.adapter` brings in the place of defaults. Other values that differ from it are refused.
pub fn resolve(settings: &Settings) -> Result<Settings> {
    let dir = &settings.lora.adapter;
    if dir.as_os_str().is_empty() {
        return Ok(settings.clone());
    }
    let config = read(dir)?.config;
    let mut resolved = settings.clone();
    resolved.lora = brought(&config, &settings.lora);
    let mut problems = contradictions(&settings.lora, &resolved.lora, dir);
    if let (Some(held), true) = (config.quantize.name(), config.quantize != settings.model.quantize) {
        problems.push(Problem {
            key: "model.quantize".into(),
            found: format!("{:?}", settings.model.quantize.name().unwrap_or("none")),
            wanted: format!("{held:?}, on which the adapter {} was trained", dir.display()),
        });
    }
    match problems.is_empty() {
        true => Ok(resolved),
        false => Err(TrainError::Settings { problems }),
    }
}

/// An adapter folder, or a run folder or checkpoint that holds one.
fn read(dir: &Path) -> Result<Adapter> {
    let folders = [dir.to_path_buf(), dir.join("adapter")];
    match folders
        .iter()
        .find(|folder| folder.join("adapter_config.json").is_file())
    {
        Some(folder) => Ok(Adapter::read(folder)?),
        None => Err(TrainError::NotARun {
            path: dir.to_path_buf(),
            wanted: "adapter_config.json, adapter/adapter_config.json",
        }),
    }
}

fn brought(config: &AdapterConfig, given: &Lora) -> Lora {
    Lora {
        r: config.r,
        alpha: config.lora_alpha,
        rslora: config.use_rslora,
        dora: config.use_dora,
        init: Init::Kaiming,
        targets: Targets::Names(config.target_modules.clone()),
        layers: config.layers_to_transform.clone().unwrap_or_default(),
        rank_pattern: config.rank_pattern.clone(),
        alpha_pattern: config.alpha_pattern.clone(),
        ..given.clone()
    }
}

/// Keys that are neither at their default nor as the adapter has them.
fn contradictions(given: &Lora, brought: &Lora, dir: &Path) -> Vec<Problem> {
    let mut given = given.clone();
    if let Targets::Names(names) = &mut given.targets {
        names.sort();
    }
    let table = |lora: &Lora| toml::Table::try_from(lora).unwrap_or_default();
    let (given, brought, default) = (table(&given), table(brought), table(&Lora::default()));
    let problem = |(key, brought): (&String, &toml::Value)| {
        let found = given.get(key)?;
        (found != brought && Some(found) != default.get(key)).then(|| Problem {
            key: format!("lora.{key}"),
            found: found.to_string(),
            wanted: format!("{brought}, as the adapter {} has it, or no such key", dir.display()),
        })
    };
    brought.iter().filter_map(problem).collect()
}

/// Puts the adapter in the place of the fresh one, which must be on the same modules.
pub fn attach(model: &mut CausalLm, dir: &Path) -> Result<()> {
    let adapter = read(dir)?;
    let problems: Vec<_> = model
        .adapters()
        .iter()
        .filter(|fresh| !adapter.pairs.contains_key(&*fresh.path))
        .map(|fresh| {
            format!(
                "`{}` is a target and {} has no weights for it",
                fresh.path,
                dir.display()
            )
        })
        .collect();
    if !problems.is_empty() {
        return Err(ModelError::AdapterMismatch { problems }.into());
    }
    Ok(model.attach(&adapter)?)
}
