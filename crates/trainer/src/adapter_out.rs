//! The trained pairs as an adapter folder: PEFT layout, tokenizer and chat template, a model card.
use crate::card::Card;
use crate::checkpoint::Progress;
use crate::serving::Profile;
use crate::settings::{Settings, Targets};
use crate::{Result, tensors};
use std::collections::BTreeSet;
use std::path::Path;
use tune_model::causal_lm::AdapterTensors;
use tune_model::lora::{Factors, Init};
use tune_model::peft::{Adapter, AdapterConfig, LoraPair};
use tune_model::portable::portable;
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
        fan_in_fan_out: tensors.iter().any(|adapter| adapter.transposed),
        target_modules: names.map(str::to_string).collect::<BTreeSet<_>>().into_iter().collect(),
        rank_pattern: lora.rank_pattern.clone(),
        alpha_pattern: lora.alpha_pattern.clone(),
        quantize: settings.model.quantize,
        // Whole paths say it already.
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

/// Writes the folder whole or not at all, replacing an earlier one.
pub fn write(
    adapter: &Adapter,
    base: &Checkpoint,
    progress: Option<&Progress>,
    dir: &Path,
    profile: Profile,
    overwrite: bool,
) -> Result<()> {
    let adapter = match profile {
        Profile::Peft => adapter.clone(),
        Profile::Portable => portable(adapter, base)?,
    };
    let folder = StagedFolder::create(dir, |older| overwrite || is_earlier(older))?;
    // This replaces the whole folder, so it goes first.
    adapter.write(folder.path())?;
    base.write_text_files(folder.path())?;
    let card = Card::Adapter.write(&adapter.config, base, progress)?;
    staging::write_file(&folder.path().join("README.md"), card.as_bytes())?;
    Ok(folder.commit()?)
}

/// Whether a folder is an adapter in this layout.
pub fn is_earlier(dir: &Path) -> bool {
    dir.join("adapter_model.safetensors").exists()
}
