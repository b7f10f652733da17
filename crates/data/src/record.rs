//! The one shape all dataset formats become.
use serde_json::{Map, Value};
use std::sync::Arc;

/// Where a record came from; shown as `file:line` (line counts from 1; row number for JSON lists, Parquet and CSV).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub file: Arc<str>,
    pub line: usize,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`.
    pub role: String,
    pub content: String,
    /// 0 = shown to the model but never learned.
    pub weight: f32,
    /// Anything else the row carried (`tool_calls`, `name`), handed to the chat template as is.
    pub extra: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    Chat(Vec<Message>),
    Text(String),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub origin: Origin,
    pub body: Body,
    pub tools: Option<Value>,
}

impl Message {
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
            weight: 1.0,
            extra: Map::new(),
        }
    }
}

impl Record {
    /// The messages; none for a plain text.
    pub fn messages(&self) -> &[Message] {
        match &self.body {
            Body::Chat(messages) => messages,
            Body::Text(_) => &[],
        }
    }

    /// All its texts, one after the other.
    pub fn plain_text(&self) -> String {
        match &self.body {
            Body::Text(text) => text.clone(),
            Body::Chat(messages) => messages
                .iter()
                .map(|m| m.content.as_str())
                .collect::<Vec<_>>()
                .join("\n"),
        }
    }

    /// A hash of what the record says, whatever its file, line or key order: equal records hash alike.
    pub fn content_hash(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        let mut add = |part: &str| {
            hasher
                .update(&(part.len() as u64).to_le_bytes())
                .update(part.as_bytes());
        };
        match &self.body {
            Body::Text(text) => add(text),
            Body::Chat(messages) => messages.iter().for_each(|m| {
                [m.role.as_str(), &m.content, if m.weight == 0.0 { "0" } else { "1" }]
                    .into_iter()
                    .for_each(&mut add);
                m.extra
                    .iter()
                    .for_each(|(key, value)| [key, &value.to_string()].into_iter().for_each(|s| add(s)));
            }),
        }
        add(&self.tools.as_ref().map(Value::to_string).unwrap_or_default());
        let hash = hasher.finalize();
        u64::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[i]))
    }
}
