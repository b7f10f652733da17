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
pub const FORMATS: [&dyn Format; 5] = [
    &messages::Messages,
    &sharegpt::ShareGpt,
    &prompt_response::PromptResponse,
    &alpaca::Alpaca,
    &text::Text,
];

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

/// The key of this row that is most like one that is wanted and absent.
pub fn misspelt_hint(row: &Object, spec: &DataSpec) -> Option<String> {
    let wanted = [&spec.prompt_key, &spec.response_key]
        .into_iter()
        .find(|key| !row.contains_key(*key))?;
    let near = crate::read::nearest(wanted, row.keys().cloned())?;
    Some(format!(
        "\"{near}\" may be a misspelt \"{wanted}\"; correct or remove these rows"
    ))
}

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
        Some(Value::Array(list)) => list,
        Some(other) => return Err(format!("\"{key}\" is {}, wanted a list of objects", kind(other))),
        None => return Err(format!("no key \"{key}\"; found {}", keys(row))),
    };
    if list.is_empty() {
        return Err(format!("\"{key}\" is an empty list"));
    }
    let object = |(i, v): (usize, &'a Value)| {
        v.as_object()
            .ok_or_else(|| format!("{key}[{i}] is {}, wanted an object", kind(v)))
    };
    list.iter().enumerate().map(object).collect()
}

/// `"weight"`: 0 or 1, 1 where there is none.
pub(crate) fn weight(object: &Object) -> std::result::Result<f32, String> {
    match object.get("weight") {
        None => Ok(1.0),
        Some(weight) if weight == 0 || weight == 0.0 => Ok(0.0),
        Some(weight) if weight == 1 || weight == 1.0 => Ok(1.0),
        Some(other) => Err(format!("weight {other}, wanted 0 or 1")),
    }
}

/// Prompt and response as a conversation, with an optional system message before them.
pub(crate) fn exchange(system: Option<&str>, prompt: &str, response: &str) -> Body {
    let mut messages: Vec<_> = system.map(|s| Message::new("system", s)).into_iter().collect();
    messages.push(Message::new("user", prompt));
    messages.push(Message::new("assistant", response));
    Body::Chat(messages)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub fn spec() -> DataSpec {
        DataSpec {
            train: Vec::new(),
            validation: Validation::None,
            format: FormatChoice::Auto,
            prompt_key: "prompt".into(),
            response_key: "response".into(),
            max_length: 64,
            packing: true,
            too_long: TooLong::Cut,
            on_empty: OnEmpty::Error,
            learn: Learn::Assistant,
            system: None,
            seed: 1,
        }
    }

    /// `format: role "content" …` or the problem.
    fn read(row: &Value, spec: &DataSpec) -> String {
        let row = row.as_object().unwrap();
        let (format, why) = match sniff(row, spec) {
            Ok(found) => found,
            Err(hint) => return format!("unknown; {}", hint.unwrap_or_default()),
        };
        let body = match format.parse(row, spec) {
            Ok((Body::Text(text), _)) => format!("{text:?}"),
            Ok((Body::Chat(messages), _)) => {
                let weight = |m: &Message| if m.weight == 0.0 { " (0)" } else { "" };
                let message = |m: &Message| format!("{} {:?}{}", m.role, m.content, weight(m));
                messages.iter().map(message).collect::<Vec<_>>().join(", ")
            }
            Err(problem) => format!("error: {problem}"),
        };
        format!("{} ({why}): {body}", format.choice().name())
    }

    fn all(rows: &[Value]) -> String {
        rows.iter().map(|row| read(row, &spec())).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn each_format_is_known_by_its_keys() {
        insta::assert_snapshot!(all(&[
            json!({"prompt": "a", "response": "b"}),
            json!({"prompt": "a", "response": "b", "system": "s"}),
            json!({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b", "weight": 0}], "prompt": "x", "response": "y"}),
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f"}}]},
                {"role": "tool", "content": "c"}]}),
            json!({"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}),
            json!({"instruction": "a", "input": "i", "output": "b"}),
            json!({"instruction": "a", "input": "", "output": "b"}),
            json!({"text": "t"}),
        ]), @r#"
        prompt-response (rows have keys prompt, response): user "a", assistant "b"
        prompt-response (rows have keys prompt, response): system "s", user "a", assistant "b"
        messages (rows have keys messages): system "s", user "a", assistant "b" (0)
        messages (rows have keys messages): user "ab", assistant "", tool "c"
        sharegpt (rows have keys conversations): system "s", user "a", assistant "b"
        alpaca (rows have keys instruction, output): user "a\n\ni", assistant "b"
        alpaca (rows have keys instruction, output): user "a", assistant "b"
        text (rows have keys text): "t"
        "#);
    }

    #[test]
    fn what_is_wrong_is_said() {
        insta::assert_snapshot!(all(&[
            json!({"question": "a", "answer": "b"}),
            json!({"promt": "a", "respose": "b"}),
            json!({"x": "a"}),
            json!({"prompt": "a", "response": 3}),
            json!({"prompt": " ", "response": "b"}),
            json!({"prompt": ["a"], "response": "b"}),
            json!({"messages": []}),
            json!({"messages": ["a"]}),
            json!({"messages": [{"role": "human", "content": "a"}]}),
            json!({"messages": [{"role": "user", "text": "a"}]}),
            json!({"messages": [{"role": "user", "content": "a", "weight": 0.5}]}),
            json!({"messages": [{"role": "user", "content": [{"type": "image"}]}]}),
            json!({"conversations": [{"from": "bot", "value": "a"}]}),
            json!({"instruction": "a", "output": null}),
        ]), @r#"
        unknown; set data.prompt_key = "question" and data.response_key = "answer"
        unknown; set data.prompt_key = "promt" and data.response_key = "respose"
        unknown; set data.prompt_key and data.response_key to two of these keys, or data.format
        prompt-response (rows have keys prompt, response): error: "response" is a number, wanted text
        prompt-response (rows have keys prompt, response): error: "prompt" is empty
        prompt-response (rows have keys prompt, response): error: "prompt" is a list, wanted text
        messages (rows have keys messages): error: "messages" is an empty list
        messages (rows have keys messages): error: messages[0] is text, wanted an object
        messages (rows have keys messages): error: messages[0]: role "human", wanted one of system, user, assistant, tool
        messages (rows have keys messages): error: messages[0]: no key "content"; found role, text
        messages (rows have keys messages): error: messages[0]: weight 0.5, wanted 0 or 1
        messages (rows have keys messages): error: messages[0]: content part of type "image", wanted text alone
        sharegpt (rows have keys conversations): error: conversations[0]: from "bot", wanted one of human, user, gpt, assistant, chatgpt, model, system, tool, observation
        alpaca (rows have keys instruction, output): error: "output" is null, wanted text
        "#);
    }

    #[test]
    fn keys_and_format_can_be_set() {
        let keys = DataSpec {
            prompt_key: "q".into(),
            response_key: "a".into(),
            ..spec()
        };
        assert_eq!(
            read(&json!({"q": "1", "a": "2"}), &keys),
            "prompt-response (rows have keys q, a): user \"1\", assistant \"2\""
        );
        let text = DataSpec {
            format: FormatChoice::Text,
            ..spec()
        };
        assert_eq!(
            read(&json!({"messages": [], "text": "t"}), &text),
            "text (set by data.format): \"t\""
        );
    }
}
