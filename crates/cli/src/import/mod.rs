//! Configs of other trainers to settings of ours. Each rival is a table from its keys to what becomes of them; here is
//! what reads the tables, and sees to it that no key is passed over in silence.
mod axolotl;
mod common;
mod llamafactory;
mod mlx;
mod report;
mod transformers;
mod trl;
mod unsloth;
mod write;
mod yaml;

use crate::args::Rival as Name;
use crate::config::Config;
use crate::errors::Failure;
use crate::options::{Options, nearest, put};
use anyhow::Context;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Another trainer and the names of its config.
pub struct Rival {
    pub name: Name,
    pub title: &'static str,
    /// Keys that no other trainer has, by which its configs are recognized.
    signs: &'static [&'static str],
    /// Where the base model stands.
    base: &'static str,
    rules: &'static [Table],
    /// What hangs together over several keys.
    finish: fn(&mut Move),
    /// What it does where its config says nothing, as TOML.
    defaults: &'static [(&'static str, &'static str)],
}

/// Key (dotted where nested) to what becomes of it.
type Table = &'static [(&'static str, Rule)];

#[derive(Clone, Copy)]
enum Rule {
    /// The same setting, under this name.
    Same(&'static str),
    /// Of no consequence for the adapter that comes out.
    Needless(&'static str),
    /// Not done by tune, and why; nothing is lost where it is off.
    Lost(&'static str),
    /// Refused where it is on: what cannot be, and what can.
    Never(&'static str, &'static str),
    /// Translated by code.
    By(fn(&mut Move, &str, &Value)),
    /// Read together with another key, by the rule there or by `finish`.
    With,
}

const RIVALS: [&Rival; 5] = [
    &axolotl::AXOLOTL,
    &llamafactory::LLAMA_FACTORY,
    &trl::TRL,
    &unsloth::UNSLOTH,
    &mlx::MLX,
];

/// What became of one key.
#[derive(Debug, Clone, PartialEq)]
enum Fate {
    Taken(String),
    Changed {
        to: String,
        why: String,
    },
    Dropped(String),
    Needless(String),
    /// Nothing stands there, or it is switched off.
    Off,
    Unknown(Option<&'static str>),
}

#[derive(Debug)]
struct Note {
    /// Dotted, with the number of a list's item: `datasets[0].path`.
    key: String,
    found: String,
    fate: Fate,
}

/// A config on its way over.
pub struct Move {
    source: Value,
    options: Options,
    /// Of the config, to find what it names.
    folder: PathBuf,
    /// Where a chat template that stands in the config can be written.
    template_file: Option<PathBuf>,
    template: Option<String>,
    values: BTreeMap<String, toml::Value>,
    /// The key a value came from, or whose default it is.
    origins: BTreeMap<String, String>,
    notes: Vec<Note>,
    /// Settings nothing was said about, as the rival has them.
    defaults: Vec<String>,
    todo: Vec<String>,
    problems: Vec<String>,
    refusals: Vec<(String, String)>,
    data: common::Data,
}

/// What an import comes to.
pub enum Outcome {
    Config(Box<Imported>),
    /// What cannot be, each with what can.
    Refused {
        title: &'static str,
        refusals: Vec<(String, String)>,
    },
}

pub struct Imported {
    pub toml: String,
    pub report: String,
    pub template: Option<(PathBuf, String)>,
    /// How many things are left for a person to do.
    pub todo: usize,
}

/// # Errors
/// If `path` cannot be read, is not recognized, or holds values that cannot be.
pub fn import(path: &Path, from: Option<Name>, template_file: Option<PathBuf>) -> anyhow::Result<Outcome> {
    let (moved, rival) = moved(path, from, template_file)?;
    moved.outcome(rival, path)
}

fn moved(path: &Path, from: Option<Name>, template_file: Option<PathBuf>) -> anyhow::Result<(Move, &'static Rival)> {
    let source = Value::Object(yaml::read(path)?);
    let shown = path.display().to_string();
    let rival = match from {
        Some(name) => RIVALS.into_iter().find(|rival| rival.name == name),
        None => None,
    };
    let rival = match rival {
        Some(rival) => rival,
        None => recognize(&shown, &source)?,
    };
    let mut moving = Move {
        source,
        options: Options::new()?,
        folder: path.parent().unwrap_or(Path::new("")).into(),
        template_file,
        template: None,
        values: BTreeMap::new(),
        origins: BTreeMap::new(),
        notes: Vec::new(),
        defaults: Vec::new(),
        todo: Vec::new(),
        problems: Vec::new(),
        refusals: Vec::new(),
        data: common::Data::default(),
    };
    moving.run(rival);
    Ok((moving, rival))
}

/// The rival most of whose signs are there.
fn recognize(shown: &str, source: &Value) -> anyhow::Result<&'static Rival> {
    let has = |sign: &str| at(source, sign).is_some();
    let scored = RIVALS.map(|rival| (rival.signs.iter().filter(|sign| has(sign)).count(), rival));
    let most = scored.iter().map(|(score, _)| *score).max().unwrap_or(0);
    let mut best = scored.iter().filter(|(score, _)| *score == most && most > 0);
    let title = |(_, rival): &(usize, &Rival)| rival.title;
    match (best.next(), best.next()) {
        (Some((_, rival)), None) => Ok(rival),
        (Some(first), Some(second)) => Err(Failure::error(
            format!("{shown} has keys of {} and of {}", title(first), title(second)),
            format!(
                "say which it is, by --from {} or --from {}",
                first.1.name, second.1.name
            ),
        )),
        (None, _) => {
            let keys: Vec<_> = source.as_object().into_iter().flat_map(|map| map.keys()).collect();
            let signs = || {
                RIVALS
                    .iter()
                    .flat_map(|rival| rival.signs.iter().map(move |sign| (*sign, *rival)))
            };
            let near = keys.iter().find_map(|key| {
                let sign = nearest(key, signs().map(|(sign, _)| sign))?;
                let (_, rival) = signs().find(|(known, _)| *known == sign)?;
                Some(format!("; `{key}` looks like `{sign}` of {}", rival.title))
            });
            Err(Failure::error(
                format!(
                    "{shown} is no config that is known: found {}{}; wanted keys of {}{}",
                    keys.iter()
                        .take(8)
                        .map(|key| key.as_str())
                        .collect::<Vec<_>>()
                        .join(", "),
                    if keys.len() > 8 { ", …" } else { "" },
                    RIVALS
                        .map(|rival| format!("{} ({}, …)", rival.title, rival.signs[0]))
                        .join(", "),
                    near.unwrap_or_default()
                ),
                "if it is one of these, say which by --from; otherwise `tune init` writes a config",
            ))
        }
    }
}

/// The value at a dotted path; null is nothing.
fn at<'a>(source: &'a Value, path: &str) -> Option<&'a Value> {
    let found = path.split('.').try_fold(source, |value, key| value.get(key));
    found.filter(|value| !value.is_null())
}

/// Nothing stands there, or it is switched off.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => ["", "none", "no", "off", "null", "false"].contains(&text.to_ascii_lowercase().as_str()),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// A value as a report shows it, on one line.
fn short(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= 48 {
        return line;
    }
    line.chars().take(45).chain("...".chars()).collect()
}

/// Every path that ends in a value, lists of objects entered.
fn leaves<'a>(prefix: &str, value: &'a Value, found: &mut Vec<(String, &'a Value)>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                leaves(&join(prefix, key), value, found);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (index, item) in items.iter().enumerate() {
                leaves(&format!("{prefix}[{index}]"), item, found);
            }
        }
        _ => found.push((prefix.to_string(), value)),
    }
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() {
        key.into()
    } else {
        format!("{prefix}.{key}")
    }
}

