//! reStructuredText to Markdown, as far as text needs it: headings, literals, links; directives and comments go, what
//! stands in their bodies stays.
use super::Extracted;
use regex::{Captures, Regex};
use std::sync::LazyLock;

pub fn extract(text: &str) -> Extracted {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let mut styles: Vec<(char, bool)> = Vec::new();
    let mut out: Vec<String> = Vec::with_capacity(lines.len());
    let mut at = 0;
    while at < lines.len() {
        if let Some((title, style, taken)) = heading(&lines[at..]) {
            let level = styles.iter().position(|known| *known == style).unwrap_or_else(|| {
                styles.push(style);
                styles.len() - 1
            });
            out.push(format!("{} {}", "#".repeat((level + 1).min(6)), inline(title)));
            at += taken;
        } else if lines[at].trim_start().starts_with(".. ") || lines[at].trim() == ".." {
            at += explicit(&lines[at..], &mut out);
        } else {
            out.push(inline(lines[at]));
            at += 1;
        }
    }
    Extracted {
        markdown: true,
        text: out.join("\n") + "\n",
        ..Extracted::default()
    }
}

/// Title, its adornment and whether that stands above too, and the lines it takes.
fn heading<'a>(lines: &[&'a str]) -> Option<(&'a str, (char, bool), usize)> {
    let two = |title: &'a str, under: &str| {
        let fits = title.chars().count() <= under.chars().count() + 1;
        (fits && !title.is_empty() && adornment(title).is_none())
            .then(|| adornment(under))
            .flatten()
    };
    if let (Some(over), [_, title, under, ..]) = (adornment(lines[0]), lines)
        && two(title.trim(), under) == Some(over)
    {
        return Some((title.trim(), (over, true), 3));
    }
    match lines {
        [title, under, ..] if !title.starts_with(' ') => Some((title, (two(title, under)?, false), 2)),
        _ => None,
    }
}

/// The character that alone makes up a line of three or more.
fn adornment(line: &str) -> Option<char> {
    let first = line.chars().next()?;
    let alone = first.is_ascii_punctuation() && line.len() >= 3 && line.chars().all(|c| c == first);
    alone.then_some(first)
}

/// A directive (`.. note:: text`) leaves its argument if that is prose, and its body; a comment, target or image
/// leaves nothing. Returns the lines that are done with.
fn explicit(lines: &[&str], out: &mut Vec<String>) -> usize {
    static DIRECTIVE: LazyLock<Regex> = LazyLock::new(|| regex(r"^\s*\.\.\s+([\w:+.-]+?)::(?:\s+(.*))?$"));
    const PROSE: [&str; 12] = [
        "note",
        "warning",
        "tip",
        "hint",
        "important",
        "attention",
        "caution",
        "danger",
        "error",
        "topic",
        "seealso",
        "rubric",
    ];
    const SILENT: [&str; 6] = ["image", "figure", "toctree", "contents", "index", "highlight"];
    let indent = |line: &str| line.len() - line.trim_start().len();
    let depth = indent(lines[0]);
    let body = lines[1..]
        .iter()
        .take_while(|line| line.is_empty() || indent(line) > depth)
        .count();
    let Some(found) = DIRECTIVE.captures(lines[0]) else {
        return 1 + body;
    };
    let name = &found[1];
    if SILENT.contains(&name) {
        return 1 + body;
    }
    if PROSE.contains(&name)
        && let Some(argument) = found.get(2)
    {
        out.push(inline(argument.as_str()));
    }
    // Options of the directive stand right below it.
    let options = lines[1..=body]
        .iter()
        .take_while(|line| line.trim_start().starts_with(':'))
        .count();
    1 + options
}

fn inline(line: &str) -> String {
    static LINK: LazyLock<Regex> = LazyLock::new(|| regex(r"`([^`<]+?)\s*<[^`>]*>`__?"));
    static ROLE: LazyLock<Regex> = LazyLock::new(|| regex(r":[\w:+.-]+:`([^`]+)`"));
    static LITERAL: LazyLock<Regex> = LazyLock::new(|| regex(r"``(.+?)``"));
    let line = LITERAL.replace_all(line, "`$1`");
    let line = LINK.replace_all(&line, "$1");
    let role = |found: &Captures| match found[1].rsplit_once(" <") {
        Some((text, _)) => text.to_string(),
        None => found[1].trim_start_matches(['~', '!']).to_string(),
    };
    ROLE.replace_all(&line, role).into_owned()
}

/// Of a pattern in this file, each of which the tests below run.
#[allow(clippy::expect_used)]
fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant pattern")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_become_markdown_by_order_of_their_styles() {
        let text = "=====\nGuide\n=====\n\nReturns\n-------\ntext\n\nCosts\n~~~~~\n\nAgain\n-------\n";
        let found = extract(text).text;
        assert_eq!(found, "# Guide\n\n## Returns\ntext\n\n### Costs\n\n## Again\n");
    }

    #[test]
    fn markup_goes_and_prose_stays() {
        let text = ".. _target:\n\n.. note:: Mind ``x``.\n   :class: y\n\n   More of it.\n\n.. image:: a.png\n   :alt: z\n\n\
                    See :ref:`the costs <costs>` and `here <http://x>`_.\n\n.. a comment\n   goes on\n";
        assert_eq!(
            extract(text).text.split_whitespace().collect::<Vec<_>>().join(" "),
            "Mind `x`. More of it. See the costs and here."
        );
    }
}
