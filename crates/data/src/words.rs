//! Byte-level BPE and BERT's WordPiece, several times faster than asking the tokenizer for a whole text: the text is cut
//! where the tokenizer itself always cuts, and the tokens of each word are remembered.
//!
//! ```text
//! "He said so,\nhe did"  ->  "He" | " said" | " so,\n" | "he" | " did"
//! ```
//! Between a character that is no blank and a space, and behind a newline between two such characters, every
//! pre-tokenizer listed here begins a new piece, so the pieces' tokens are the text's tokens. Other tokenizers
//! (SentencePiece, or tokens that swallow blanks) are asked for the whole text.
use serde_json::Value;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use tokenizers::Tokenizer;

/// A token and the byte at which it begins.
pub type Token = (u32, u32);

/// Patterns of `Split` pre-tokenizers that cut before every space that follows a non-blank.
const PATTERNS: [&str; 3] = [
    // Llama 3
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    // Qwen 2 to 3
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    // GPT-2, where it is written out
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
];

/// About how many words a thread remembers before it begins anew, and how long a word may be.
const REMEMBERED: usize = 1 << 17;
const LONGEST: usize = 48;

thread_local! {
    static WORDS: RefCell<Memory> = RefCell::default();
}

/// The words of the splitter `owner`.
#[derive(Default)]
struct Memory {
    owner: u64,
    words: HashMap<Box<str>, Box<[Token]>>,
}

pub struct Splitter {
    id: u64,
}