/// `datasets[].path` of `datasets[3].path`: as the tables have it.
fn any_item(leaf: &str) -> String {
    let mut parts = leaf.split('[');
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |text, part| {
        text + "[]" + part.split_once(']').map_or("", |(_, rest)| rest)
    })
}

/// Whether a note on `key` speaks for `leaf`.
fn covers(key: &str, leaf: &str) -> bool {
    leaf.strip_prefix(key)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

impl Move {
    fn run(&mut self, rival: &'static Rival) {
        let source = self.source.clone();
        self.walk(rival, "", &source);
        (rival.finish)(self);
        common::finish_data(self);
        let known = || rival.rules.iter().flat_map(|table| table.iter().map(|(key, _)| *key));
        let mut all = Vec::new();
        leaves("", &source, &mut all);
        for (leaf, value) in all {
            if self.notes.iter().any(|note| covers(&note.key, &leaf)) {
                continue;
            }
            let name = any_item(&leaf);
            let fate = if value.is_null() || (is_off(value) && known().any(|key| key == name)) {
                Fate::Off
            } else {
                Fate::Unknown(nearest(&name, known()))
            };
            self.note(&leaf, short(value), fate);
        }
        for (path, value) in rival.defaults {
            self.default(path, value, rival.title);
        }
        if self.get(rival.base).is_none() {
            let problem = format!("`{}` is not there, wanted the base model", rival.base);
            self.problems.push(problem);
        }
    }

    /// Rules of this place, else those of the places below it.
    fn walk(&mut self, rival: &'static Rival, prefix: &str, value: &Value) {
        let mut rules = rival.rules.iter().flat_map(|table| table.iter());
        match rules.find(|(key, _)| *key == prefix) {
            Some((key, rule)) => self.apply(key, value, *rule),
            None => {
                for (key, inner) in value.as_object().into_iter().flatten() {
                    self.walk(rival, &join(prefix, key), inner);
                }
            }
        }
    }

    fn apply(&mut self, key: &str, value: &Value, rule: Rule) {
        if value.is_null() {
            return self.note(key, "", Fate::Off);
        }
        match rule {
            Rule::With => {}
            Rule::By(code) => code(self, key, value),
            Rule::Same(path) => self.take(key, path, value),
            _ if is_off(value) => self.note(key, short(value), Fate::Off),
            Rule::Needless(why) => self.note(key, short(value), Fate::Needless(why.into())),
            Rule::Lost(why) => self.note(key, short(value), Fate::Dropped(why.into())),
            Rule::Never(what, instead) => self.refuse(key, value, what, instead),
        }
    }

    fn get(&self, path: &str) -> Option<&Value> {
        at(&self.source, path)
    }

    fn is_on(&self, path: &str) -> bool {
        self.get(path).is_some_and(|value| !is_off(value))
    }

    fn number(&self, path: &str) -> Option<f64> {
        match self.get(path)? {
            Value::String(text) => text.parse().ok(),
            value => value.as_f64(),
        }
    }

    fn text(&self, path: &str) -> Option<String> {
        self.get(path).and_then(Value::as_str).map(str::to_string)
    }

    /// The value at a path of the report, which may lead through list items.
    fn found(&self, leaf: &str) -> String {
        let keys = leaf
            .split('.')
            .flat_map(|part| part.split(['[', ']']).filter(|key| !key.is_empty()));
        let found = keys
            .into_iter()
            .try_fold(&self.source, |value, key| match key.parse::<usize>() {
                Ok(index) if value.is_array() => value.get(index),
                _ => value.get(key),
            });
        found.map(short).unwrap_or_default()
    }

    fn note(&mut self, key: &str, found: impl Into<String>, fate: Fate) {
        self.notes.push(Note {
            key: key.into(),
            found: found.into(),
            fate,
        });
    }

    /// Puts `value` at `path`, or says why it cannot stand there; true where it does.
    fn put(&mut self, key: &str, path: &str, value: toml::Value) -> bool {
        match self.options.check(path, &value) {
            Ok(()) => {
                self.values.insert(path.into(), value);
                self.origins.insert(path.into(), key.into());
                true
            }
            Err(problem) => {
                self.problems.push(problem.replacen(path, key, 1));
                false
            }
        }
    }

    /// The same value under our name.
    fn take(&mut self, key: &str, path: &str, value: &Value) {
        let value = self.converted(path, value);
        let shown = format!("{path} = {value}");
        self.put(key, path, value);
        let found = self.found(key);
        self.note(key, found, Fate::Taken(shown));
    }

    /// Another value than stands there, and why.
    fn change(&mut self, key: &str, path: &str, value: impl Into<toml::Value>, why: impl Into<String>) {
        let value = value.into();
        let to = format!("{path} = {value}");
        self.put(key, path, value);
        let found = self.found(key);
        self.note(key, found, Fate::Changed { to, why: why.into() });
    }

    fn drop(&mut self, key: &str, why: impl Into<String>) {
        let found = self.found(key);
        self.note(key, found, Fate::Dropped(why.into()));
    }

    fn needless(&mut self, key: &str, why: impl Into<String>) {
        let found = self.found(key);
        self.note(key, found, Fate::Needless(why.into()));
    }

    fn off(&mut self, key: &str) {
        let found = self.found(key);
        self.note(key, found, Fate::Off);
    }

    fn refuse(&mut self, key: &str, value: &Value, what: &str, instead: &str) {
        self.refusals
            .push((format!("`{key}: {}`: {what}", short(value)), instead.into()));
        self.note(key, short(value), Fate::Dropped(what.into()));
    }

    fn mistyped(&mut self, key: &str, value: &Value, wanted: &str) {
        let found = match value {
            Value::String(_) => format!("text ({:?})", short(value)),
            Value::Array(_) => "a list".into(),
            Value::Object(_) => "a section".into(),
            other => other.to_string(),
        };
        self.problems.push(format!("`{key}` is {found}, wanted {wanted}"));
    }

    /// Something a person has to do or to look at, once.
    fn ask(&mut self, what: impl Into<String>) {
        let what = what.into();
        if !self.todo.contains(&what) {
            self.todo.push(what);
        }
    }

    /// What the rival does where nothing is said, if tune would do something else.
    fn default(&mut self, path: &str, value: &str, title: &str) {
        if self.values.contains_key(path) {
            return;
        }
        let (Ok(value), Some(leaf)) = (value.parse::<toml::Value>(), self.options.leaf(path)) else {
            return;
        };
        if leaf.default != value {
            self.defaults.push(format!("{path} = {value}"));
            self.values.insert(path.into(), value);
            self.origins.insert(path.into(), format!("default of {title}"));
        }
    }

    /// A YAML value as the kind of `path` wants it: `3` for `3.0`, `"1e-4"` for `1e-4`.
    fn converted(&self, path: &str, value: &Value) -> toml::Value {
        let default = self.options.leaf(path).map(|leaf| &leaf.default);
        let number = match value {
            Value::String(text) => text.trim().parse::<f64>().ok(),
            other => other.as_f64(),
        };
        match (default, number) {
            (Some(toml::Value::Float(_)), Some(number)) => number.into(),
            (Some(toml::Value::Integer(_)), Some(number)) if number.fract() == 0.0 && number.abs() < 1e15 => {
                (number as i64).into()
            }
            _ => plain(value),
        }
    }

    fn outcome(mut self, rival: &'static Rival, path: &Path) -> anyhow::Result<Outcome> {
        let shown = path.display();
        if !self.refusals.is_empty() {
            return Ok(Outcome::Refused {
                title: rival.title,
                refusals: self.refusals,
            });
        }
        let hint = format!("{shown} was read as a config of {}; --from says otherwise", rival.title);
        if !self.problems.is_empty() {
            let list = self.problems.join("\n  ");
            return Err(Failure::error(format!("{shown} cannot be moved in:\n  {list}"), hint));
        }
        if !self.values.contains_key("output.dir") {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            self.values.insert("output.dir".into(), format!("runs/{stem}").into());
            self.defaults.push(format!("output.dir = \"runs/{stem}\""));
        }
        let mut table = toml::Table::new();
        for leaf in &self.options.leaves {
            let value = self.values.get(&leaf.path).unwrap_or(&leaf.default);
            put(&mut table, &leaf.path, value.clone());
        }
        let settings = Config::from_table(table)
            .context("the settings do not fit together")?
            .settings;
        if let Err(error) = settings.validate() {
            let message = format!("{shown} asks for what tune cannot be set to");
            return Err(Failure::caused(message, hint, error));
        }
        let report = report::report(&self, rival, path);
        Ok(Outcome::Config(Box::new(Imported {
            toml: write::config(&self, rival, path, &report),
            report,
            template: self.template_file.clone().zip(self.template.clone()),
            todo: self.todo.len(),
        })))
    }
}

/// As TOML has it; null is empty text.
fn plain(value: &Value) -> toml::Value {
    match value {
        Value::Null => "".into(),
        Value::Bool(on) => (*on).into(),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => whole.into(),
            None => number.as_f64().unwrap_or(f64::NAN).into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().into(),
        Value::Object(map) => toml::Value::Table(map.iter().map(|(key, value)| (key.clone(), plain(value))).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::resolve;

    const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens/import");

    fn fixtures(refused: bool) -> Vec<PathBuf> {
        let entries = fs_err::read_dir(FIXTURES).unwrap().map(|entry| entry.unwrap().path());
        let mut fixtures: Vec<_> = entries
            .filter(|path| path.extension().is_some_and(|extension| extension == "yml"))
            .filter(|path| stem(path).starts_with("refused-") == refused)
            .collect();
        fixtures.sort();
        fixtures
    }

    fn stem(path: &Path) -> String {
        path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn config(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("theirs.yml");
        fs_err::write(&path, text).unwrap();
        (dir, path)
    }

    fn imported(text: &str) -> Box<Imported> {
        let (_dir, path) = config(text);
        match import(&path, None, None).unwrap() {
            Outcome::Config(imported) => imported,
            Outcome::Refused { refusals, .. } => panic!("{refusals:?}"),
        }
    }

    fn refusals(text: &str) -> Vec<(String, String)> {
        let (_dir, path) = config(text);
        match import(&path, None, None).unwrap() {
            Outcome::Config(imported) => panic!("{}", imported.toml),
            Outcome::Refused { refusals, .. } => refusals,
        }
    }

    fn problem(text: &str) -> String {
        let (_dir, path) = config(text);
        match import(&path, None, None) {
            Err(error) => format!("{error:#}").replace(&path.display().to_string(), "theirs.yml"),
            Ok(_) => panic!("nothing is wrong with {text}"),
        }
    }

    /// `key = value` of a section of a written config.
    fn value(toml: &str, path: &str) -> String {
        let table = toml::Value::Table(toml.parse().unwrap());
        let found = path.split('.').try_fold(&table, |value, key| value.get(key));
        found.map(ToString::to_string).unwrap_or_default()
    }

    #[test]
    fn published_configs_convert_and_no_key_is_passed_over() {
        let fixtures = fixtures(false);
        assert!(fixtures.len() >= 15, "{}", fixtures.len());
        let dir = tempfile::tempdir().unwrap();
        for path in fixtures {
            let name = stem(&path);
            let (moved, rival) = moved(&path, None, Some("my.jinja".into())).unwrap();
            assert!(
                name.starts_with(&rival.name.to_string()),
                "{name} was read as {}",
                rival.title
            );
            let mut all = Vec::new();
            leaves("", &moved.source, &mut all);
            for (leaf, _) in all {
                let notes: Vec<_> = moved.notes.iter().filter(|note| covers(&note.key, &leaf)).collect();
                assert_eq!(notes.len(), 1, "{name}: {leaf}: {notes:?}");
                assert!(
                    !matches!(notes[0].fate, Fate::Unknown(_)),
                    "{name}: {leaf} is not known"
                );
            }
            let Outcome::Config(imported) = moved.outcome(rival, Path::new("theirs.yml")).unwrap() else {
                panic!("{name} is refused");
            };
            let out = dir.path().join("c.toml");
            fs_err::write(&out, &imported.toml).unwrap();
            let settings = resolve(&out, &[])
                .unwrap_or_else(|error| panic!("{name}: {error}"))
                .settings;
            settings.validate().unwrap();
            let mut insta = insta::Settings::clone_current();
            insta.set_snapshot_path(FIXTURES);
            insta.set_prepend_module_to_snapshot(false);
            insta.set_omit_expression(true);
            insta.bind(|| insta::assert_snapshot!(name, imported.toml));
        }
    }

    #[test]
    fn what_tune_cannot_do_is_refused() {
        let said: Vec<_> = fixtures(true)
            .iter()
            .map(|path| match import(path, None, None).unwrap() {
                Outcome::Config(_) => panic!("{} is not refused", path.display()),
                Outcome::Refused { refusals, title } => format!("{} ({title}): {refusals:#?}", stem(path)),
            })
            .collect();
        insta::assert_snapshot!(said.join("\n"));
    }

    #[test]
    fn tables_name_settings_that_are_and_no_key_twice() {
        let options = Options::new().unwrap();
        for rival in RIVALS {
            let rules: Vec<_> = rival.rules.iter().flat_map(|table| table.iter()).collect();
            for (index, (key, rule)) in rules.iter().enumerate() {
                assert!(
                    !rules[..index].iter().any(|(other, _)| other == key),
                    "{}: {key} twice",
                    rival.title
                );
                if let Rule::Same(path) = rule {
                    assert!(options.leaf(path).is_some(), "{}: no setting {path}", rival.title);
                }
            }
            for (path, value) in rival.defaults {
                options.check(path, &value.parse().unwrap()).unwrap();
            }
            for sign in rival.signs {
                let others = RIVALS.iter().filter(|other| other.signs.contains(sign)).count();
                assert_eq!(others, 1, "{sign} is a sign of several");
                let section = rules
                    .iter()
                    .any(|(key, _)| *key == *sign || key.starts_with(&format!("{sign}.")));
                assert!(section, "{}: sign {sign} has no rule", rival.title);
            }
        }
    }

    const AXOLOTL: &str = "base_model: org/name\nadapter: lora\ndatasets:\n- path: a.jsonl\n  type: alpaca\n\
                           micro_batch_size: 2\nlearning_rate: 2e-4\nlora_target_linear: true\n";

    #[test]
    fn every_wrong_value_is_told_by_its_own_name() {
        let text = AXOLOTL.to_string() + "lora_r: sixteen\nnum_epochs: [1]\nbf16: perhaps\nval_set_size: much\n";
        assert_eq!(
            problem(&text),
            "theirs.yml cannot be moved in:\n  \
             `lora_r` is text (\"sixteen\"), wanted a whole number, 0 or more\n  \
             `num_epochs` is the list [1], wanted a number\n  \
             `bf16` is text (\"perhaps\"), wanted true, false or auto\n  \
             `val_set_size` is text (\"much\"), wanted a share from 0 to below 1, or a number of rows"
        );
        assert!(problem(&(AXOLOTL.to_string() + "lora_r: 0\n")).contains("lora.r"));
        assert!(problem(&AXOLOTL.replace("base_model: org/name\n", "")).contains("`base_model` is not there"));
        assert!(
            problem("base_model: 7\nadapter: lora\nsequence_len: 8\n").contains("`base_model` is the whole number 7")
        );
    }

    #[test]
    fn unknown_keys_are_named_with_the_nearest() {
        let text = AXOLOTL.replace("type: alpaca", "type: alpaca\n  pth: b") + "lora_alhpa: 16\nfrobnicate: 1\n";
        let report = imported(&text).report;
        let unknown = report.split("not known to be a key\n").nth(1).unwrap();
        let unknown: Vec<_> = unknown.lines().take(3).collect();
        assert_eq!(
            unknown,
            [
                "  datasets[0].pth: b; did you mean `datasets[].path`?",
                "  lora_alhpa: 16; did you mean `lora_alpha`?",
                "  frobnicate: 1",
            ]
        );
    }

    #[test]
    fn what_is_no_known_config_is_said_with_what_it_looks_like() {
        let said = problem("base_modle: org/name\nlr: 1\n");
        assert!(said.contains("found base_modle, lr"), "{said}");
        assert!(
            said.contains("`base_modle` looks like `base_model` of Axolotl"),
            "{said}"
        );
        let both = problem("base_model: a\niters: 5\n");
        assert!(both.contains("keys of Axolotl and of mlx-lm"), "{both}");
    }

    #[test]
    fn schedules_and_steps_are_translated() {
        let text =
            AXOLOTL.to_string() + "max_steps: 200\nwarmup_steps: 10\neval_steps: 0.1\nsave_steps: 50\nbatch_size: 16\n";
        let toml = imported(&text).toml;
        for (path, wanted) in [
            ("train.warmup_ratio", "0.05"),
            ("train.eval_every", "20"),
            ("train.save_every", "50"),
            ("train.grad_accumulation", "8"),
            ("train.batch_size", "2"),
            ("train.epochs", "1.0"),
            ("data.train", "[\"a.jsonl\"]"),
            ("data.format", "\"alpaca\""),
            ("data.learn", "\"assistant\""),
            ("data.too_long", "\"drop\""),
        ] {
            assert_eq!(value(&toml, path), wanted, "{path}");
        }
        let wsd = "model_name_or_path: m\nstage: sft\nfinetuning_type: lora\ndataset: d\nlearning_rate: 1e-4\nmax_steps: 100\n\
                   lr_scheduler_type: warmup_stable_decay\nlr_scheduler_kwargs:\n  num_decay_steps: 20\n  min_lr_ratio: 0.1\n\
                   warmup_steps: 5\nadam_beta2: 0.95\ntrain_on_prompt: true\n";
        let toml = imported(wsd).toml;
        assert_eq!(value(&toml, "train.schedule"), "\"warmup-stable-decay\"");
        assert_eq!(value(&toml, "train.decay_ratio"), "0.2");
        assert_eq!(value(&toml, "train.warmup_ratio"), "0.05");
        assert_eq!(value(&toml, "train.betas"), "[0.9, 0.95]");
        assert_eq!(value(&toml, "data.learn"), "\"all\"");
        let constant = "model_name_or_path: m\nuse_peft: true\ndataset_name: a.jsonl\nlr_scheduler_type: constant\nwarmup_ratio: 0.1\n";
        let toml = imported(constant).toml;
        assert_eq!(value(&toml, "train.warmup_ratio"), "0.0");
        assert_eq!(value(&toml, "lora.dropout"), "0.05");
        assert_eq!(
            value(&toml, "train.learning_rate"),
            "2e-5".parse::<toml::Value>().unwrap().to_string()
        );
    }

    #[test]
    fn data_sets_keep_format_keys_and_weights() {
        let own = AXOLOTL.replace(
            "type: alpaca",
            "type:\n      field_instruction: q\n      field_output: a\n      system_prompt: Be brief.",
        );
        let toml = imported(&own).toml;
        assert_eq!(value(&toml, "data.format"), "\"prompt-response\"");
        assert_eq!(value(&toml, "data.prompt_key"), "\"q\"");
        assert_eq!(value(&toml, "data.response_key"), "\"a\"");
        assert_eq!(value(&toml, "data.system"), "\"Be brief.\"");
        let mapped = AXOLOTL.replace(
            "type: alpaca",
            "type: chat_template\n  field_messages: conversations\n  message_property_mappings:\n    role: from\n    content: value",
        );
        assert_eq!(value(&imported(&mapped).toml, "data.format"), "\"sharegpt\"");
        let mixed = AXOLOTL.replace(
            "type: alpaca",
            "type: alpaca\n- path: org/more\n  type: completion\n  split: train[:5%]",
        );
        let imported = imported(&mixed);
        assert_eq!(value(&imported.toml, "data.format"), "\"auto\"");
        assert_eq!(
            value(&imported.toml, "data.train"),
            "[\"a.jsonl\", \"data/more-train--5--.jsonl\"]"
        );
        assert!(
            imported.report.contains("load_dataset('org/more', split='train[:5%]')"),
            "{}",
            imported.report
        );
    }

    #[test]
    fn dataset_info_says_where_names_lie() {
        let text =
            "model_name_or_path: m\nstage: sft\nfinetuning_type: lora\ndataset: ours, chats\ndataset_dir: sets\n";
        let (dir, path) = config(text);
        fs_err::create_dir(dir.path().join("sets")).unwrap();
        let info = r#"{"ours": {"file_name": "o.json", "columns": {"prompt": "question", "response": "answer"}},
            "chats": {"hf_hub_url": "org/chats", "formatting": "sharegpt", "split": "test"}, "pairs": {"ranking": true}}"#;
        fs_err::write(dir.path().join("sets/dataset_info.json"), info).unwrap();
        let Outcome::Config(imported) = import(&path, None, None).unwrap() else {
            panic!("refused");
        };
        assert_eq!(
            value(&imported.toml, "data.train"),
            "[\"sets/o.json\", \"data/chats-test.jsonl\"]"
        );
        assert_eq!(value(&imported.toml, "data.prompt_key"), "\"question\"");
        fs_err::write(&path, text.replace("ours, chats", "pairs")).unwrap();
        assert!(matches!(import(&path, None, None).unwrap(), Outcome::Refused { .. }));
    }

    #[test]
    fn scale_and_the_last_blocks_of_mlx() {
        let (dir, path) = config(
            "model: base\ntrain: true\niters: 600\ngrad_accumulation_steps: 2\nnum_layers: 2\nlora_parameters:\n  rank: 16\n  scale: 2.0\n",
        );
        fs_err::create_dir(dir.path().join("base")).unwrap();
        fs_err::write(dir.path().join("base/config.json"), r#"{"num_hidden_layers": 4}"#).unwrap();
        let text = fs_err::read_to_string(&path).unwrap();
        let base = dir.path().join("base").display().to_string();
        fs_err::write(&path, text.replace("model: base", &format!("model: {base}"))).unwrap();
        let Outcome::Config(imported) = import(&path, None, None).unwrap() else {
            panic!("refused");
        };
        for (path, wanted) in [
            ("lora.alpha", "32.0"),
            ("lora.layers", "[2, 3]"),
            ("train.max_steps", "300"),
            ("train.eval_every", "100"),
            ("train.max_grad_norm", "0.0"),
            ("data.learn", "\"all\""),
        ] {
            assert_eq!(value(&imported.toml, path), wanted, "{path}");
        }
    }

    #[test]
    fn no_adapter_on_embeddings_or_the_head() {
        let some = AXOLOTL.replace("lora_target_linear: true", "lora_target_modules: [q_proj, lm_head]");
        assert_eq!(value(&imported(&some).toml, "lora.targets"), "[\"q_proj\"]");
        let none = AXOLOTL.replace("lora_target_linear: true", "lora_target_modules: [lm_head]");
        assert!(
            refusals(&none)[0].0.contains("no adapters on embeddings"),
            "{:?}",
            refusals(&none)
        );
    }
}
