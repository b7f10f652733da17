//! A TOML text whose keys and values keep their places, and problems shown with the line they are in.
use std::ops::Range;
use toml::Spanned;
use toml::de::DeTable;

/// Of a file that are shown.
const SYNTAX_ERRORS: usize = 5;
/// Characters of a line that are shown.
const WIDTH: usize = 160;

pub struct TomlFile {
    /// As the user wrote it.
    pub name: String,
    pub text: String,
}

/// One thing wrong with the settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// `file:line:column`, `--set` or the name of a variable.
    pub place: String,
    pub text: String,
    /// The line it is in, underlined.
    pub excerpt: Option<String>,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place, self.text)?;
        self.excerpt.iter().try_for_each(|excerpt| write!(f, "\n{excerpt}"))
    }
}

impl TomlFile {
    /// The first syntax errors of the file, or its table.
    pub fn parse(&self) -> Result<Spanned<DeTable<'_>>, Vec<Problem>> {
        let (table, errors) = DeTable::parse_recoverable(&self.text);
        if errors.is_empty() {
            return Ok(table);
        }
        let problem = |e: &toml::de::Error| self.problem(&e.span().unwrap_or(0..0), e.message().to_string());
        // What is no TOML at all has one on each of its lines.
        Err(errors.iter().take(SYNTAX_ERRORS).map(problem).collect())
    }

    pub fn problem(&self, span: &Range<usize>, text: String) -> Problem {
        Problem {
            place: self.place(span),
            text,
            excerpt: Some(self.excerpt(span)),
        }
    }

    /// `file:line:column`, counted from 1, columns in characters.
    pub fn place(&self, span: &Range<usize>) -> String {
        let (line, start) = self.line(span.start);
        format!(
            "{}:{line}:{}",
            self.name,
            self.text[start..self.clamp(span.start)].chars().count() + 1
        )
    }

    /// ```text
    ///    12 | lerning_rate = 2e-4
    ///       | ^^^^^^^^^^^^
    /// ```
    fn excerpt(&self, span: &Range<usize>) -> String {
        let (line, start) = self.line(span.start);
        let at = self.text[start..self.clamp(span.start)].chars().count();
        let from = at.saturating_sub(WIDTH / 2);
        let line_text = self.text[start..].lines().next().unwrap_or_default();
        let whole: String = line_text.chars().skip(from).take(WIDTH).collect();
        let before = at - from;
        let until_end = whole.chars().count().saturating_sub(before);
        let marked = self.text[self.clamp(span.start)..self.clamp(span.end)]
            .chars()
            .count()
            .clamp(1, until_end.max(1));
        let number = line.to_string();
        let gutter = " ".repeat(number.len());
        format!(
            "    {number} | {whole}\n    {gutter} | {}{}",
            " ".repeat(before),
            "^".repeat(marked)
        )
    }

    /// Line number from 1 and the byte at which the line starts.
    fn line(&self, at: usize) -> (usize, usize) {
        let before = &self.text[..self.clamp(at)];
        (
            before.matches('\n').count() + 1,
            before.rfind('\n').map_or(0, |newline| newline + 1),
        )
    }

    fn clamp(&self, at: usize) -> usize {
        let at = at.min(self.text.len());
        (0..=at).rev().find(|i| self.text.is_char_boundary(*i)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> TomlFile {
        TomlFile {
            name: "c.toml".into(),
            text: text.into(),
        }
    }

    #[test]
    fn syntax_errors_have_place_and_line() {
        let problems = file("a = 1\nb = [1, 2\nc = 3\n").parse().unwrap_err();
        assert!(problems[0].place.starts_with("c.toml:"), "{problems:?}");
        assert!(
            problems[0].excerpt.as_ref().is_some_and(|e| e.contains(" | ")),
            "{problems:?}"
        );
    }

    #[test]
    fn columns_count_characters() {
        let file = file("# é\n\"ü\" = 1 # é\n");
        let table = file.parse().unwrap();
        let (key, value) = table.get_ref().iter().next().unwrap();
        assert_eq!(file.place(&key.span()), "c.toml:2:1");
        assert_eq!(file.place(&value.span()), "c.toml:2:7");
        assert_eq!(file.excerpt(&value.span()), "    2 | \"ü\" = 1 # é\n      |       ^");
    }
}
