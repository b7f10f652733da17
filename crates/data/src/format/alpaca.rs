//! `{"instruction": "…", "input": "…", "output": "…"}`; `input` may be absent or empty, `system` may be there.
use super::*;

pub struct Alpaca;

impl Format for Alpaca {
    fn choice(&self) -> FormatChoice {
        FormatChoice::Alpaca
    }

    fn recognize(&self, row: &Object, _: &DataSpec) -> Option<Vec<String>> {
        let keys = ["instruction", "output"];
        keys.iter()
            .all(|key| row.contains_key(*key))
            .then(|| keys.map(String::from).to_vec())
    }

    fn parse(&self, row: &Object, _: &DataSpec) -> Parsed {
        let (instruction, output) = (text_at(row, "instruction")?, text_at(row, "output")?);
        let prompt = match optional_text(row, "input")? {
            Some(input) => format!("{instruction}\n\n{input}"),
            None => instruction.to_owned(),
        };
        if prompt.trim().is_empty() {
            return Err("\"instruction\" is empty".into());
        }
        Ok((exchange(optional_text(row, "system")?, &prompt, output), None))
    }
}
