//! A tokenizer without a chat: texts and pairs of texts to what an encoder reads.
use crate::words::Splitter;
use crate::{DataError, Result};
use tokenizers::{EncodeInput, Tokenizer, TruncationDirection, TruncationParams, TruncationStrategy};

/// Token ids with special ones, and which of two texts each belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    pub tokens: Vec<u32>,
    pub types: Vec<u32>,
}

pub struct TextTokenizer {
    /// Cuts single texts, and of a pair the second, to the length an encoder sees.
    cutting: Tokenizer,
    whole: Tokenizer,
    /// Counts faster, where it can.
    splitter: Option<Splitter>,
}

impl TextTokenizer {
    /// `tokenizer_json`: the bytes of `tokenizer.json`, whose own ideas of cutting and padding are put aside (MiniLM's cuts at
    /// 128 tokens what the model was trained to see 256 of). `max_tokens`: special ones included.
    pub fn new(tokenizer_json: &[u8], max_tokens: usize) -> Result<Self> {
        let mut whole = Tokenizer::from_bytes(tokenizer_json).map_err(broken)?;
        whole.with_truncation(None).map_err(broken)?.with_padding(None);
        let mut cutting = whole.clone();
        let cut = TruncationParams {
            direction: TruncationDirection::Right,
            max_length: max_tokens,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        cutting.with_truncation(Some(cut)).map_err(broken)?;
        Ok(Self {
            splitter: Splitter::new(&whole, tokenizer_json),
            cutting,
            whole,
        })
    }

    /// Tokens of the whole text, without special ones.
    pub fn count(&self, text: &str) -> usize {
        let Some(splitter) = &self.splitter else {
            return self.whole.encode_fast(text, false).map_or(0, |encoding| encoding.len());
        };
        let mut tokens = Vec::with_capacity(text.len() / 3);
        splitter
            .encode(&self.whole, text, &mut tokens)
            .map_or(0, |()| tokens.len())
    }

    /// One text, cut where it is too long.
    pub fn encode(&self, text: &str) -> Result<Encoded> {
        self.encoded(text.into())
    }

    /// Two texts as one input, the longer one cut first.
    pub fn encode_pair(&self, first: &str, second: &str) -> Result<Encoded> {
        self.encoded((first, second).into())
    }

    fn encoded(&self, input: EncodeInput<'_>) -> Result<Encoded> {
        let encoding = self.cutting.encode_fast(input, true).map_err(broken)?;
        Ok(Encoded {
            tokens: encoding.get_ids().to_vec(),
            types: encoding.get_type_ids().to_vec(),
        })
    }
}

fn broken(error: tokenizers::Error) -> DataError {
    DataError::Tokenizer {
        problem: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[CLS] text [SEP]`, `[CLS] first [SEP] second [SEP]`, and a wish to be cut at 3, as MiniLM's file has.
    fn bert() -> TextTokenizer {
        let json = r#"{"version":"1.0","truncation":{"direction":"Right","max_length":3,"strategy":"LongestFirst","stride":0},
            "padding":{"strategy":{"Fixed":9},"direction":"Right","pad_to_multiple_of":null,"pad_id":0,"pad_type_id":0,"pad_token":"[CLS]"},
            "added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"WhitespaceSplit"},
            "post_processor":{"type":"BertProcessing","sep":["[SEP]",1],"cls":["[CLS]",0]},"decoder":null,
            "model":{"type":"WordLevel","vocab":{"[CLS]":0,"[SEP]":1,"a":2,"b":3},"unk_token":"a"}}"#;
        TextTokenizer::new(json.as_bytes(), 6).unwrap()
    }

    #[test]
    fn texts_are_cut_where_the_encoder_ends_and_counted_whole() {
        let long = "b b b b b b b b";
        assert_eq!(bert().encode(long).unwrap().tokens, [0, 3, 3, 3, 3, 1]);
        assert_eq!(bert().encode("b").unwrap().tokens, [0, 3, 1]);
        assert_eq!(bert().count(long), 8);
    }

    #[test]
    fn pairs_know_their_halves() {
        let pair = bert().encode_pair("a", "b b b b b b").unwrap();
        assert_eq!(pair.tokens, [0, 2, 1, 3, 3, 1]);
        assert_eq!(pair.types, [0, 0, 0, 1, 1, 1]);
    }

    #[test]
    fn a_broken_file_is_an_error() {
        assert!(TextTokenizer::new(b"{", 6).is_err());
    }
}
