//! Numbers in text, and whether one is close enough.
use regex::Regex;
use std::sync::LazyLock;

static NUMBER: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"[-+−]?\d{1,3}(?:,\d{3})+(?:\.\d+)?|[-+−]?\d+(?:\.\d+)?").ok());

/// `1,234.5` is one number; a hyphen directly after a letter or digit is no sign.
pub fn numbers(text: &str) -> Vec<f64> {
    let Some(pattern) = &*NUMBER else { return Vec::new() };
    let parse = |found: regex::Match| {
        let joined = text[..found.start()]
            .chars()
            .next_back()
            .is_some_and(char::is_alphanumeric);
        let plain = found.as_str().replace(',', "").replace('−', "-");
        plain
            .trim_start_matches(if joined { &['-', '+'][..] } else { &['+'] })
            .parse()
            .ok()
    };
    pattern.find_iter(text).filter_map(parse).collect()
}

/// Whether any number of the answer is within `tolerance` of a reference's first number, relative to it
/// (absolute where that number is 0). `None` if no reference has a number.
pub fn within(answer: &str, references: &[String], tolerance: f64) -> Option<bool> {
    let wanted: Vec<f64> = references
        .iter()
        .filter_map(|text| numbers(text).first().copied())
        .collect();
    let close = |found: f64, wanted: f64| {
        let scale = if wanted == 0.0 { 1.0 } else { wanted.abs() };
        // A hair of slack, so that 1.01 is within 0.01 of 1.
        (found - wanted).abs() <= tolerance * scale * (1.0 + 1e-9)
    };
    let found = numbers(answer);
    (!wanted.is_empty()).then(|| {
        found
            .iter()
            .any(|&found| wanted.iter().any(|&wanted| close(found, wanted)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_people_write_them() {
        assert_eq!(
            numbers("between 1,234.5 and -3, pages 10-12, 2024."),
            [1234.5, -3.0, 10.0, 12.0, 2024.0]
        );
        assert!(numbers("none").is_empty());
    }

    #[test]
    fn tolerance_is_relative() {
        let reference = ["100 million".to_string()];
        assert_eq!(within("about 101", &reference, 0.01), Some(true));
        assert_eq!(within("about 102", &reference, 0.01), Some(false));
        assert_eq!(within("1", &["none".to_string()], 0.01), None);
    }
}
