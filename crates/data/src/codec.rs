//! Tokenizer and chat template of one base model: messages to text to tokens and back.
use crate::record::Body;
use crate::sample::learn_mask;
use crate::template::{PLAIN, Template};
use crate::words::{self, Splitter, Token};
use crate::*;
use serde_json::{Map, Value};
use tokenizers::Tokenizer;

pub struct Codec {
    tokenizer: Tokenizer,
    /// The faster way to the same tokens, where the tokenizer allows it.
    splitter: Option<Splitter>,
    template: Template,
    template_source: &'static str,
    bos: Option<u32>,
    eos: Option<u32>,
    /// What the post-processor puts around a text: BOS before, sometimes EOS after.
    before: Vec<u32>,
    after: Vec<u32>,
    end_of_turn: Option<EndOfTurn>,
    fingerprint: String,
}

struct EndOfTurn {
    token: u32,
    text: String,
}

impl Codec {
    /// `tokenizer_json`: the bytes of `tokenizer.json`; `tokenizer_config`: `tokenizer_config.json` (bos/eos/pad/unk tokens, an
    /// inline `chat_template`); `chat_template`: Jinja source that wins over the inline one. With neither, a plain prompt format
    /// is used.
    pub fn new(tokenizer_json: &[u8], tokenizer_config: Option<&Value>, chat_template: Option<&str>) -> Result<Self> {
        let mut tokenizer = Tokenizer::from_bytes(tokenizer_json).map_err(broken)?;
        tokenizer.with_truncation(None).map_err(broken)?.with_padding(None);
        let empty = Value::Object(Map::new());
        let config = tokenizer_config.unwrap_or(&empty);
        let special_tokens = special_tokens(config);
        let id = |name: &str| tokenizer.token_to_id(special_tokens.get(name)?.as_str()?);
        let (bos, eos) = (id("bos_token"), id("eos_token"));
        let (before, after) = added_around(&tokenizer)?;
        let inline = inline_template(config);
        let (source, template_source) = match (chat_template, &inline) {
            (Some(given), _) => (given, "given"),
            (None, Some(inline)) => (inline.as_str(), "model"),
            (None, None) => (PLAIN, "plain"),
        };
        let fingerprint = fingerprint(tokenizer_json, source, &special_tokens, &before, &after);
        let template = Template::new(source, special_tokens)?;
        let end_of_turn = end_of_turn(&tokenizer, &template);
        let splitter = Splitter::new(&tokenizer, tokenizer_json);
        Ok(Self {
            tokenizer,
            splitter,
            template,
            template_source,
            bos,
            eos,
            before,
            after,
            end_of_turn,
            fingerprint,
        })
    }

    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Texts that stand for single tokens of their own: control tokens, never to be found in a user's text.
    pub fn special_tokens(&self) -> Vec<String> {
        let added = self.tokenizer.get_added_tokens_decoder().into_values();
        added.filter(|token| token.special).map(|token| token.content).collect()
    }

    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The token the template ends an assistant turn with (`<|im_end|>`), where it has one.
    pub fn end_of_turn(&self) -> Option<u32> {
        self.end_of_turn.as_ref().map(|end| end.token)
    }

    /// The template in use and where it came from (`model`, `given`, `plain`).
    pub fn template(&self) -> (&str, &'static str) {
        (self.template.source(), self.template_source)
    }

