//! What was typed to what it means: `--set` over environment over config file over default, each value remembering
//! where it came from.
use crate::config::Config;
use crate::environment;
use crate::errors::Failure;
use crate::options::{Given, Options, put};
use crate::toml_file::{Problem, TomlFile};
use anyhow::Context;
use std::collections::BTreeMap;
use std::path::Path;
use toml::Value;
use tune_rag::advise::Task;
use tune_rag::eval::settings::Eval;
use tune_rag::log::Logging;
use tune_rag::raft::Raft;
use tune_rag::settings::Rag;
use tune_trainer::settings::Settings;

const DEFAULT: &str = "default";

#[derive(Debug)]
pub struct Resolved {
    pub settings: Settings,
    pub rag: Rag,
    pub raft: Raft,
    pub eval: Eval,
    pub advise: Task,
    pub log: Logging,
    /// Every setting in declared order: path, value, origin.
    values: Vec<(String, Value, String)>,
}

/// Reads a config and lays environment and flags over it; every problem of all three is told at once.
pub fn resolve(config: &Path, set: &[String]) -> anyhow::Result<Resolved> {
    let bytes = fs_err::read(config).map_err(|error| cannot_read(config, error))?;
    let text = String::from_utf8(bytes).map_err(|error| not_utf8(config, &error))?;
    // A byte-order mark is no part of the text.
    let text = text.strip_prefix('\u{feff}').map(str::to_string).unwrap_or(text);
    resolve_layers(
        TomlFile {
            name: config.display().to_string(),
            text,
        },
        &environment::settings(),
        set,
    )
}

/// The settings for looking at one data file: nothing held back.
pub fn data_file(file: &Path, set: &[String]) -> anyhow::Result<Resolved> {
    let name = in_a_config(file)?.to_string();
    let text = format!("data.train = [{}]\ndata.validation = 0.0\n", Value::from(name.as_str()));
    resolve_layers(TomlFile { name, text }, &environment::settings(), set)
}

/// A path as a config can name it.
pub fn in_a_config(path: &Path) -> anyhow::Result<&str> {
    path.to_str().ok_or_else(|| {
        Failure::error(
            format!("{}: no UTF-8 name, so a config cannot name it", path.display()),
            "rename it",
        )
    })
}

