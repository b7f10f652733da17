//! `tune import` as a user meets it: what is written, what is refused, and what it says of files that are no configs.
use crate::cli::{output, told};
use crate::golden::folder;
use std::path::Path;

fn theirs(dir: &Path, bytes: &[u8]) {
    std::fs::write(dir.join("theirs.yml"), bytes).unwrap();
}

const SMALL: &str = "model: base\ntrain: true\ndata: sets/\niters: 100\nnum_layers: -1\nadapter_path: run\n\
                     lora_parameters: {rank: 8, scale: 2.0, dropout: 0.0, keys: [self_attn.q_proj]}\n";

#[test]
fn a_config_is_moved_in_and_resolves() {
    let dir = tempfile::tempdir().unwrap();
    theirs(dir.path(), SMALL.as_bytes());
    insta::assert_snapshot!(
        "import_small",
        told(dir.path(), &["import", "theirs.yml", "--out", "my.toml"])
    );
    let shown = output(dir.path(), &["train", "my.toml", "--show-settings"]);
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    assert!(String::from_utf8_lossy(&shown.stdout).contains("alpha = 16.0"));
    let again = output(dir.path(), &["import", "theirs.yml", "--out", "my.toml"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("already exists"));
    let printed = output(dir.path(), &["import", "theirs.yml", "--out", "-", "--quiet"]);
    assert_eq!(printed.stdout, std::fs::read(dir.path().join("my.toml")).unwrap());
    assert!(printed.stderr.is_empty());
}

#[test]
fn a_template_in_the_config_becomes_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = folder("../import").join("trl-zephyr-7b-qlora.yml");
    let out = output(
        dir.path(),
        &["import", &recipe.display().to_string(), "--out", "my.toml"],
    );
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let template = std::fs::read_to_string(dir.path().join("my.jinja")).unwrap();
    assert!(template.starts_with("{% for message in messages %}"));
    let config = std::fs::read_to_string(dir.path().join("my.toml")).unwrap();
    assert!(config.contains("chat_template = \"my.jinja\""), "{config}");
}

#[test]
fn what_cannot_be_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    theirs(
        dir.path(),
        b"model_name_or_path: org/name\nstage: dpo\nfinetuning_type: full\ndataset: pairs\n",
    );
    insta::assert_snapshot!(
        "import_refused",
        told(dir.path(), &["import", "theirs.yml", "--out", "my.toml"])
    );
    assert!(!dir.path().join("my.toml").exists());
}

#[test]
fn files_that_are_no_configs() {
    let dir = tempfile::tempdir().unwrap();
    let import = ["import", "theirs.yml"];
    let mut said = vec![told(dir.path(), &import)];
    let huge = format!("a: {}\n", "x".repeat(2 << 20));
    let cases: [&[u8]; 8] = [
        b"",
        b"- a\n- b\n",
        b"a: [1, 2\nb: 3\n",
        b"base_model: a\nbase_model: b\n",
        b"\x00\xff\xfe\x93PNG",
        b"base_modle: org/name\nlearning_rate: 1e-4\n",
        b"base_model: org/name\nadapter: lora\nlora_r: sixteen\nsequence_len: 1.5\n",
        huge.as_bytes(),
    ];
    for bytes in cases {
        theirs(dir.path(), bytes);
        said.push(told(dir.path(), &import));
    }
    insta::assert_snapshot!("import_no_configs", said.join("\n"));
}
