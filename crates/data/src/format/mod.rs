//! The dataset formats: one file each, a list, and the sniffing that picks one and says why.
mod alpaca;
mod messages;
mod prompt_response;
mod sharegpt;
mod text;

use crate::record::Body;
use crate::*;
use serde_json::{Map, Value};

pub type Object = Map<String, Value>;
/// A record's body and its tools, or what was found and wanted.
pub type Parsed = std::result::Result<(Body, Option<Value>), String>;

/// One dataset format. To add one: a file here, a line in [`FORMATS`], a name in [`FormatChoice`].
pub trait Format: Sync {
    fn choice(&self) -> FormatChoice;
    /// The keys by which a row of this format is known, where the row has them.
    fn recognize(&self, row: &Object, spec: &DataSpec) -> Option<Vec<String>>;
    fn parse(&self, row: &Object, spec: &DataSpec) -> Parsed;
}

/// In the order they are tried: what is most particular first.
pub const FORMATS: [&dyn Format; 5] =
    [&messages::Messages, &sharegpt::ShareGpt, &prompt_response::PromptResponse, &alpaca::Alpaca, &text::Text];

impl FormatChoice {
    /// As written in a config.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::PromptResponse => "prompt-response",
            Self::Messages => "messages",
            Self::Alpaca => "alpaca",
            Self::Sharegpt => "sharegpt",
            Self::Text => "text",
        }
    }
}

/// The format of the rows and why it was picked; else the keys found and a hint.
pub fn sniff(row: &Object, spec: &DataSpec) -> std::result::Result<(&'static dyn Format, String), Option<String>> {
    if spec.format != FormatChoice::Auto {
        let chosen = FORMATS.into_iter().find(|f| f.choice() == spec.format);
        return chosen.map(|f| (f, "set by data.format".into())).ok_or(None);
    }
    for format in FORMATS {
        if let Some(keys) = format.recognize(row, spec) {
            return Ok((format, format!("rows have keys {}", keys.join(", "))));
        }
    }
    Err(key_hint(row, spec))
}

/// Names other datasets use for what we call prompt and response.
const PAIRS: [(&str, &str); 9] = [
    ("question", "answer"),
    ("prompt", "completion"),
    ("instruction", "response"),
    ("instruction", "output"),
    ("input", "output"),
    ("query", "response"),
    ("question", "response"),
    ("prompt", "answer"),
    ("source", "target"),
];

/// Which keys to set so that this row would be read.
pub fn key_hint(row: &Object, spec: &DataSpec) -> Option<String> {
    let setting = |p: &str, r: &str| format!("set data.prompt_key = \"{p}\" and data.response_key = \"{r}\"");
    if let Some((p, r)) = PAIRS.iter().find(|(p, r)| row.contains_key(*p) && row.contains_key(*r)) {
        return Some(setting(p, r));
    }
    let near = |wanted: &str| match row.contains_key(wanted) {
        true => Some(wanted.to_owned()),
        false => crate::read::nearest(wanted, row.keys().cloned()),
    };
    match (near(&spec.prompt_key), near(&spec.response_key)) {
        (Some(p), Some(r)) if p != r => Some(setting(&p, &r)),
        _ => Some("set data.prompt_key and data.response_key to two of these keys, or data.format".into()),
    }
}

/// A JSON value's kind, for messages.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The text under `key`; absent, null and other kinds are told apart.
pub(crate) fn text_at<'a>(row: &'a Object, key: &str) -> std::result::Result<&'a str, String> {
    match row.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("\"{key}\" is {}, wanted text", kind(other))),
        None => Err(format!("no key \"{key}\"; found {}", keys(row))),
    }
}

/// As [`text_at`], where an absent, null or empty text means there is none.
pub(crate) fn optional_text<'a>(row: &'a Object, key: &str) -> std::result::Result<Option<&'a str>, String> {
    match row.get(key) {
        None | Some(Value::Null) => Ok(None),
        _ => text_at(row, key).map(|text| Some(text).filter(|t| !t.is_empty())),
    }
}

pub(crate) fn keys(row: &Object) -> String {
    match row.is_empty() {
        true => "no keys".into(),
        false => row.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
    }
}

/// The list under `key`, not empty, of objects.
pub(crate) fn objects_at<'a>(row: &'a Object, key: &str) -> std::result::Result<Vec<&'a Object>, String> {
    let list = match row.get(key) {
        // CSV has no lists: there the list is JSON in a text field, which the readers leave as it is.
        Some(Value::Array(list)) => list,
        Some(other) => return Err(format!("\"{key}\" is {}, wanted a list of objects", kind(other))),
        None => return Err(format!("no key \"{key}\"; found {}", keys(row))),
    };
    if list.is_empty() {
        return Err(format!("\"{key}\" is an empty list"));
    }
    let object = |(i, v): (usize, &'a Value)| {
        v.as_object().ok_or_else(|| format!("{key}[{i}] is {}, wanted an object", kind(v)))
    };
    list.iter().enumerate().map(object).collect()
}

/// Prompt and response as a conversation, with an optional system message before them.
pub(crate) fn exchange(system: Option<&str>, prompt: &str, response: &str) -> Body {
    let mut messages: Vec<_> = system.map(|s| Message::new("system", s)).into_iter().collect();
    messages.push(Message::new("user", prompt));
    messages.push(Message::new("assistant", response));
    Body::Chat(messages)
}