fn resolve_layers(file: TomlFile, variables: &[(String, String)], set: &[String]) -> anyhow::Result<Resolved> {
    let options = Options::new()?;
    let (mut given, mut problems) = options.read_file(&file);
    let typed = variables.iter().map(|(name, value)| options.read_variable(name, value));
    for read in typed.chain(set.iter().map(|text| options.read_flag(text))) {
        match read {
            Ok(value) => given.push(value),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(refused(&problems));
    }
    let mut by_path: BTreeMap<String, Given> = BTreeMap::new();
    by_path.extend(given.into_iter().map(|given| (given.path.clone(), given)));
    let mut table = toml::Table::new();
    let mut values = Vec::new();
    for leaf in options.leaves {
        let (value, origin) = match by_path.remove(&leaf.path) {
            Some(given) => (given.value, given.origin),
            None => (leaf.default, DEFAULT.to_string()),
        };
        put(&mut table, &leaf.path, value.clone());
        values.push((leaf.path, value, origin));
    }
    let config = Config::from_table(table).context("the settings do not fit together")?;
    Ok(Resolved {
        settings: config.settings,
        rag: config.rag,
        raft: config.raft,
        eval: config.eval,
        advise: config.advise,
        log: config.log,
        values,
    })
}

impl Resolved {
    /// The settings as TOML that can be run, each with where it came from.
    pub fn show(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for (path, value, origin) in &self.values {
            let (here, key) = path.rsplit_once('.').unwrap_or(("", path));
            if here != section {
                text += &format!("\n[{here}]\n");
                section = here;
            }
            let setting = format!("{key} = {value}");
            text += &format!("{setting:<44} # {origin}\n");
        }
        text
    }
}

fn refused(problems: &[Problem]) -> anyhow::Error {
    let list = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let message = match problems.len() {
        1 => list,
        many => format!("{many} problems in the settings\n{list}"),
    };
    let of_rag = |problem: &Problem| {
        let sections = ["`rag", "`raft", "`eval", "`advise", "`log"];
        let named = |section: &&str| {
            let rest = problem.text.split_once(*section).map(|(_, rest)| rest);
            rest.is_some_and(|rest| rest.starts_with(['.', '`']))
        };
        sections.iter().any(named)
    };
    let hint = match problems.iter().all(of_rag) {
        true => "configs/rag.toml explains every key of [rag], [raft], [eval], [advise] and [log]",
        false => "a config is TOML; `tune init` writes one that explains every key",
    };
    Failure::error(message, hint)
}

fn cannot_read(config: &Path, error: std::io::Error) -> anyhow::Error {
    let hint = match error.kind() {
        std::io::ErrorKind::NotFound => "paths are relative to the folder you start in; `tune init` writes a config",
        std::io::ErrorKind::IsADirectory => "name a config file in it",
        _ => "check the file's owner and mode",
    };
    Failure::caused(format!("cannot read the config {}", config.display()), hint, error)
}

fn not_utf8(config: &Path, error: &std::string::FromUtf8Error) -> anyhow::Error {
    let at = error.utf8_error().valid_up_to();
    let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
    Failure::error(
        format!("{}:{line}: invalid UTF-8 at byte {at} of the file", config.display()),
        "a config is TOML: UTF-8 text",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "[model]\nbase = \"org/name\"\n[data]\ntrain = [\"a.jsonl\"]\n[train]\nseed = 1\nepochs = 2\n";

    fn layers(text: &str, variables: &[(&str, &str)], set: &[&str]) -> anyhow::Result<Resolved> {
        let file = TomlFile {
            name: "c.toml".into(),
            text: text.into(),
        };
        let variables: Vec<_> = variables.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        resolve_layers(
            file,
            &variables,
            &set.iter().map(ToString::to_string).collect::<Vec<_>>(),
        )
    }

    #[test]
    fn flags_win_over_environment_over_file_over_default() {
        let seed = |resolved: Resolved| resolved.settings.train.seed;
        let variable = [("TUNE_TRAIN__SEED", "2")];
        assert_eq!(seed(layers(FILE, &[], &[]).unwrap()), 1);
        assert_eq!(seed(layers(FILE, &variable, &[]).unwrap()), 2);
        assert_eq!(seed(layers(FILE, &variable, &["train.seed=3"]).unwrap()), 3);
        let resolved = layers(FILE, &[], &[]).unwrap();
        assert_eq!(resolved.settings.train.eps, Settings::default().train.eps);
    }

    #[test]
    fn shown_settings_say_their_origin_and_can_be_run() {
        let variable = [("TUNE_LORA__R", "4")];
        let resolved = layers(FILE, &variable, &["lora.targets=q_proj"]).unwrap();
        let shown = resolved.show();
        let origin = |key: &str| {
            shown
                .lines()
                .find(|l| l.starts_with(key))
                .and_then(|l| l.split("# ").nth(1))
        };
        assert_eq!(origin("epochs ="), Some("c.toml:7"));
        assert_eq!(origin("r ="), Some("TUNE_LORA__R"));
        assert_eq!(origin("targets ="), Some("--set"));
        assert_eq!(origin("eps ="), Some("default"));
        assert_eq!(layers(&shown, &[], &[]).unwrap().settings, resolved.settings);
    }

    #[test]
    fn problems_of_all_layers_are_told_together() {
        let error = layers("[lora]\nrank = 1\n", &[("TUNE_TRAIN__SEDE", "1")], &["x=1"])
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("3 problems"), "{error}");
    }

    #[test]
    fn a_key_of_retrieval_is_explained_elsewhere_than_one_of_training() {
        let hint = |set| layers("", &[], &[set]).unwrap_err().downcast::<Failure>().unwrap().hint;
        assert!(hint("rag.topk=3").starts_with("configs/rag.toml"));
        assert!(hint("eval.batch_size=x").starts_with("configs/rag.toml"));
        assert!(hint("log=x").starts_with("configs/rag.toml"));
        assert!(hint("logs=x").contains("tune init"));
        assert!(hint("train.sede=3").contains("tune init"));
    }
}
