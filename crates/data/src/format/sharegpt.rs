//! `{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}`.
use super::*;

pub struct ShareGpt;

const ROLES: [(&str, &str); 9] = [
    ("human", "user"),
    ("user", "user"),
    ("gpt", "assistant"),
    ("assistant", "assistant"),
    ("chatgpt", "assistant"),
    ("model", "assistant"),
    ("system", "system"),
    ("tool", "tool"),
    ("observation", "tool"),
];

impl Format for ShareGpt {
    fn choice(&self) -> FormatChoice {
        FormatChoice::Sharegpt
    }

    fn recognize(&self, row: &Object, _: &DataSpec) -> Option<Vec<String>> {
        row.get("conversations")
            .filter(|v| v.is_array())
            .map(|_| vec!["conversations".into()])
    }

    fn parse(&self, row: &Object, _: &DataSpec) -> Parsed {
        let turns = objects_at(row, "conversations")?.into_iter().enumerate();
        let turns = turns.map(|(i, t)| turn(t).map_err(|e| format!("conversations[{i}]: {e}")));
        let mut messages = turns.collect::<std::result::Result<Vec<_>, _>>()?;
        if let Some(system) = optional_text(row, "system")? {
            messages.insert(0, Message::new("system", system));
        }
        Ok((Body::Chat(messages), None))
    }
}

fn turn(turn: &Object) -> std::result::Result<Message, String> {
    let from = text_at(turn, "from")?;
    let Some((_, role)) = ROLES.iter().find(|(name, _)| *name == from) else {
        let known = ROLES.map(|(name, _)| name).join(", ");
        return Err(format!("from \"{from}\", wanted one of {known}"));
    };
    let mut message = Message::new(*role, text_at(turn, "value")?);
    message.weight = weight(turn)?;
    Ok(message)
}
