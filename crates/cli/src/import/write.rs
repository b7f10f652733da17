//! The config as text: the one `tune init` writes, with the values that were moved in and where each comes from.
use super::{Move, Rival};
use crate::command::init::{TEMPLATE, aligned};
use crate::printer::shell_word;
use std::path::Path;

pub fn config(moving: &Move, rival: &Rival, path: &Path, report: &str) -> String {
    let source = shell_word(&path.display().to_string());
    let mut text = format!(
        "# LoRA fine-tuning config, moved in from {} by `tune import {source}`. What became of each key, and what is\n\
         # left to be done, stands at the end. In brackets: the key a value comes from.\n",
        rival.title
    );
    let mut section = String::new();
    // The head of the template is for those who begin.
    for line in TEMPLATE.lines().skip_while(|line| line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{name}.");
        }
        text += &match line.split_once(" = ") {
            Some((key, rest)) => setting(moving, &format!("{section}{key}"), key, rest),
            None => format!("{line}\n"),
        };
    }
    text += "\n";
    for line in report.lines() {
        text += format!("# {line}").trim_end();
        text += "\n";
    }
    text
}

fn setting(moving: &Move, path: &str, key: &str, rest: &str) -> String {
    let (template, comment) = rest
        .split_once(" # ")
        .map_or((rest, ""), |(value, comment)| (value, comment));
    let default = || moving.options.leaf(path).map(|leaf| leaf.default.to_string());
    let value = match moving.values.get(path) {
        Some(value) => value.to_string(),
        None if template.contains('{') => default().unwrap_or_default(),
        None => template.trim_end().into(),
    };
    // What `tune init` would have measured.
    let comment = comment.split('{').next().unwrap_or_default();
    let origin = moving.origins.get(path).map(|origin| format!("[{origin}]"));
    let comment: Vec<_> = [Some(comment), origin.as_deref()]
        .into_iter()
        .flatten()
        .filter(|c| !c.is_empty())
        .collect();
    aligned(&format!("{key} = {value}"), &comment.join(" "))
}
