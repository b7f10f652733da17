//! HTML to Markdown: the main content, without navigation, scripts and footers.
use super::{Extracted, squeezed};
use dom_query::Document;
use dom_smoothie::{CandidateSelectMode, Config, Readability, TextMode};

/// More elements than a book has; scoring them takes seconds.
const MAX_ELEMENTS: usize = 200_000;
const BOILERPLATE: &str = "script, style, noscript, template, nav, header, footer, aside, form, iframe, svg";

pub fn extract(html: &str) -> Result<Extracted, String> {
    let document = Document::from(html);
    let elements = document.select("*").length();
    if elements > MAX_ELEMENTS {
        return Err(format!("{elements} elements; more than {MAX_ELEMENTS} are not read"));
    }
    let title = squeezed(&document.select("title").text());
    let text = main_content(&document).unwrap_or_else(|| whole_body(&document));
    Ok(Extracted {
        title: Some(title),
        markdown: true,
        text,
        ..Extracted::default()
    })
}

/// What the page itself marks as its content, else what scores highest.
fn main_content(document: &Document) -> Option<String> {
    let config = Config {
        text_mode: TextMode::Markdown,
        candidate_select_mode: CandidateSelectMode::DomSmoothie,
        ..Config::default()
    };
    let mut reader = Readability::with_document(document.clone(), None, Some(config)).ok()?;
    Some(reader.parse().ok()?.text_content.to_string())
}

/// For pages too short to tell content from the rest.
fn whole_body(document: &Document) -> String {
    document.select(BOILERPLATE).remove();
    document
        .select("body")
        .nodes()
        .iter()
        .map(|node| node.md(None).to_string())
        .collect()
}
