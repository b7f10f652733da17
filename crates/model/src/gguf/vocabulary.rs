//! `tokenizer.json` and its companions as a GGUF's metadata: the inverse of `tokenizer` for byte-level BPEs
//! (`TextModel._set_vocab_gpt2` of the converter), and those of SentencePiece (`_set_vocab_sentencepiece`), whose scores are in
//! `tokenizer.model` alone.
use super::arch::{self, Architecture};
use super::sentencepiece;
use super::tokenizer::{CONTROL, PRE_TOKENIZERS, PreTokenizer, ROLES, UNUSED, USER_DEFINED};
use super::write::{Metadata, Value as Meta};
use crate::ModelError;
use crate::checkpoint::Checkpoint;
use serde_json::Value;
use std::collections::HashMap;

const NORMAL: i64 = 1;
const ADDED_SCORE: f32 = -1000.0;

/// All `tokenizer.*` keys; `rows` is how many tokens the embedding knows. An error names what llama.cpp would read otherwise.
pub fn metadata(arch: &Architecture, base: &Checkpoint, rows: usize) -> crate::Result<Metadata> {
    let refused = |problem: String| arch::refused(base, vec![problem]);
    let tokenizer: Value = serde_json::from_slice(&base.text.tokenizer_json)
        .map_err(|error| refused(format!("its tokenizer.json is not JSON: {error}")))?;
    let model = &tokenizer["model"];
    if model["type"] == "BPE" && model["byte_fallback"] == true {
        let Some(file) = base.sentencepiece()? else {
            return Err(ModelError::Unsupported {
                path: base.name.clone().into(),
                problems: vec!["a SentencePiece tokenizer without its `tokenizer.model`, where the scores are".into()],
                hint: "put `tokenizer.model` of the base's page beside its tokenizer.json".into(),
            });
        };
        let extra = base.companion("added_tokens.json")?.unwrap_or_default();
        return spm(arch, base, &tokenizer, &file, &extra, rows).map_err(refused);
    }
    bpe(base, &tokenizer, rows).map_err(refused)
}

/// Whether control tokens take the white space after them away.
pub fn strips(base: &Checkpoint) -> bool {
    let tokenizer: Value = serde_json::from_slice(&base.text.tokenizer_json).unwrap_or_default();
    list(&tokenizer["added_tokens"]).any(|token| token["special"] == true && token["rstrip"] == true)
}

fn bpe(base: &Checkpoint, tokenizer: &Value, rows: usize) -> Result<Metadata, String> {
    let tokens = Tokens::read(tokenizer, rows)?;
    let mut special = special_tokens(base, &tokens);
    let around = added_around(tokenizer, &mut special)?;
    let mut metadata = vec![
        text("ggml.model", "gpt2"),
        text("ggml.pre", pre_tokenizer(tokenizer, around.0)?),
        ("tokenizer.ggml.tokens".into(), Meta::Texts(tokens.texts)),
        ("tokenizer.ggml.token_type".into(), Meta::I32s(tokens.types)),
        ("tokenizer.ggml.merges".into(), Meta::Texts(merges(tokenizer)?)),
    ];
    let config = base.text.tokenizer_config.as_ref();
    let prefix = config.and_then(|config| config.get("add_prefix_space")?.as_bool());
    finish(base, &mut metadata, &special, around, prefix);
    Ok(metadata)
}

