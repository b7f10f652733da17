//! `{"prompt": "…", "response": "…"}`, optionally with `"system"`; both keys can be set.
use super::*;

pub struct PromptResponse;

impl Format for PromptResponse {
    fn choice(&self) -> FormatChoice {
        FormatChoice::PromptResponse
    }

    fn recognize(&self, row: &Object, spec: &DataSpec) -> Option<Vec<String>> {
        let keys = [&spec.prompt_key, &spec.response_key];
        keys.iter()
            .all(|key| row.contains_key(*key))
            .then(|| keys.map(String::clone).to_vec())
    }

    fn parse(&self, row: &Object, spec: &DataSpec) -> Parsed {
        let (prompt, response) = (text_at(row, &spec.prompt_key)?, text_at(row, &spec.response_key)?);
        if prompt.trim().is_empty() {
            return Err(format!("\"{}\" is empty", spec.prompt_key));
        }
        Ok((exchange(optional_text(row, "system")?, prompt, response), None))
    }
}
