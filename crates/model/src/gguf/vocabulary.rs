//! `tokenizer.json` and its companions as a GGUF's metadata: the inverse of `tokenizer`, for the same byte-level BPEs.
use super::tokenizer::{CONTROL, PRE_TOKENIZERS, PreTokenizer, ROLES, UNUSED, USER_DEFINED};
use super::write::{Metadata, Value as Meta};
use crate::checkpoint::Checkpoint;
use serde_json::Value;
use std::collections::HashMap;

const NORMAL: i64 = 1;

/// All `tokenizer.*` keys; `rows` is how many tokens the embedding knows. An error names what llama.cpp would read otherwise.
pub fn metadata(base: &Checkpoint, rows: usize) -> Result<Metadata, String> {
    let tokenizer: Value = serde_json::from_slice(&base.text.tokenizer_json)
        .map_err(|error| format!("its tokenizer.json is not JSON: {error}"))?;
    let pre = pre_tokenizer(&tokenizer)?;
    let tokens = Tokens::read(&tokenizer, rows)?;
    let mut special = special_tokens(base, &tokens);
    let (adds_bos, adds_eos) = added_around(&tokenizer, &mut special)?;
    let text = |key: &str, value: &str| (format!("tokenizer.{key}"), Meta::Text(value.into()));
    let mut metadata = vec![
        text("ggml.model", "gpt2"),
        text("ggml.pre", pre),
        ("tokenizer.ggml.tokens".into(), Meta::Texts(tokens.texts)),
        ("tokenizer.ggml.token_type".into(), Meta::I32s(tokens.types)),
        ("tokenizer.ggml.merges".into(), Meta::Texts(merges(&tokenizer)?)),
    ];
    for (role, key) in ROLES {
        if let Some(id) = special.get(role) {
            metadata.push((format!("tokenizer.ggml.{key}_token_id"), Meta::U32(*id)));
        }
    }
    metadata.push(("tokenizer.ggml.add_bos_token".into(), Meta::Bool(adds_bos)));
    metadata.push(("tokenizer.ggml.add_eos_token".into(), Meta::Bool(adds_eos)));
    let config = base.text.tokenizer_config.as_ref();
    if let Some(prefix) = config.and_then(|config| config.get("add_prefix_space")?.as_bool()) {
        metadata.push(("tokenizer.ggml.add_space_prefix".into(), Meta::Bool(prefix)));
    }
    if let Some(template) = &base.text.chat_template {
        metadata.push(text("chat_template", template));
    }
    Ok(metadata)
}

/// llama.cpp's name for how text is split, found by comparing with each that we know.
fn pre_tokenizer(tokenizer: &Value) -> Result<&'static str, String> {
    let model = &tokenizer["model"];
    let kind = model["type"].as_str().unwrap_or("(none)");
    let flag = |key: &str| model[key].as_bool().unwrap_or(false);
    if kind != "BPE" || flag("byte_fallback") {
        let found = if kind == "BPE" { "BPE over characters" } else { kind };
        return Err(format!("a tokenizer of type {found}, wanted byte-level BPE"));
    }
    let same = |name: &&str| {
        PreTokenizer::by_name(name).is_some_and(|known| {
            canonical(&known.steps) == canonical(&tokenizer["pre_tokenizer"])
                && known.normalizer == tokenizer["normalizer"]
                && known.ignore_merges == flag("ignore_merges")
        })
    };
    let known = PRE_TOKENIZERS.iter().find(|name| same(name)).copied();
    known.ok_or_else(|| {
        format!(
            "a tokenizer that splits text otherwise than {}",
            PRE_TOKENIZERS.join(", ")
        )
    })
}

/// Without what changes no token, and with what a file may leave out.
fn canonical(steps: &Value) -> Value {
    let mut steps = steps.clone();
    if let Some(fields) = steps.as_object_mut() {
        fields.shift_remove("trim_offsets");
        if fields.get("type").is_some_and(|kind| kind == "ByteLevel") {
            fields.entry("use_regex").or_insert(true.into());
        }
        if let Some(list) = fields.get_mut("pretokenizers").and_then(Value::as_array_mut) {
            list.iter_mut().for_each(|step| *step = canonical(step));
        }
        fields.sort_keys();
    }
    steps
}

