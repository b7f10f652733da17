//! No option that nothing reads.
use std::path::{Path, PathBuf};

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Every key of the resolved settings is read, as `.key`, by code outside tests and outside the checks of `validate`.
#[test]
fn every_key_is_read_by_some_code() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for name in ["trainer", "rag", "cli"] {
        sources(&crates.join(name).join("src"), &mut files);
    }
    let code: String = files
        .iter()
        .map(|path| {
            let text = std::fs::read_to_string(path).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap_or_default().to_string();
            // `validate` looks at values without doing anything with them.
            match text.find("fn validate(") {
                Some(start) => text[..start].to_string() + &text[text[start..].find("\n    }\n").unwrap() + start..],
                None => text,
            }
        })
        .collect();
    let sections = [
        serde_json::to_value(tune_trainer::settings::Settings::default()),
        serde_json::to_value(serde_json::json!({
            "rag": tune_rag::settings::Rag::default(),
            "raft": tune_rag::raft::Raft::default(),
            "eval": tune_rag::eval::settings::Eval::default(),
            "advise": tune_rag::advise::Task::default(),
            "log": tune_rag::log::Logging::default(),
        })),
    ];
    let sections = sections.map(|section| section.unwrap());
    let mut keys = vec!["device".to_string()];
    let sections = sections
        .iter()
        .filter_map(|section| section.as_object())
        .flat_map(|all| all.values());
    for section in sections.filter_map(|v| v.as_object()) {
        keys.extend(section.keys().cloned());
    }
    assert!(keys.len() > 90, "{keys:?}");
    let unread: Vec<_> = keys
        .iter()
        .filter(|key| {
            !code.match_indices(&format!(".{key}")).any(|(at, found)| {
                !code[at + found.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '(')
            })
        })
        .collect();
    assert!(unread.is_empty(), "settings that nothing reads: {unread:?}");
}