/// `file`: `tokenizer.model`; `extra`: `added_tokens.json`.
fn spm(
    arch: &Architecture,
    base: &Checkpoint,
    tokenizer: &Value,
    file: &[u8],
    extra: &Value,
    rows: usize,
) -> Result<Metadata, String> {
    let prefix = puts_space_before(tokenizer)?;
    let mut tokens = Tokens::none(rows);
    let mut scores = vec![-10_000.0; rows];
    for (row, piece) in sentencepiece::pieces(file)?.into_iter().enumerate().take(rows) {
        scores[row] = piece.score;
        // What its model calls user-defined, the converter knows by the lists that follow.
        let kind = if piece.kind == USER_DEFINED { NORMAL } else { piece.kind };
        tokens.put(&piece.text, row as u64, kind)?;
    }
    for (token, id) in tokenizer["model"]["vocab"].as_object().into_iter().flatten() {
        let row = id
            .as_u64()
            .and_then(|id| usize::try_from(id).ok())
            .unwrap_or(usize::MAX);
        let found = tokens.texts.get(row).map_or("(none)", String::as_str);
        let added = || list(&tokenizer["added_tokens"]).any(|added| added["id"] == *id);
        if found != token && !added() {
            return Err(format!(
                "a `tokenizer.model` that is not of its tokenizer.json: token {id} is {found:?} in one, {token:?} in the other"
            ));
        }
    }
    for (token, id) in extra.as_object().into_iter().flatten() {
        let id = id.as_u64().unwrap_or(u64::MAX);
        if id < rows as u64 {
            tokens.put(token, id, USER_DEFINED)?;
            scores[id as usize] = ADDED_SCORE;
        }
    }
    let config = base.text.tokenizer_config.as_ref();
    let decoder = config.and_then(|config| config.get("added_tokens_decoder")?.as_object());
    let of_config = decoder
        .into_iter()
        .flatten()
        .map(|(id, token)| (id.parse().ok(), token));
    let of_json = list(&tokenizer["added_tokens"]).map(|token| (token["id"].as_u64(), token));
    let phi3 = arch.name == "phi3";
    // Files of transformers 5 list them in tokenizer.json alone.
    let of_json = of_json.filter(|_| phi3 || decoder.is_none());
    for (id, token) in of_config.chain(of_json) {
        let content = token["content"].as_str().unwrap_or_default();
        // Gemma 3's image token, where it has no row.
        let Some(id) = id.filter(|id: &u64| *id < rows as u64) else {
            continue;
        };
        let special = token["special"] == true || !phi3 && looks_special(content);
        match special {
            true => tokens.put(content, id, CONTROL)?,
            false if phi3 => tokens.put(content, id, USER_DEFINED)?,
            false => tokens.put(&content.replace('\u{2581}', " "), id, USER_DEFINED)?,
        }
        scores[id as usize] = ADDED_SCORE;
        tokens.ids.insert(content.to_string(), id as u32);
    }
    let mut special = special_tokens(base, &tokens);
    let around = added_around(tokenizer, &mut special)?;
    let mut metadata = vec![
        text("ggml.model", "llama"),
        text("ggml.pre", "default"),
        ("tokenizer.ggml.tokens".into(), Meta::Texts(tokens.texts)),
        ("tokenizer.ggml.scores".into(), Meta::F32s(scores)),
        ("tokenizer.ggml.token_type".into(), Meta::I32s(tokens.types)),
    ];
    finish(base, &mut metadata, &special, around, Some(prefix));
    Ok(metadata)
}

/// What both kinds of tokenizers have. `around`: whether a begin and an end token are put around a text.
fn finish(
    base: &Checkpoint,
    metadata: &mut Metadata,
    special: &HashMap<&'static str, u32>,
    (adds_bos, adds_eos): (bool, bool),
    prefix: Option<bool>,
) {
    for (role, key) in ROLES {
        if let Some(id) = special.get(role) {
            metadata.push((format!("tokenizer.ggml.{key}_token_id"), Meta::U32(*id)));
        }
    }
    metadata.push(("tokenizer.ggml.add_bos_token".into(), Meta::Bool(adds_bos)));
    metadata.push(("tokenizer.ggml.add_eos_token".into(), Meta::Bool(adds_eos)));
    if let Some(prefix) = prefix {
        metadata.push(("tokenizer.ggml.add_space_prefix".into(), Meta::Bool(prefix)));
    }
    if let Some(template) = &base.text.chat_template {
        metadata.push(text("chat_template", template));
    }
}

fn text(key: &str, value: &str) -> (String, Meta) {
    (format!("tokenizer.{key}"), Meta::Text(value.into()))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn beyond(token: &str, id: Option<u64>, rows: usize) -> String {
    format!("the token {token:?} has the id {id:?}, the embedding {rows} rows")
}

/// What the converter takes for a control token though no file says so (`does_token_look_special`).
fn looks_special(token: &str) -> bool {
    let between = |start: &str, end: &str| token.starts_with(start) && token.ends_with(end);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&token)
        || between("<|", "|>")
        || between("<｜", "｜>")
        || between("<unused", ">")
}

/// Whether a text is given a space before its first word: by Llama's tokenizers, not by Gemma's.
fn puts_space_before(tokenizer: &Value) -> Result<bool, String> {
    let (normalizer, splitter) = (&tokenizer["normalizer"], &tokenizer["pre_tokenizer"]);
    let kinds: Vec<_> = match &normalizer["normalizers"] {
        Value::Array(steps) => steps.iter().map(|step| step["type"].as_str()).collect(),
        _ => vec![normalizer["type"].as_str()],
    };
    match (kinds.as_slice(), splitter["type"].as_str()) {
        ([Some("Prepend"), Some("Replace")], None) => Ok(true),
        ([Some("Replace")], None | Some("Split")) => Ok(false),
        ([None], Some("Metaspace")) => {
            Ok(splitter["prepend_scheme"] != "never" && splitter["add_prefix_space"] != false)
        }
        _ => Err("a SentencePiece tokenizer that prepares text otherwise than Llama's and Gemma's".into()),
    }
}

