//! What a run is made of, so that going on with something else is noticed and named.
use crate::{error::Change, settings::Settings};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use tune_data::Corpus;
use tune_model::Precision;

/// Settings that may differ when a run goes on: they change what is watched, kept or where it lies, never the numbers.
/// Base and data are compared by content instead of by name.
const FREE: [&str; 16] = [
    "device",
    "model.base",
    "model.revision",
    "model.offline",
    // What it resolved to is compared.
    "model.dtype",
    "data.cache",
    "output.dir",
    "output.serve_target",
    "output.tensorboard",
    "train.eval_every",
    "train.save_every",
    "train.keep_last",
    "train.early_stopping",
    "train.samples",
    "train.sample_tokens",
    "train.keep_blocks",
];

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// Dotted key to value, those that matter.
    pub settings: BTreeMap<String, String>,
    /// What `model.dtype` came to on the device.
    #[serde(default)]
    pub precision: Option<Precision>,
    /// Data file to blake3.
    pub files: BTreeMap<String, String>,
    /// Over data, tokenizer, template and the settings that shape the samples.
    pub data: String,
    pub base: String,
}

impl Identity {
    pub fn new(settings: &Settings, precision: Precision, corpus: &Corpus, base: String) -> Self {
        let files = corpus
            .report
            .files
            .iter()
            .map(|file| (file.path.clone(), file.blake3.clone()))
            .collect();
        Self {
            settings: numbers(settings),
            precision: Some(precision),
            files,
            data: corpus.fingerprint.clone(),
            base,
        }
    }

    /// Every difference from `earlier`, by name, with both values.
    pub fn changes_since(&self, earlier: &Self) -> Vec<Change> {
        let mut changes = differences(&earlier.settings, &self.settings);
        changes.extend(differences(&earlier.files, &self.files));
        let explained = !changes.is_empty();
        if earlier.data != self.data && !explained {
            changes.push(change("tokenizer, chat template or samples", &earlier.data, &self.data));
        }
        if earlier.precision != self.precision {
            let name = |precision: Option<Precision>| precision.map_or("unknown".into(), |p| format!("{p:?}"));
            changes.push(change("precision", &name(earlier.precision), &name(self.precision)));
        }
        if earlier.base != self.base {
            changes.push(change("weights of the base", &earlier.base, &self.base));
        }
        changes
    }
}

/// The settings that decide the numbers of a run, flat.
pub fn numbers(settings: &Settings) -> BTreeMap<String, String> {
    let mut flat = BTreeMap::new();
    if let Ok(value) = toml::Value::try_from(settings) {
        flatten("", &value, &mut flat);
    }
    flat.retain(|key, _| !FREE.contains(&key.as_str()));
    flat
}

fn flatten(prefix: &str, value: &toml::Value, flat: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let key = if prefix.is_empty() {
                    key.clone()
                } else {
                    format!("{prefix}.{key}")
                };
                flatten(&key, value, flat);
            }
        }
        leaf => {
            flat.insert(prefix.to_string(), leaf.to_string());
        }
    }
}

fn differences(was: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<Change> {
    let keys: BTreeSet<_> = was.keys().chain(now.keys()).collect();
    let value = |map: &BTreeMap<String, String>, key: &String| map.get(key).cloned().unwrap_or_else(|| "absent".into());
    let pairs = keys.into_iter().map(|key| (key, value(was, key), value(now, key)));
    pairs
        .filter(|(_, was, now)| was != now)
        .map(|(key, was, now)| change(key, &was, &now))
        .collect()
}

fn change(key: &str, was: &str, now: &str) -> Change {
    Change {
        key: key.into(),
        was: was.into(),
        now: now.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_matters_and_only_that() {
        let identity = |settings: &Settings| Identity {
            settings: numbers(settings),
            ..Identity::default()
        };
        let before = identity(&Settings::default());
        let mut settings = Settings::default();
        settings.train.save_every = 1;
        settings.output.dir = "elsewhere".into();
        assert_eq!(identity(&settings).changes_since(&before), []);
        settings.train.learning_rate = 1e-3;
        settings.lora.r = 8;
        let mut after = identity(&settings);
        after.files.insert("train.jsonl".into(), "ab12".into());
        after.base = "cd34".into();
        let text: Vec<_> = after.changes_since(&before).iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "lora.r: was 16, now 8",
                "train.learning_rate: was 0.0002, now 0.001",
                "train.jsonl: was absent, now ab12",
                "weights of the base: was , now cd34",
            ]
        );
    }

    #[test]
    fn every_free_key_exists() {
        let mut flat = BTreeMap::new();
        flatten("", &toml::Value::try_from(Settings::default()).unwrap(), &mut flat);
        for key in FREE {
            assert!(flat.contains_key(key), "{key}");
        }
    }
}
