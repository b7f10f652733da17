//! JSONL: one document a line, its text under a key, beside it perhaps `title` and `id`.
use super::{Extracted, Format, Raw};
use serde_json::Value;
use std::collections::BTreeSet;

/// Lines without a document that are named; of a file with the wrong key there would be no end of them.
const NAMED: usize = 5;

/// The documents, and what is wrong with the lines that are none. A document is named `file.jsonl#id`, or by its line's
/// number, from 1, where it has no id.
pub fn lines(file: &str, data: &[u8], text_key: &str, modified: u64) -> Result<(Vec<Raw>, Vec<String>), String> {
    let text = super::encoding::decode(data, None)?;
    let mut names = BTreeSet::new();
    let (mut documents, mut problems) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match document(file, index + 1, line, text_key, modified) {
            Ok(raw) if names.insert(raw.path.clone()) => documents.push(raw),
            Ok(raw) => problems.push(format!(
                "line {} has the name {:?} of an earlier line",
                index + 1,
                raw.path
            )),
            Err(problem) => problems.push(problem),
        }
    }
    if let Some(more) = problems.len().checked_sub(NAMED).filter(|&more| more > 0) {
        problems.truncate(NAMED);
        problems.push(format!("{more} more lines"));
    }
    Ok((documents, problems))
}

fn document(file: &str, number: usize, line: &str, text_key: &str, modified: u64) -> Result<Raw, String> {
    let row: Value = serde_json::from_str(line).map_err(|error| format!("line {number} is no JSON ({error})"))?;
    let body = row.get(text_key).and_then(Value::as_str);
    let body = body.ok_or_else(|| format!("line {number} has no text under {text_key:?} (rag.text_key)"))?;
    let name = match row.get("id") {
        Some(Value::String(id)) => format!("{file}#{id}"),
        Some(Value::Number(id)) => format!("{file}#{id}"),
        _ => format!("{file}#{number}"),
    };
    let title = row.get("title").and_then(Value::as_str).unwrap_or_default();
    let data = format!("{}\n{body}", super::squeezed(title));
    Ok(Raw {
        path: name,
        hash: blake3::hash(data.as_bytes()).to_hex().to_string(),
        bytes: line.len() as u64,
        modified,
        format: Format::Jsonl,
        data: data.into_bytes(),
    })
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
        let (found, problems) = lines("f.jsonl", data, "text", 0).unwrap();
        assert_eq!(problems, [""; 0]);
        let names: Vec<_> = found.iter().map(|raw| raw.path.as_str()).collect();
        assert_eq!(names, ["f.jsonl#a", "f.jsonl#3"]);
        let document = found.into_iter().next().unwrap().extract().unwrap();
        assert_eq!((document.title.as_str(), document.text.as_str()), ("T", "one"));
    }

    #[test]
    fn a_bad_line_is_named_and_the_others_are_documents() {
        let data = b"{\"id\":1,\"text\":\"a\"}\n{\n{\"body\":\"b\"}\n{\"id\":1,\"text\":\"c\"}\n{\"text\":\"d\"}\n";
        let (found, problems) = lines("f", data, "text", 0).unwrap();
        assert_eq!(
            found.iter().map(|raw| raw.path.as_str()).collect::<Vec<_>>(),
            ["f#1", "f#5"]
        );
        assert!(problems[0].starts_with("line 2 is no JSON"), "{problems:?}");
        assert!(
            problems[1].contains("line 3") && problems[1].contains("rag.text_key"),
            "{problems:?}"
        );
        assert!(
            problems[2].contains("line 4") && problems[2].contains("earlier line"),
            "{problems:?}"
        );
        let (found, problems) = lines("f", "{}\n".repeat(1000).as_bytes(), "text", 0).unwrap();
        assert_eq!((found.len(), problems.len()), (0, NAMED + 1));
        assert_eq!(problems[NAMED], "995 more lines");
    }
}
