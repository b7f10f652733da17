//! DOCX to Markdown.
use super::Extracted;
use undoc::render::{RenderOptions, to_markdown};

pub fn extract(data: &[u8]) -> Result<Extracted, String> {
    let document = undoc::parse_bytes(data).map_err(|error| match error {
        undoc::Error::Encrypted => "encrypted: it needs a password".to_string(),
        other => format!("damaged ({other})"),
    })?;
    let options = RenderOptions {
        escape_special_chars: false,
        ..RenderOptions::default()
    };
    let text = to_markdown(&document, &options).map_err(|error| error.to_string())?;
    Ok(Extracted {
        title: document.metadata.title,
        markdown: true,
        text,
        ..Extracted::default()
    })
}
