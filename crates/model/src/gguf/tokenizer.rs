//! `tokenizer.json` and its companions out of a GGUF's metadata, for byte-level BPE.
use super::{GgufFile, unsupported};
use crate::checkpoint::TextFiles;
use crate::{ModelError, Result};
use serde_json::{Map, Value, json};

const CONTRACTIONS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";

/// Token types of ggml's vocabularies.
pub(super) const CONTROL: i64 = 3;
pub(super) const USER_DEFINED: i64 = 4;
pub(super) const UNUSED: i64 = 5;

/// The pre-tokenizers that are known here, by llama.cpp's names.
pub(super) const PRE_TOKENIZERS: [&str; 7] = ["gpt-2", "olmo", "smollm", "llama-bpe", "smaug-bpe", "dbrx", "qwen2"];
/// Roles of special tokens, as Hugging Face and as ggml name them.
pub(super) const ROLES: [(&str, &str); 7] = [
    ("bos", "bos"),
    ("eos", "eos"),
    ("unk", "unknown"),
    ("pad", "padding"),
    // As ggml spells it.
    ("sep", "seperator"),
    ("cls", "cls"),
    ("mask", "mask"),
];

/// How text is split before merging, by llama.cpp's name in `tokenizer.ggml.pre`.
pub(super) struct PreTokenizer {
    pub normalizer: Value,
    pub steps: Value,
    pub ignore_merges: bool,
    /// Where the metadata does not say.
    pub adds_bos: bool,
}

impl PreTokenizer {
    pub fn by_name(name: &str) -> Option<Self> {
        let plain = |steps: Value| Self {
            normalizer: Value::Null,
            steps,
            ignore_merges: false,
            adds_bos: false,
        };
        let whole = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        Some(match name {
            "gpt-2" | "default" => plain(whole),
            // GPT-NeoX's, by the name of the last model that the converter knows by it.
            "olmo" => Self {
                normalizer: json!({"type": "NFC"}),
                ..plain(whole)
            },
            "smollm" => plain(sequence(json!({"type": "Digits", "individual_digits": true}), whole)),
            "llama-bpe" => Self {
                ignore_merges: true,
                adds_bos: true,
                ..plain(split("{1,3}"))
            },
            // Llama 3's where no BOS is put before a text, as SmolLM3 has it.
            "smaug-bpe" => Self {
                ignore_merges: true,
                ..plain(split("{1,3}"))
            },
            // OLMo 2's and Phi-4's.
            "dbrx" => plain(split("{1,3}")),
            "qwen2" => Self {
                normalizer: json!({"type": "NFC"}),
                ..plain(split(""))
            },
            _ => return None,
        })
    }
}

fn sequence(first: Value, second: Value) -> Value {
    json!({"type": "Sequence", "pretokenizers": [first, second]})
}

/// The tiktoken pattern that Llama 3 and Qwen 2 share but for the length of a number.
fn split(digits: &str) -> Value {
    let regex = format!(
        r"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    );
    sequence(
        json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false}),
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}),
    )
}

/// All text files; `rows` is how many tokens the embedding knows.
pub fn text_files(file: &GgufFile, rows: usize) -> Result<TextFiles> {
    let vocabulary = Vocabulary::read(file, rows)?;
    let name = file.text("tokenizer.ggml.pre").unwrap_or("(none)");
    let pre = PreTokenizer::by_name(name).ok_or_else(|| {
        let wanted = format!("default, {}", PRE_TOKENIZERS.join(", "));
        unsupported(
            file.path(),
            vec![format!("the pre-tokenizer `{name}`, wanted one of {wanted}")],
        )
    })?;
    let template = file.text("tokenizer.chat_template").map(str::to_string);
    Ok(TextFiles {
        tokenizer_json: vocabulary.tokenizer_json(file, pre).to_string().into_bytes(),
        tokenizer_config: Some(vocabulary.tokenizer_config(file, template.as_deref())),
        special_tokens_map: Some(vocabulary.special_tokens().into()),
        chat_template: template,
    })
}

/// The token lists of a file, checked against each other.
struct Vocabulary<'a> {
    tokens: &'a [String],
    types: &'a [i64],
    merges: &'a [String],
    /// Role (`bos`, `eos`, `unk`, `pad`) and token id.
    special: Vec<(&'static str, usize)>,
}

impl<'a> Vocabulary<'a> {
    fn read(file: &'a GgufFile, rows: usize) -> Result<Self> {
        match file.text("tokenizer.ggml.model") {
            Some("gpt2") => {}
            other => {
                let found = other.unwrap_or("(none)");
                let problem = format!("a tokenizer of type `{found}`, wanted `gpt2` (byte-level BPE)");
                return Err(unsupported(file.path(), vec![problem]));
            }
        }
        let tokens = file.texts("tokenizer.ggml.tokens").unwrap_or_default();
        let types = file.integers("tokenizer.ggml.token_type").unwrap_or_default();
        let merges = file.texts("tokenizer.ggml.merges").unwrap_or_default();
        let mut problems = Vec::new();
        if tokens.is_empty() || tokens.len() > rows {
            problems.push(format!(
                "the tokenizer has {} tokens, the embedding {rows} rows",
                tokens.len()
            ));
        }
        if !types.is_empty() && types.len() != tokens.len() {
            problems.push(format!(
                "the tokenizer has {} tokens and {} token types",
                tokens.len(),
                types.len()
            ));
        }
        if let Some(merge) = merges
            .iter()
            .find(|merge| merge.split(' ').filter(|part| !part.is_empty()).count() != 2)
        {
            problems.push(format!("the merge {merge:?} is not two tokens with a space between"));
        }
        let mut special = Vec::new();
        for (role, key) in ROLES {
            match file.integer(&format!("tokenizer.ggml.{key}_token_id")) {
                Some(id) if id < tokens.len() as u64 => special.push((role, id as usize)),
                Some(id) => problems.push(format!("the {role} token is {id}, of {} tokens", tokens.len())),
                None => {}
            }
        }
        if problems.is_empty() {
            Ok(Self {
                tokens,
                types,
                merges,
                special,
            })
        } else {
            Err(ModelError::Damaged {
                path: file.path().to_path_buf(),
                problems,
            })
        }
    }

