//! `{"messages": [{"role": "user", "content": "…"}, …]}`, optionally with `"tools"` and a `"weight"` a message.
use super::*;

pub struct Messages;

const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

impl Format for Messages {
    fn choice(&self) -> FormatChoice {
        FormatChoice::Messages
    }

    fn recognize(&self, row: &Object, _: &DataSpec) -> Option<Vec<String>> {
        row.get("messages")
            .filter(|v| v.is_array())
            .map(|_| vec!["messages".into()])
    }

    fn parse(&self, row: &Object, _: &DataSpec) -> Parsed {
        let parsed = objects_at(row, "messages")?.into_iter().enumerate();
        let messages = parsed.map(|(i, m)| message(m).map_err(|e| format!("messages[{i}]: {e}")));
        let tools = match row.get("tools") {
            None | Some(Value::Null) => None,
            Some(Value::Array(tools)) if tools.is_empty() => None,
            Some(tools @ Value::Array(_)) => Some(tools.clone()),
            Some(other) => return Err(format!("\"tools\" is {}, wanted a list", kind(other))),
        };
        Ok((Body::Chat(messages.collect::<std::result::Result<_, _>>()?), tools))
    }
}

fn message(object: &Object) -> std::result::Result<Message, String> {
    let mut extra = object.clone();
    let role = match text_at(object, "role")? {
        "developer" => "system",
        role if ROLES.contains(&role) => role,
        other => return Err(format!("role \"{other}\", wanted one of {}", ROLES.join(", "))),
    };
    let weight = weight(object)?;
    for key in ["role", "weight"] {
        extra.shift_remove(key);
    }
    let content = match object.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parts.iter().map(part).collect::<std::result::Result<_, _>>()?,
        // An assistant that only calls tools says nothing; templates tell null from "".
        None | Some(Value::Null) if extra.contains_key("tool_calls") => {
            extra.insert("content".into(), Value::Null);
            return Ok(Message {
                role: role.into(),
                content: String::new(),
                weight,
                extra,
            });
        }
        Some(other) => return Err(format!("\"content\" is {}, wanted text", kind(other))),
        None => return Err(format!("no key \"content\"; found {}", keys(object))),
    };
    extra.shift_remove("content");
    extra.retain(|_, v| !v.is_null());
    Ok(Message {
        role: role.into(),
        content,
        weight,
        extra,
    })
}

fn part(part: &Value) -> std::result::Result<String, String> {
    match (
        part.get("type").and_then(Value::as_str),
        part.get("text").and_then(Value::as_str),
    ) {
        (Some("text") | None, Some(text)) => Ok(text.to_owned()),
        (Some(other), _) => Err(format!("content part of type \"{other}\", wanted text alone")),
        _ => Err("content part without text".into()),
    }
}
