//! Markdown: front matter taken off, headings found as CommonMark has them.
use super::{Extracted, Heading, squeezed};
use pulldown_cmark::{Event, Parser, Tag, TagEnd};

pub fn extract(text: &str) -> Extracted {
    let (matter, body) = split_front_matter(text);
    Extracted {
        title: matter.and_then(title),
        markdown: true,
        text: body.to_string(),
        ..Extracted::default()
    }
}

/// YAML between two lines of `---`, or TOML between `+++`, at the very beginning.
fn split_front_matter(text: &str) -> (Option<&str>, &str) {
    for fence in ["---", "+++"] {
        let Some(rest) = text.strip_prefix(fence).and_then(|rest| rest.strip_prefix('\n')) else {
            continue;
        };
        let mut end = 0;
        for line in rest.split_inclusive('\n') {
            if line.trim_end() == fence {
                return (Some(&rest[..end]), &rest[end + line.len()..]);
            }
            end += line.len();
        }
    }
    (None, text)
}

fn title(matter: &str) -> Option<String> {
    let line = matter.lines().find(|line| line.starts_with("title"))?;
    let value = line["title".len()..].trim_start().strip_prefix([':', '='])?.trim();
    let bare = value.trim_matches(['"', '\'']);
    Some(bare.to_string())
}

pub fn headings(text: &str) -> Vec<Heading> {
    let mut headings = Vec::new();
    let mut open: Option<Heading> = None;
    for (event, range) in Parser::new(text).into_offset_iter() {
        match (event, &mut open) {
            (Event::Start(Tag::Heading { level, .. }), _) => {
                open = Some(Heading {
                    offset: range.start,
                    level: level as usize,
                    text: String::new(),
                });
            }
            (Event::Text(text) | Event::Code(text), Some(heading)) => heading.text.push_str(&text),
            (Event::SoftBreak, Some(heading)) => heading.text.push(' '),
            (Event::End(TagEnd::Heading(_)), _) => headings.extend(open.take()),
            _ => {}
        }
    }
    for heading in &mut headings {
        heading.text = squeezed(&heading.text);
    }
    headings.retain(|heading| !heading.text.is_empty());
    headings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn front_matter_goes_and_its_title_stays() {
        let found = extract("---\nlayout: x\ntitle: \"Returns: how\"\n---\n# Head\n");
        assert_eq!(
            (found.title.as_deref(), found.text.as_str()),
            (Some("Returns: how"), "# Head\n")
        );
        let rule = "---\nno end of it";
        assert_eq!(extract(rule).text, rule);
    }

    #[test]
    fn headings_outside_code_with_their_places() {
        let text = "# A `b`\n\n```\n# no\n```\n\nTwo\n---\n";
        let found = headings(text);
        let seen: Vec<_> = found.iter().map(|h| (h.offset, h.level, h.text.as_str())).collect();
        assert_eq!(seen, [(0, 1, "A b"), (text.find("Two").unwrap(), 2, "Two")]);
    }
}