impl Splitter {
    /// None where cutting at spaces could change the tokens. `json`: the bytes of `tokenizer.json`.
    pub fn new(tokenizer: &Tokenizer, json: &[u8]) -> Option<Self> {
        static IDS: AtomicU64 = AtomicU64::new(1);
        // Only the small parts: vocabulary and merges are skipped over.
        #[derive(serde::Deserialize)]
        struct Parts {
            normalizer: Option<Value>,
            pre_tokenizer: Option<Value>,
        }
        let parts: Parts = serde_json::from_slice(json).ok()?;
        // BERT's goes character by character, and blanks are borders to its pre-tokenizer, not part of what follows.
        let pre_tokenizer = parts.pre_tokenizer?;
        let cuts = match &parts.normalizer {
            Some(normalizer) if normalizer["type"] == "BertNormalizer" => pre_tokenizer["type"] == "BertPreTokenizer",
            Some(normalizer) => normalizer["type"] == "NFC" && cuts_at_spaces(&pre_tokenizer),
            None => cuts_at_spaces(&pre_tokenizer),
        };
        let added = tokenizer.get_added_tokens_decoder();
        let plain = added
            .values()
            .all(|token| !token.lstrip && !token.rstrip && !token.content.contains(' '));
        (cuts && plain).then(|| Self {
            id: IDS.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// Appends the tokens of `text`, without special tokens.
    pub fn encode(&self, tokenizer: &Tokenizer, text: &str, out: &mut Vec<Token>) -> tokenizers::Result<()> {
        WORDS.with_borrow_mut(|memory| {
            if memory.owner != self.id {
                *memory = Memory {
                    owner: self.id,
                    words: HashMap::new(),
                };
            }
            memory.learn(tokenizer, words(text).filter(|word| word.len() <= LONGEST))?;
            let mut start = 0;
            for word in words(text) {
                match memory.words.get(word) {
                    Some(tokens) => push(out, tokens, start),
                    None => push(out, &ask(tokenizer, word)?, start),
                }
                start += word.len() as u32;
            }
            Ok(())
        })
    }
}

impl Memory {
    /// Asks for the words not known yet. A call costs more than a word, so words are joined where they would be cut.
    fn learn<'a>(&mut self, tokenizer: &Tokenizer, words: impl Iterator<Item = &'a str>) -> tokenizers::Result<()> {
        if self.words.len() > REMEMBERED {
            self.words.clear();
        }
        let (mut joined, mut ends) = (String::new(), Vec::new());
        for word in words {
            if self.words.contains_key(word) {
                continue;
            }
            if !(word.starts_with(' ') && joined.ends_with(|c: char| c.is_ascii_graphic())) {
                self.learn_joined(tokenizer, &joined, &ends)?;
                joined.clear();
                ends.clear();
            }
            joined.push_str(word);
            ends.push(joined.len());
        }
        self.learn_joined(tokenizer, &joined, &ends)
    }

    fn learn_joined(&mut self, tokenizer: &Tokenizer, joined: &str, ends: &[usize]) -> tokenizers::Result<()> {
        let tokens = if joined.is_empty() {
            Vec::new()
        } else {
            ask(tokenizer, joined)?
        };
        let (mut start, mut rest) = (0, tokens.as_slice());
        for &end in ends {
            // A post-processor may trim a token of blanks to nothing, at its end: the last word takes all that is left.
            let last = end == joined.len();
            let (own, after) = rest.split_at(rest.partition_point(|(_, at)| last || (*at as usize) < end));
            self.words.insert(
                joined[start..end].into(),
                own.iter().map(|(id, at)| (*id, at - start as u32)).collect(),
            );
            (start, rest) = (end, after);
        }
        Ok(())
    }
}

/// The tokens of a text by the tokenizer itself.
pub fn ask(tokenizer: &Tokenizer, text: &str) -> tokenizers::Result<Vec<Token>> {
    let encoding = tokenizer.encode(text, false)?;
    let starts = encoding.get_offsets().iter().map(|(start, _)| *start as u32);
    Ok(encoding.get_ids().iter().copied().zip(starts).collect())
}

fn push(out: &mut Vec<Token>, tokens: &[Token], start: u32) {
    out.extend(tokens.iter().map(|(id, at)| (*id, at + start)));
}

fn cuts_at_spaces(pre_tokenizer: &Value) -> bool {
    match pre_tokenizer["type"].as_str() {
        Some("Sequence") => {
            let steps = pre_tokenizer["pretokenizers"].as_array();
            // Without its regex, ByteLevel cuts nowhere: some step before it must.
            steps.is_some_and(|s| s.iter().all(|step| step["type"] == "Digits" || known(step)) && s.iter().any(cuts))
        }
        _ => known(pre_tokenizer) && cuts(pre_tokenizer),
    }
}

fn known(step: &Value) -> bool {
    match step["type"].as_str() {
        Some("ByteLevel") => step["add_prefix_space"] == false,
        Some("Split") => cuts(step) && step["behavior"] == "Isolated" && step["invert"] == false,
        _ => false,
    }
}

fn cuts(step: &Value) -> bool {
    match step["type"].as_str() {
        Some("ByteLevel") => step["use_regex"] != false,
        Some("Split") => step["pattern"]["Regex"]
            .as_str()
            .is_some_and(|pattern| PATTERNS.contains(&pattern)),
        _ => false,
    }
}

/// The text cut before each space that follows a character that is no blank, and behind each single newline between
/// two such characters. (Behind several newlines a pre-tokenizer looks at what follows.)
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let bytes = rest.as_bytes();
        let solid = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_graphic);
        let cut = (1..bytes.len()).find(|&i| match bytes[i - 1] {
            b'\n' => i > 1 && solid(i - 2) && solid(i),
            before => before.is_ascii_graphic() && bytes[i] == b' ',
        });
        let (word, after) = rest.split_at(cut.unwrap_or(rest.len()));
        rest = after;
        (!word.is_empty()).then_some(word)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// A byte-level BPE of 256 bytes, a few merges and the given special tokens, as a `tokenizer.json`.
    pub fn byte_level(special: &[&str], pre_tokenizer: Value) -> Vec<u8> {
        let mut alphabet: Vec<char> = (b'!'..=b'~')
            .chain(0xA1..=0xAC)
            .chain(0xAE..=0xFF)
            .map(char::from)
            .collect();
        alphabet.extend((0..68).filter_map(|i| char::from_u32(256 + i)));
        let merges = [
            ("Ġ", "t"),
            ("h", "e"),
            ("Ġt", "he"),
            ("Ġ", "Ġ"),
            ("1", "2"),
            ("Ã", "©"),
            (",", "Ċ"),
            ("Ċ", "Ċ"),
        ];
        let words = alphabet
            .iter()
            .map(char::to_string)
            .chain(merges.iter().map(|(a, b)| format!("{a}{b}")));
        let vocab: serde_json::Map<_, _> = words.zip((0..).map(Value::from)).collect();
        let merges: Vec<_> = merges.iter().map(|(a, b)| json!([a, b])).collect();
        let added = |(i, content): (usize, &&str)| {
            json!({
                "id": vocab.len() + i, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true
            })
        };
        let added: Vec<_> = special.iter().enumerate().map(added).collect();
        serde_json::to_vec(&json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": pre_tokenizer, "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": vocab, "merges": merges}
        }))
        .unwrap()
    }

    /// As BERT's, with words for what the test below makes up.
    fn word_piece(uncased: bool) -> Value {
        let vocab = [
            "[UNK]", "a", "the", "th", "##e", "e", "1", "##2", "##s", "s", "'", ".", ",", "|", "<", ">", "##a",
        ];
        let vocab: serde_json::Map<_, _> = vocab
            .into_iter()
            .map(str::to_owned)
            .zip((0..).map(Value::from))
            .collect();
        json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [{"id": 0, "content": "[UNK]", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true}],
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                "strip_accents": null, "lowercase": uncased},
            "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": vocab}
        })
    }

    pub fn gpt2() -> Value {
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})
    }

    fn pre_tokenizers() -> Vec<Value> {
        let split = |pattern| {
            json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}
            ]})
        };
        let digits =
            json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, gpt2()]});
        PATTERNS.map(split).into_iter().chain([gpt2(), digits]).collect()
    }

    #[test]
    fn words_join_to_the_text() {
        assert_eq!(
            words("He said,\nno\n\n  he é did").collect::<Vec<_>>(),
            ["He", " said,\n", "no\n\n  he", " é did"]
        );
    }

    #[test]
    fn others_are_asked_for_the_whole_text() {
        let no_prefix = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        let no_cut = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        for (special, pre_tokenizer) in [("<s>", no_prefix), ("<s>", no_cut), ("<a b>", gpt2())] {
            let json = byte_level(&[special], pre_tokenizer);
            assert!(Splitter::new(&Tokenizer::from_bytes(&json).unwrap(), &json).is_none());
        }
    }

    proptest! {
        #[test]
        fn tokens_are_the_tokenizers(
            parts in prop::collection::vec(
                prop_oneof![
                    Just(" ".to_owned()), Just("\n".to_owned()), Just("<|e|>".to_owned()), Just(" the".to_owned()),
                    Just("12".to_owned()), Just(".\nA".to_owned()), Just(",\n".to_owned()), Just("é".to_owned()), Just("'s".to_owned()), any::<String>()
                ],
                0..30,
            ),
            trim: bool,
        ) {
            let text = parts.concat();
            let bytes = pre_tokenizers().into_iter().map(|pre_tokenizer| {
                let mut json: Value = serde_json::from_slice(&byte_level(&["<|e|>"], pre_tokenizer)).unwrap();
                json["post_processor"] = if trim { gpt2() } else { Value::Null };
                json
            });
            for json in bytes.chain([word_piece(trim)]) {
                let json = serde_json::to_vec(&json).unwrap();
                let tokenizer = Tokenizer::from_bytes(&json).unwrap();
                let splitter = Splitter::new(&tokenizer, &json).unwrap();
                let mut fast = Vec::new();
                splitter.encode(&tokenizer, &text, &mut fast).unwrap();
                prop_assert_eq!(fast, ask(&tokenizer, &text).unwrap());
            }
        }
    }
}