    /// blake3 over everything that decides how a record becomes tokens.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Text to tokens; `special` adds what the tokenizer's post-processor adds (BOS), never twice.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let tokens = self.tokens(text)?.into_iter().map(|(id, _)| id).collect();
        Ok(if special {
            self.with_after(self.with_before(tokens))
        } else {
            tokens
        })
    }

    /// The text's own tokens and where each begins.
    fn tokens(&self, text: &str) -> Result<Vec<Token>> {
        let Some(splitter) = &self.splitter else {
            return words::ask(&self.tokenizer, text).map_err(broken);
        };
        let mut tokens = Vec::with_capacity(text.len() / 3);
        splitter.encode(&self.tokenizer, text, &mut tokens).map_err(broken)?;
        Ok(tokens)
    }

    pub fn decode(&self, tokens: &[u32], skip_special: bool) -> String {
        // Fails on no token list: ids outside the vocabulary are skipped.
        self.tokenizer.decode(tokens, skip_special).unwrap_or_default()
    }

    /// Messages to text, byte for byte what `transformers.apply_chat_template` gives.
    pub fn render(&self, messages: &[Message], generation_prompt: bool) -> Result<String> {
        self.template.render(messages, None, generation_prompt)
    }

    /// A conversation to the tokens a model is asked with (generation prompt added, no double BOS).
    pub fn encode_prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let tokens = self.encode(&self.render(messages, true)?, false)?;
        Ok(if self.template_source == "plain" {
            self.with_before(tokens)
        } else {
            tokens
        })
    }

    /// A record to tokens and learn-mask.
    pub fn encode_record(&self, record: &Record, learn: Learn) -> Result<Sample> {
        let (tokens, mask) = match &record.body {
            Body::Text(text) => self.encode_text(text)?,
            Body::Chat(messages) => self
                .encode_chat(messages, record.tools.as_ref(), learn)
                .map_err(|e| e.at(&record.origin))?,
        };
        Ok(Sample::new(tokens, mask, record.origin.clone()))
    }

    /// A document: all of it learned, BOS as the tokenizer has it, EOS at the end so that endings are learned.
    fn encode_text(&self, text: &str) -> Result<(Vec<u32>, Vec<bool>)> {
        let mut tokens = self.encode(text, true)?;
        if let Some(eos) = self.eos.filter(|eos| tokens.last() != Some(eos) && !text.is_empty()) {
            tokens.push(eos);
        }
        let learn = vec![true; tokens.len()];
        Ok((tokens, learn))
    }

    fn encode_chat(&self, messages: &[Message], tools: Option<&Value>, learn: Learn) -> Result<(Vec<u32>, Vec<bool>)> {
        let end = self.end_of_turn.as_ref().map(|end| end.text.as_str());
        let turns = spans::Turns {
            template: &self.template,
            messages,
            tools,
            end_of_turn: end,
        };
        let (text, spans) = turns.learned(learn)?;
        // Once over the whole text: these are the tokens the model sees, whatever the spans.
        let encoded = self.tokens(&text)?;
        let mut mask = learn_mask(encoded.iter().map(|(_, start)| *start as usize), &spans);
        let mut tokens = encoded.into_iter().map(|(id, _)| id).collect();
        if self.template_source == "plain" {
            tokens = self.with_before(tokens);
            mask.splice(0..0, vec![false; tokens.len() - mask.len()]);
        }
        Ok((tokens, mask))
    }

    fn with_before(&self, tokens: Vec<u32>) -> Vec<u32> {
        match self.before.is_empty() || tokens.starts_with(&self.before) {
            true => tokens,
            false => self.before.iter().copied().chain(tokens).collect(),
        }
    }

    fn with_after(&self, mut tokens: Vec<u32>) -> Vec<u32> {
        if !tokens.ends_with(&self.after) {
            tokens.extend(&self.after);
        }
        tokens
    }

    /// A streaming decoder: push token ids, get complete UTF-8 text as it becomes certain.
    pub fn stream(&self) -> StreamDecoder<'_> {
        StreamDecoder {
            codec: self,
            tokens: Vec::new(),
            shown: 0,
        }
    }
}

fn broken(error: tokenizers::Error) -> DataError {
    DataError::Tokenizer {
        problem: error.to_string(),
    }
}

/// `bos_token` and the like: plain text or `{"content": …}`.
fn special_tokens(config: &Value) -> Map<String, Value> {
    let mut tokens = Map::new();
    for name in ["bos_token", "eos_token", "pad_token", "unk_token"] {
        tokens.insert(name.into(), Value::Null);
    }
    let entries = config
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.ends_with("_token"));
    for (key, value) in entries {
        if let Some(text) = value.as_str().or_else(|| value.get("content")?.as_str()) {
            tokens.insert(key.clone(), text.into());
        }
    }
    // transformers leaves out what is not set; a template may test with `is defined`.
    tokens.retain(|_, value| !value.is_null());
    tokens
}

/// A string, or a list of named templates of which `default` counts.
fn inline_template(config: &Value) -> Option<String> {
    match config.get("chat_template")? {
        Value::String(source) => Some(source.clone()),
        Value::Array(list) => {
            let named = |t: &&Value| t.get("name").and_then(Value::as_str) == Some("default");
            let entry = list.iter().find(named).or(list.first())?;
            entry.get("template")?.as_str().map(str::to_owned)
        }
        _ => None,
    }
}