/// llama.cpp's name for how text is split, found by comparing with each that we know; `adds_bos` tells those apart that split
/// alike.
fn pre_tokenizer(tokenizer: &Value, adds_bos: bool) -> Result<&'static str, String> {
    let model = &tokenizer["model"];
    let kind = model["type"].as_str().unwrap_or("(none)");
    let flag = |key: &str| model[key].as_bool().unwrap_or(false);
    if kind != "BPE" {
        return Err(format!("a tokenizer of type {kind}, wanted BPE"));
    }
    let same = |name: &'static str| {
        let known = PreTokenizer::by_name(name)?;
        let same = canonical(&known.steps) == canonical(&tokenizer["pre_tokenizer"])
            && known.normalizer == tokenizer["normalizer"]
            && known.ignore_merges == flag("ignore_merges");
        same.then_some((known.adds_bos != adds_bos, name))
    };
    let known = PRE_TOKENIZERS
        .into_iter()
        .filter_map(same)
        .min_by_key(|(other, _)| *other);
    known.map(|(_, name)| name).ok_or_else(|| {
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
        // All that is no match removed is all matches apart, where everything matches.
        if fields.get("behavior").is_some_and(|behavior| behavior == "Removed") && fields["invert"] == true {
            fields["behavior"] = "Isolated".into();
            fields["invert"] = false.into();
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
    /// Rows that no token has are named as the converter names them.
    fn none(rows: usize) -> Self {
        Self {
            texts: (0..rows).map(|row| format!("[PAD{row}]")).collect(),
            types: vec![UNUSED as i32; rows],
            ids: HashMap::new(),
        }
    }

    fn read(tokenizer: &Value, rows: usize) -> Result<Self, String> {
        let mut all = Self::none(rows);
        for (token, id) in tokenizer["model"]["vocab"].as_object().into_iter().flatten() {
            let id = id.as_u64();
            all.put(token, id.ok_or_else(|| beyond(token, id, rows))?, NORMAL)?;
        }
        for token in list(&tokenizer["added_tokens"]) {
            let (content, id) = (token["content"].as_str().unwrap_or_default(), token["id"].as_u64());
            let special = token["special"] == true || looks_special(content);
            let kind = if special { CONTROL } else { USER_DEFINED };
            all.put(content, id.ok_or_else(|| beyond(content, id, rows))?, kind)?;
        }
        Ok(all)
    }

    fn put(&mut self, token: &str, id: u64, kind: i64) -> Result<(), String> {
        let rows = self.texts.len();
        let row = usize::try_from(id).ok().filter(|row| *row < rows);
        let row = row.ok_or_else(|| beyond(token, Some(id), rows))?;
        self.texts[row] = token.to_string();
        self.types[row] = kind as i32;
        self.ids.insert(token.to_string(), id as u32);
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_way_to_split_has_its_name_and_bos_tells_two_apart() {
        let named = |name: &str, adds_bos| {
            let known = PreTokenizer::by_name(name).unwrap();
            let mut tokenizer = json!({"normalizer": known.normalizer, "pre_tokenizer": known.steps,
                "model": {"type": "BPE", "ignore_merges": known.ignore_merges}});
            let found = pre_tokenizer(&tokenizer, adds_bos);
            tokenizer["normalizer"] = json!({"type": "Lowercase"});
            assert!(pre_tokenizer(&tokenizer, adds_bos).is_err());
            found.unwrap()
        };
        for name in PRE_TOKENIZERS {
            assert_eq!(named(name, name == "llama-bpe"), name);
        }
        assert_eq!(named("llama-bpe", false), "smaug-bpe");
        assert_eq!(named("gpt-2", true), "gpt-2");
    }

    #[test]
    fn sentencepiece_tokenizers_by_what_they_put_before_a_text() {
        let (prepend, replace) = (json!({"type": "Prepend", "prepend": "▁"}), json!({"type": "Replace"}));
        let llama =
            json!({"normalizer": {"type": "Sequence", "normalizers": [prepend, replace]}, "pre_tokenizer": null});
        let gemma = json!({"normalizer": replace, "pre_tokenizer": {"type": "Split"}});
        let scheme = |scheme: &str| {
            let splitter = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
            json!({"normalizer": null, "pre_tokenizer": splitter})
        };
        let lower = json!({"normalizer": {"type": "Lowercase"}, "pre_tokenizer": null});
        assert_eq!(puts_space_before(&llama), Ok(true));
        assert_eq!(puts_space_before(&gemma), Ok(false));
        assert_eq!(puts_space_before(&scheme("first")), Ok(true));
        assert_eq!(puts_space_before(&scheme("never")), Ok(false));
        assert!(puts_space_before(&lower).is_err());
    }
}