/// Every row of the embedding.
struct Tokens {
    texts: Vec<String>,
    types: Vec<i32>,
    ids: HashMap<String, u32>,
}

impl Tokens {
    fn read(tokenizer: &Value, rows: usize) -> Result<Self, String> {
        // Rows that no token has are named as the reference converter names them.
        let mut all: Vec<(String, i64)> = (0..rows).map(|row| (format!("[PAD{row}]"), UNUSED)).collect();
        let mut ids = HashMap::new();
        let vocabulary = tokenizer["model"]["vocab"].as_object().into_iter().flatten();
        let plain = vocabulary.map(|(token, id)| (token.as_str(), id.as_u64(), NORMAL));
        let added = tokenizer["added_tokens"].as_array().into_iter().flatten().map(|token| {
            let special = token["special"].as_bool().unwrap_or(false);
            let kind = if special { CONTROL } else { USER_DEFINED };
            (
                token["content"].as_str().unwrap_or_default(),
                token["id"].as_u64(),
                kind,
            )
        });
        for (token, id, kind) in plain.chain(added) {
            let place = id.and_then(|id| all.get_mut(usize::try_from(id).ok()?));
            let (Some(place), Some(id)) = (place, id) else {
                return Err(format!(
                    "the token {token:?} has the id {id:?}, the embedding {rows} rows"
                ));
            };
            *place = (token.to_string(), kind);
            ids.insert(token.to_string(), id as u32);
        }
        let (texts, types) = all.into_iter().map(|(text, kind)| (text, kind as i32)).unzip();
        Ok(Self { texts, types, ids })
    }
}

fn merges(tokenizer: &Value) -> Result<Vec<String>, String> {
    let list = tokenizer["model"]["merges"].as_array().into_iter().flatten();
    let merge = |merge: &Value| match merge {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => Some(format!("{} {}", parts.first()?.as_str()?, parts.get(1)?.as_str()?)),
        _ => None,
    };
    list.map(|m| merge(m).ok_or_else(|| format!("the merge {m} is not two tokens")))
        .collect()
}

/// Ids by role, from `tokenizer_config.json`, `special_tokens_map.json` or, as a number, `config.json`.
fn special_tokens(base: &Checkpoint, tokens: &Tokens) -> HashMap<&'static str, u32> {
    let named = |role: &str| {
        let key = format!("{role}_token");
        let files = [&base.text.tokenizer_config, &base.text.special_tokens_map];
        let token = files
            .into_iter()
            .flatten()
            .find_map(|file| file.get(&key).filter(|v| !v.is_null()))?;
        tokens.ids.get(token.as_str().or(token["content"].as_str())?).copied()
    };
    let numbered = |role: &str| {
        let id = base.config.get(format!("{role}_token_id"))?.as_u64()?;
        u32::try_from(id).ok().filter(|id| (*id as usize) < tokens.texts.len())
    };
    ROLES
        .iter()
        .filter_map(|(role, _)| Some((*role, named(role).or_else(|| numbered(role))?)))
        .collect()
}

/// Whether a begin and an end token are put around a text. A begin token that no file names becomes known by it.
fn added_around(tokenizer: &Value, special: &mut HashMap<&'static str, u32>) -> Result<(bool, bool), String> {
    let processor = &tokenizer["post_processor"];
    let parts = processor["processors"].as_array();
    let mut all = parts.into_iter().flatten().chain([processor]);
    let Some(template) = all.find(|part| part["type"] == "TemplateProcessing") else {
        return Ok((false, false));
    };
    let mut around = [false, false];
    let mut at = 0;
    for piece in template["single"].as_array().into_iter().flatten() {
        let Some(token) = piece["SpecialToken"]["id"].as_str() else {
            at = 1;
            continue;
        };
        let id = template["special_tokens"][token]["ids"][0].as_u64().map(|id| id as u32);
        let role = ["bos", "eos"][at];
        match id {
            Some(id) if *special.entry(role).or_insert(id) == id && !around[at] => around[at] = true,
            _ => {
                return Err(format!(
                    "a tokenizer that puts {token:?} around a text, which is not its {role} token"
                ));
            }
        }
    }
    Ok((around[0], around[1]))
}