/// What the post-processor adds before and after a text. `add_bos_token` and `add_eos_token` are not heeded: transformers 5 drops
/// them beside a tokenizer.json, and a model is to be trained on the tokens that it will be served.
fn added_around(tokenizer: &Tokenizer) -> Result<(Vec<u32>, Vec<u32>)> {
    let bare = tokenizer.encode_fast("a", false).map_err(broken)?.get_ids().to_vec();
    let full = tokenizer.encode_fast("a", true).map_err(broken)?.get_ids().to_vec();
    let at = full.windows(bare.len().max(1)).position(|w| w == bare).unwrap_or(0);
    let after = full.get(at + bare.len()..).unwrap_or_default();
    Ok((full[..at].to_vec(), after.to_vec()))
}

fn fingerprint(json: &[u8], template: &str, special: &Map<String, Value>, before: &[u32], after: &[u32]) -> String {
    let mut hasher = blake3::Hasher::new();
    let special = Value::Object(special.clone()).to_string();
    for part in [
        json,
        template.as_bytes(),
        special.as_bytes(),
        bytemuck::cast_slice(before),
        bytemuck::cast_slice(after),
    ] {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    hasher.finalize().to_hex().to_string()
}

/// Asks the template how it ends an assistant's turn: the first added token after the answer's text.
fn end_of_turn(tokenizer: &Tokenizer, template: &Template) -> Option<EndOfTurn> {
    const ANSWER: &str = "tune-answer";
    let text = template
        .render(
            &[Message::new("user", "a"), Message::new("assistant", ANSWER)],
            None,
            false,
        )
        .ok()?;
    let rest = &text[text.rfind(ANSWER)? + ANSWER.len()..];
    let added = tokenizer.get_added_tokens_decoder();
    let found = added
        .into_iter()
        .filter_map(|(id, token)| Some((rest.find(&token.content)?, id, token.content)));
    // Of tokens at the same place the longest is the one that the tokenizer takes.
    let (_, token, text) = found.min_by_key(|(at, _, text)| (*at, std::cmp::Reverse(text.len())))?;
    Some(EndOfTurn { token, text })
}

/// Holds back tokens until their text is certain: bytes of one character may come in several tokens.
pub struct StreamDecoder<'a> {
    codec: &'a Codec,
    /// Tokens since the last certain text, and the ones before it that give them context.
    tokens: Vec<u32>,
    /// How many of `tokens` have been shown.
    shown: usize,
}

