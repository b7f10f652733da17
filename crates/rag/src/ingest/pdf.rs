//! PDF, page by page; the outline gives the headings.
use super::{Extracted, Heading, said, squeezed};
use pdf_extract::{Document, PlainTextOutput, output_doc_page};
use std::panic::{AssertUnwindSafe, catch_unwind};

pub fn extract(data: &[u8]) -> Result<Extracted, String> {
    let mut document = Document::load_mem(data).map_err(|error| format!("damaged ({error})"))?;
    if document.is_encrypted() {
        document
            .decrypt("")
            .map_err(|_| "encrypted: it needs a password".to_string())?;
    }
    let mut found = Extracted {
        title: title(&document),
        ..Extracted::default()
    };
    let mut broken = None;
    for number in document.get_pages().into_keys() {
        found.pages.push(found.text.len());
        match page(&document, number) {
            Ok(text) => found.text.push_str(&tidied(&text)),
            Err(problem) => broken = Some(format!("page {number} is damaged ({problem})")),
        }
    }
    match broken {
        // Better no document than one of which a page is silently missing.
        Some(problem) => Err(problem),
        None => {
            found.headings = outline(&document, &found);
            Ok(found)
        }
    }
}

fn page(document: &Document, number: u32) -> Result<String, String> {
    let mut text = String::new();
    let work = AssertUnwindSafe(|| output_doc_page(document, &mut PlainTextOutput::new(&mut text), number));
    match catch_unwind(work) {
        Ok(Ok(())) => Ok(text),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => Err(said(&*panic).to_string()),
    }
}

/// Lines without blanks at their ends, one empty line between paragraphs and after the page.
fn tidied(page: &str) -> String {
    let mut text = String::with_capacity(page.len());
    for line in page.lines().map(str::trim) {
        let empty = text.is_empty() || text.ends_with("\n\n");
        if !(line.is_empty() && empty) {
            text.push_str(line);
            text.push('\n');
        }
    }
    if !text.is_empty() && !text.ends_with("\n\n") {
        text.push('\n');
    }
    text
}

fn title(document: &Document) -> Option<String> {
    let info = document.trailer.get(b"Info").ok()?;
    let (_, info) = document.dereference(info).ok()?;
    let title = info.as_dict().ok()?.get(b"Title").ok()?;
    pdf_extract::decode_text_string(title)
        .ok()
        .map(|title| squeezed(&title))
}

/// Entries of the outline whose words are found on the page they point to.
fn outline(document: &Document, found: &Extracted) -> Vec<Heading> {
    let Ok(outline) = catch_unwind(AssertUnwindSafe(|| document.get_toc())) else {
        return Vec::new();
    };
    let entries = outline.map(|outline| outline.toc).unwrap_or_default();
    let mut headings: Vec<Heading> = entries
        .iter()
        .filter_map(|entry| {
            let start = *found.pages.get(entry.page.checked_sub(1)?)?;
            let end = found.pages.get(entry.page).copied().unwrap_or(found.text.len());
            let offset = start + place_of(&entry.title, &found.text[start..end])?;
            Some(Heading {
                offset,
                level: entry.level,
                text: squeezed(&entry.title),
            })
        })
        .collect();
    headings.sort_by_key(|heading| heading.offset);
    headings
}

/// Where the line begins that `title` stands in, blanks and line ends aside.
fn place_of(title: &str, page: &str) -> Option<usize> {
    let wanted: String = title.split_whitespace().collect();
    if wanted.is_empty() {
        return None;
    }
    let dense: String = page.split_whitespace().collect();
    let before = dense[..dense.find(&wanted)?].chars().count();
    let (offset, _) = page.char_indices().filter(|(_, c)| !c.is_whitespace()).nth(before)?;
    Some(page[..offset].rfind('\n').map_or(0, |end| end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_found_across_line_ends() {
        let page = "7\n1.2. How to\nreturn it\nText";
        assert_eq!(place_of("How to return it", page), Some(2));
        assert_eq!(place_of("nowhere", page), None);
    }

    #[test]
    fn pages_are_tidied() {
        assert_eq!(tidied("\n\n  a \nb\n\n\n\nc"), "a\nb\n\nc\n\n");
        assert_eq!(tidied(" \n \n"), "");
    }

    #[test]
    fn damage_has_a_reason() {
        assert!(extract(b"%PDF-1.7 nothing follows").unwrap_err().starts_with("damaged"));
    }
}