    fn of_type(&self, id: usize) -> i64 {
        self.types.get(id).copied().unwrap_or(1)
    }

    fn special_id(&self, role: &str) -> Option<usize> {
        self.special.iter().find(|(other, _)| *other == role).map(|(_, id)| *id)
    }

    /// `bos_token` and so on to the token's text.
    fn special_tokens(&self) -> Map<String, Value> {
        let named = self
            .special
            .iter()
            .map(|(role, id)| (format!("{role}_token"), self.tokens[*id].clone().into()));
        named.collect()
    }

    /// Tokens found in the text before anything is split.
    fn added(&self) -> impl Iterator<Item = (usize, Value)> {
        let typed = self
            .tokens
            .iter()
            .enumerate()
            .map(|(id, token)| (id, token, self.of_type(id)));
        typed
            .filter(|(_, _, kind)| [CONTROL, USER_DEFINED].contains(kind))
            .map(|(id, token, kind)| {
                let added = json!({"content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind == CONTROL});
                (id, added)
            })
    }

    fn tokenizer_json(&self, file: &GgufFile, pre: PreTokenizer) -> Value {
        let mut added = Vec::new();
        for (id, mut token) in self.added() {
            token["id"] = id.into();
            added.push(token);
        }
        let used = self
            .tokens
            .iter()
            .enumerate()
            .filter(|(id, _)| self.of_type(*id) != UNUSED);
        let vocab: Map<String, Value> = used.map(|(id, token)| (token.clone(), id.into())).collect();
        let merges: Vec<_> = self.merges.iter().map(|merge| json!(merge.split_once(' '))).collect();
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": pre.normalizer,
            "pre_tokenizer": pre.steps,
            "post_processor": self.post_processor(file, pre.adds_bos),
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": pre.ignore_merges, "vocab": vocab, "merges": merges},
        })
    }

    /// Begin- and end-of-text tokens around a text, where the model wants them.
    fn post_processor(&self, file: &GgufFile, adds_bos: bool) -> Value {
        let adds_bos = file.flag("tokenizer.ggml.add_bos_token").unwrap_or(adds_bos);
        let adds_eos = file.flag("tokenizer.ggml.add_eos_token").unwrap_or(false);
        let bos = self.special_id("bos").filter(|_| adds_bos);
        let eos = self.special_id("eos").filter(|_| adds_eos);
        if bos.is_none() && eos.is_none() {
            return Value::Null;
        }
        let around = |sequence: &str, type_id: usize| -> Vec<Value> {
            let token = |id: usize| json!({"SpecialToken": {"id": self.tokens[id], "type_id": type_id}});
            let text = json!({"Sequence": {"id": sequence, "type_id": type_id}});
            bos.map(token).into_iter().chain([text]).chain(eos.map(token)).collect()
        };
        let described = |id: usize| {
            let token = &self.tokens[id];
            (token.clone(), json!({"id": token, "ids": [id], "tokens": [token]}))
        };
        let tokens: Map<String, Value> = bos.into_iter().chain(eos).map(described).collect();
        let pair = [around("A", 0), around("B", 1)].concat();
        json!({"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": tokens})
    }

    /// `PreTrainedTokenizerFast`, the one class that transformers reads from tokenizer.json unchanged.
    fn tokenizer_config(&self, file: &GgufFile, template: Option<&str>) -> Value {
        let added: Map<String, Value> = self.added().map(|(id, token)| (id.to_string(), token)).collect();
        let mut config = json!({"add_prefix_space": false, "added_tokens_decoder": added,
            "clean_up_tokenization_spaces": false, "model_max_length": file.integer("llama.context_length"),
            "tokenizer_class": "PreTrainedTokenizerFast"});
        for (role, token) in self.special_tokens() {
            config[role] = token;
        }
        if let Some(template) = template {
            config["chat_template"] = template.into();
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pattern in transformers' tokenization_qwen2.py, 5.23.
    #[test]
    fn the_qwen2_pattern_is_the_published_one() {
        let wanted = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        assert_eq!(split("")["pretokenizers"][0]["pattern"]["Regex"], wanted);
    }

    #[test]
    fn unknown_pre_tokenizers_are_none() {
        assert!(PreTokenizer::by_name("deepseek-llm").is_none());
        assert!(PreTokenizer::by_name("llama-bpe").is_some_and(|pre| pre.ignore_merges && pre.adds_bos));
    }
}