impl StreamDecoder<'_> {
    /// The text that became certain by this token, where any did. Special tokens give none.
    pub fn push(&mut self, token: u32) -> Option<String> {
        let before = self.codec.decode(&self.tokens[..self.shown], true);
        self.tokens.push(token);
        let now = self.codec.decode(&self.tokens, true);
        if now.len() <= before.len() || now.ends_with('\u{FFFD}') {
            return None;
        }
        let new = now.get(before.len()..)?.to_owned();
        // The tokens just shown stay as context: a decoder may strip the first token's leading space.
        self.tokens.drain(..self.shown);
        self.shown = self.tokens.len();
        Some(new)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::words::tests::{byte_level, gpt2};
    use serde_json::json;

    pub const CHATML: &str = "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n\
        {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    const SPECIAL: [&str; 4] = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"];

    /// Bytes as tokens; the post-processor adds BOS.
    pub fn codec(template: Option<&str>) -> Codec {
        let mut json: Value = serde_json::from_slice(&byte_level(&SPECIAL, gpt2())).unwrap();
        let bos = json["added_tokens"][0]["id"].clone();
        json["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [bos], "tokens": ["<s>"]}}
        });
        let config = json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}});
        Codec::new(&serde_json::to_vec(&json).unwrap(), Some(&config), template).unwrap()
    }

    fn record(turns: &[(&str, &str)]) -> Record {
        let messages = turns
            .iter()
            .map(|(role, content)| Message::new(*role, *content))
            .collect();
        Record {
            origin: Origin {
                file: "f".into(),
                line: 1,
            },
            body: Body::Chat(messages),
            tools: None,
        }
    }

    fn learned(codec: &Codec, sample: &Sample) -> String {
        let tokens = sample
            .tokens
            .iter()
            .zip(&sample.learn)
            .filter(|(_, l)| **l)
            .map(|(t, _)| *t);
        codec.decode(&tokens.collect::<Vec<_>>(), false)
    }

    #[test]
    fn answers_and_their_ends_are_learned_and_bos_stands_once() {
        let record = record(&[
            ("user", "Hi"),
            ("assistant", "é 12\nthe"),
            ("user", "?"),
            ("assistant", " b "),
        ]);
        for (template, end) in [(Some(CHATML), "<|im_end|>"), (None, "</s>")] {
            let codec = codec(template);
            assert_eq!(
                codec.end_of_turn().map(|t| codec.decode(&[t], false)).as_deref(),
                Some(end)
            );
            let sample = codec.encode_record(&record, Learn::Assistant).unwrap();
            assert_eq!(learned(&codec, &sample), format!("é 12\nthe{end} b {end}"));
            let bos = codec.bos().unwrap();
            assert_eq!(sample.tokens.iter().filter(|t| **t == bos).count(), 1);
            assert_eq!((sample.tokens[0], sample.tokens.len()), (bos, sample.learn.len()));
        }
    }

    /// Every golden template: the end of turn is found, and the learned tokens are the answers and their ends.
    #[test]
    fn learned_tokens_of_public_templates() {
        use crate::template::tests::{conversation, golden, goldens};
        let goldens = goldens();
        for (name, entry) in goldens["templates"].as_object().unwrap() {
            let special = ["bos_token", "eos_token", "end_of_turn"].map(|key| entry[key].as_str().unwrap());
            let mut added = special.to_vec();
            added.dedup();
            let config = json!({"bos_token": special[0], "eos_token": special[1]});
            let template = golden(&format!("{name}.jinja"));
            let codec = Codec::new(&byte_level(&added, gpt2()), Some(&config), Some(&template)).unwrap();
            assert_eq!(codec.end_of_turn(), codec.tokenizer.token_to_id(special[2]), "{name}");
            let (messages, _) = conversation(&goldens["conversations"]["multi"]);
            let record = Record {
                body: Body::Chat(messages),
                ..record(&[])
            };
            let sample = codec.encode_record(&record, Learn::Assistant).unwrap();
            let learned = learned(&codec, &sample).replace("<think>\n\n</think>\n\n", "");
            let answers: Vec<_> = learned.split_terminator(special[2]).map(str::trim).collect();
            assert_eq!(answers, ["2", "It is é4"], "{name}: {learned:?}");
        }
    }

    #[test]
    fn a_prompt_is_the_beginning_of_its_record() {
        for template in [Some(CHATML), None] {
            let codec = codec(template);
            let turns = [("system", "s"), ("user", "Hi"), ("assistant", "Yes")];
            let prompt = codec.encode_prompt(record(&turns[..2]).messages()).unwrap();
            let sample = codec.encode_record(&record(&turns), Learn::Assistant).unwrap();
            assert!(sample.tokens.starts_with(&prompt));
            assert_eq!(sample.learn.iter().position(|l| *l), Some(prompt.len()));
        }
    }

    #[test]
    fn a_text_is_learned_to_its_end() {
        let codec = codec(None);
        let text = Record {
            body: Body::Text("the cat".into()),
            ..record(&[])
        };
        let sample = codec.encode_record(&text, Learn::Assistant).unwrap();
        assert_eq!(codec.decode(&sample.tokens, false), "<s>the cat</s>");
        assert_eq!(learned(&codec, &sample), "the cat</s>");
    }

    #[test]
    fn special_tokens_are_added_once() {
        let codec = codec(None);
        let once = codec.encode("a", true).unwrap();
        assert_eq!(once.len(), 2);
        assert_eq!(codec.encode("<s>a", true).unwrap(), once);
        assert_eq!(codec.encode("a", false).unwrap(), once[1..]);
    }

    #[test]
    fn where_the_template_came_from() {
        assert_eq!(
            (codec(None).template().1, codec(Some(CHATML)).template().1),
            ("plain", "given")
        );
        let config =
            json!({"chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]});
        let model = Codec::new(&byte_level(&SPECIAL, gpt2()), Some(&config), None).unwrap();
        assert_eq!(model.template(), ("y", "model"));
        assert_eq!(model.end_of_turn(), None);
    }

    /// As transformers 5.23 has it for tokenizers of these forms: `AutoTokenizer.from_pretrained(...)("a").input_ids`.
    #[test]
    fn bos_is_added_where_the_tokenizer_has_it_so() {
        let plain: Value = serde_json::from_slice(&byte_level(&SPECIAL, gpt2())).unwrap();
        let with = |post_processor: Value, config: Value| {
            let mut json = plain.clone();
            json["post_processor"] = post_processor;
            let codec = Codec::new(&serde_json::to_vec(&json).unwrap(), Some(&config), None).unwrap();
            codec.decode(&codec.encode("a", true).unwrap(), false)
        };
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
        // No BOS at all, as in Qwen's; one that is named but not put before a text, as in SmolLM2's.
        let qwen = json!({"add_bos_token": false, "bos_token": null, "eos_token": "<|im_end|>"});
        assert_eq!(with(bytes.clone(), qwen), "a");
        assert_eq!(with(bytes.clone(), json!({"bos_token": "<s>"})), "a");
        // One that the second of two post-processors puts there, as in Llama 3's.
        let llama = json!({"type": "Sequence", "processors": [bytes, {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [plain["added_tokens"][0]["id"]], "tokens": ["<s>"]}}
        }]});
        // Whatever `add_bos_token` says: so in TokenizersBackend, which LlamaTokenizer and PreTrainedTokenizerFast have become,
        // and in GemmaTokenizer, GPT2Tokenizer and Qwen2Tokenizer.
        for (added, wanted) in [(bytes, "a"), (llama, "<s>a")] {
            for set in [Value::Null, true.into(), false.into()] {
                let config =
                    json!({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": set, "add_eos_token": set});
                assert_eq!(with(added.clone(), config), wanted, "{set}");
            }
        }
    }

    /// Gemma's kind of tokenizer: spaces as `▁`, bytes for unknown characters, BOS by the post-processor and by the template. The
    /// ids are those of `AutoTokenizer` (transformers 5.23) of the same two files: `tok(text)` and `apply_chat_template`.
    #[test]
    fn gemmas_bos_stands_once() {
        let special = ["<pad>", "<eos>", "<bos>", "<unk>"];
        let turns = ["<start_of_turn>", "<end_of_turn>"];
        let mut tokens: Vec<String> = special.map(String::from).into();
        tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
        tokens.extend(["▁", "a", "e", "h", "t", "he", "the", "▁the"].map(String::from));
        tokens.extend(turns.map(String::from));
        tokens.extend(["u", "s", "r", "m", "o", "d", "l", "\n"].map(String::from));
        let vocab: Map<String, Value> = tokens.into_iter().zip(0..).map(|(t, id)| (t, json!(id))).collect();
        let added = special.iter().chain(&turns).map(|token| {
            json!({"id": vocab[*token], "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        });
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<_>>(),
            "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}}
            },
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}
            ]},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                "vocab": vocab, "merges": [["h", "e"], ["t", "he"], ["▁", "the"]]
            }
        });
        let config = json!({
            "tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>",
            "unk_token": "<unk>", "add_bos_token": true, "add_eos_token": false
        });
        let template = crate::template::tests::golden("gemma.jinja");
        let codec = Codec::new(&serde_json::to_vec(&file).unwrap(), Some(&config), Some(&template)).unwrap();
        assert_eq!(codec.encode("the hé", true).unwrap(), [2, 266, 260, 263, 199, 173]);
        assert_eq!(codec.encode("a the", false).unwrap(), [261, 267]);
        assert_eq!(codec.decode(&[2, 266, 260, 263, 199, 173], true), "the hé");

        let record = record(&[("user", "the a"), ("assistant", "he")]);
        let asked = [
            2, 268, 270, 271, 262, 272, 277, 266, 260, 261, 269, 277, 268, 273, 274, 275, 262, 276, 277,
        ];
        assert_eq!(codec.encode_prompt(&record.messages()[..1]).unwrap(), asked);
        let sample = codec.encode_record(&record, Learn::Assistant).unwrap();
        assert_eq!(sample.tokens, [asked.as_slice(), &[265, 269, 277]].concat());
        assert_eq!(learned(&codec, &sample), "he<end_of_turn>");
    }

    #[test]
    fn a_stream_gives_whole_characters() {
        let codec = codec(None);
        let tokens = codec.encode("a 😀é, the</s>", false).unwrap();
        let mut stream = codec.stream();
        let parts: Vec<_> = tokens.iter().filter_map(|t| stream.push(*t)).collect();
        assert_eq!(parts.concat(), "a 😀é, the");
        assert!(parts.contains(&"😀".to_owned()), "{parts:?}");
    }

    #[test]
    fn the_fingerprint_follows_the_template() {
        assert_eq!(codec(None).fingerprint(), codec(None).fingerprint());
        assert_ne!(codec(None).fingerprint(), codec(Some(CHATML)).fingerprint());
    }

    #[test]
    fn a_broken_tokenizer_is_an_error() {
        assert!(matches!(Codec::new(b"{", None, None), Err(DataError::Tokenizer { .. })));
        assert!(matches!(
            Codec::new(&byte_level(&[], gpt2()), None, Some("{% if")),
            Err(DataError::Template { .. })
        ));
    }
}
