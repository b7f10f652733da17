//! JSONL: one document a line, its text under a key, beside it perhaps `title` and `id`.
use super::{Extracted, Format, Raw};
use serde_json::Value;
use std::collections::BTreeSet;

/// A document is named `file.jsonl#id`, or by its line's number, from 1, where it has no id.
pub fn lines(file: &str, data: &[u8], text_key: &str, modified: u64) -> Result<Vec<Raw>, String> {
    let text = super::encoding::decode(data, None)?;
    let mut names = BTreeSet::new();
    let mut documents = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let number = index + 1;
        let row: Value = serde_json::from_str(line).map_err(|error| format!("line {number} is no JSON ({error})"))?;
        let body = row.get(text_key).and_then(Value::as_str);
        let body = body.ok_or_else(|| format!("line {number} has no text under {text_key:?} (rag.text_key)"))?;
        let name = match row.get("id") {
            Some(Value::String(id)) => format!("{file}#{id}"),
            Some(Value::Number(id)) => format!("{file}#{id}"),
            _ => format!("{file}#{number}"),
        };
        if !names.insert(name.clone()) {
            return Err(format!("line {number} has the name {name:?} of an earlier line"));
        }
        let title = row.get("title").and_then(Value::as_str).unwrap_or_default();
        let data = format!("{}\n{body}", super::squeezed(title));
        documents.push(Raw {
            path: name,
            hash: blake3::hash(data.as_bytes()).to_hex().to_string(),
            bytes: line.len() as u64,
            modified,
            format: Format::Jsonl,
            data: data.into_bytes(),
        });
    }
    Ok(documents)
}

/// Of what [`lines`] made: a line of title, then the text.
pub fn extract(data: &[u8]) -> Result<Extracted, String> {
    let (title, text) = std::str::from_utf8(data)
        .ok()
        .and_then(|data| data.split_once('\n'))
        .ok_or("no title line")?;
    Ok(Extracted {
        title: Some(title.to_string()),
        text: text.to_string(),
        ..Extracted::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_a_document() {
        let data = b"{\"id\": \"a\", \"title\": \"T\", \"text\": \"one\"}\n\n{\"text\": \"two\"}\n";
        let found = lines("f.jsonl", data, "text", 0).unwrap();
        let names: Vec<_> = found.iter().map(|raw| raw.path.as_str()).collect();
        assert_eq!(names, ["f.jsonl#a", "f.jsonl#3"]);
        let document = found.into_iter().next().unwrap().extract().unwrap();
        assert_eq!((document.title.as_str(), document.text.as_str()), ("T", "one"));
    }

    #[test]
    fn a_bad_line_is_named() {
        let reason = |data: &[u8]| lines("f", data, "text", 0).unwrap_err();
        assert!(reason(b"{\"text\": \"a\"}\n{").starts_with("line 2 is no JSON"));
        assert!(reason(b"{\"body\": \"a\"}").contains("rag.text_key"));
        assert!(reason(b"{\"id\":1,\"text\":\"a\"}\n{\"id\":1,\"text\":\"b\"}").contains("earlier line"));
    }
}
