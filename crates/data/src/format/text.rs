//! `{"text": "…"}`: documents, learned from beginning to end.
use super::*;

pub struct Text;

impl Format for Text {
    fn choice(&self) -> FormatChoice {
        FormatChoice::Text
    }

    fn recognize(&self, row: &Object, _: &DataSpec) -> Option<Vec<String>> {
        row.get("text").filter(|v| v.is_string()).map(|_| vec!["text".into()])
    }

    fn parse(&self, row: &Object, _: &DataSpec) -> Parsed {
        Ok((Body::Text(text_at(row, "text")?.to_owned()), None))
    }
}
