//! A YAML text as a JSON object whose keys keep their order; what could be an attack is bounded.
use crate::errors::Failure;
use serde_json::{Map, Value};
use std::path::Path;

/// A config is a few kilobytes.
const MOST_BYTES: u64 = 1 << 20;

pub fn read(path: &Path) -> anyhow::Result<Map<String, Value>> {
    let shown = path.display();
    let cannot = |error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "paths are relative to the folder you start in",
            std::io::ErrorKind::IsADirectory => "name a config file in it",
            _ => "check the file's owner and mode",
        };
        Failure::caused(format!("cannot read {shown}"), hint, error)
    };
    let bytes = fs_err::metadata(path).map_err(cannot)?.len();
    if bytes > MOST_BYTES {
        return Err(Failure::error(
            format!("{shown} has {bytes} bytes; wanted a training config, at most {MOST_BYTES}"),
            "name the config, not the data",
        ));
    }
    let text = fs_err::read(path).map_err(cannot)?;
    let text = String::from_utf8(text).map_err(|error| {
        Failure::error(
            format!("{shown}: invalid UTF-8 at byte {}", error.utf8_error().valid_up_to()),
            "a training config is YAML: UTF-8 text",
        )
    })?;
    parse(&shown.to_string(), &text)
}

fn parse(name: &str, text: &str) -> anyhow::Result<Map<String, Value>> {
    let value: Value = serde_saphyr::from_str(text).map_err(|error| {
        let place = error.location().map(|at| format!(":{}:{}", at.line(), at.column()));
        let error = error.without_snippet().to_string();
        Failure::error(
            format!("{name}{}: not YAML: {error}", place.unwrap_or_default()),
            "the file must be one that the other program reads",
        )
    })?;
    let wanted = "wanted `key: value` lines, as in `base_model: org/name`";
    let found = match value {
        Value::Object(map) if !map.is_empty() => return Ok(map),
        Value::Null | Value::Object(_) => "nothing",
        Value::Array(_) => "a list",
        _ => "a single value",
    };
    Err(Failure::error(
        format!("{name} holds {found}; {wanted}"),
        "`tune import --help` says which configs can be read",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        parse("c.yml", text).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_config_is_refused_with_its_place() {
        assert!(problem("").contains("holds nothing"));
        assert!(problem("# a remark\n").contains("holds nothing"));
        assert!(problem("- a\n- b\n").contains("holds a list"));
        assert!(problem("words").contains("holds a single value"));
        assert!(
            problem("a: [1, 2\nb: 3\n").starts_with("c.yml:2:"),
            "{}",
            problem("a: [1, 2\nb: 3\n")
        );
        let twice = problem("lora_r: 8\nlora_r: 16\n");
        assert!(twice.starts_with("c.yml:2:1: ") && twice.contains("lora_r"), "{twice}");
        problem("a: 1\n---\nb: 2\n");
        problem("\u{0}\u{1}");
    }

    #[test]
    fn bombs_are_bounded() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            let alias = format!("*a{}", i - 1);
            bomb += &format!("a{i}: &a{i} [{}]\n", vec![alias; 10].join(", "));
        }
        problem(&bomb);
        problem(&format!("a: {}{}", "[".repeat(100_000), "]".repeat(100_000)));
        problem(
            &(0..5_000)
                .map(|depth| format!("{}a:\n", " ".repeat(depth)))
                .collect::<String>(),
        );
        problem("a: &a [*a]\n");
    }

    #[test]
    fn values_are_those_the_other_programs_read() {
        let map = parse("c.yml", "lr: 1e-4\nbf16: yes\nempty:\nanchor: &x 3\nsame: *x\n").unwrap();
        assert_eq!(map["lr"], 1e-4);
        assert_eq!(map["bf16"], true);
        assert_eq!(map["empty"], Value::Null);
        assert_eq!(map["same"], 3);
        assert_eq!(map.keys().next().map(String::as_str), Some("lr"));
    }
}
