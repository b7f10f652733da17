//! An encoder and its tokenizer, as the rag crate asks for them.
use crate::environment;
use crate::printer::Printer;
use anyhow::Context;
use burn::tensor::Device;
use rayon::prelude::*;
use tune_data::TextTokenizer;
use tune_model::{Checkpoint, Encoder, EncoderInput};
use tune_rag::ports::Reranker;
use tune_rag::{Embedder, Passage, TextKind};

/// Tokens a batch holds at most: enough to fill the cores to its end, small enough for any memory.
const BATCH_TOKENS: usize = 16_384;

pub struct BertEncoder {
    encoder: Encoder,
    tokenizer: TextTokenizer,
    identity: String,
    prefixes: Prefixes,
}

/// What some models were trained to see before a text (E5's `query: `).
#[derive(Debug, Default)]
struct Prefixes {
    query: String,
    passage: String,
}

impl BertEncoder {
    /// Opens a folder or hub id and loads it onto `device`.
    pub fn load(base: &str, device: &Device, printer: &Printer) -> anyhow::Result<Self> {
        let checkpoint = Checkpoint::open(base, &environment::hub(None, false, printer.live && !printer.quiet))?;
        let encoder = Encoder::load(&checkpoint, device)?;
        let tokenizer = TextTokenizer::new(&checkpoint.text.tokenizer_json, encoder.max_tokens())
            .with_context(|| format!("cannot read texts as {base} does"))?;
        Ok(Self {
            identity: format!("{base}@{}", checkpoint.fingerprint()?),
            prefixes: prefixes(&checkpoint)?,
            encoder,
            tokenizer,
        })
    }

    fn encoded(&self, text: String) -> anyhow::Result<EncoderInput> {
        let encoded = self.tokenizer.encode(&text)?;
        Ok(EncoderInput {
            tokens: encoded.tokens,
            types: encoded.types,
        })
    }
}

/// As sentence-transformers keeps them.
fn prefixes(checkpoint: &Checkpoint) -> anyhow::Result<Prefixes> {
    let config = checkpoint
        .companion("config_sentence_transformers.json")?
        .unwrap_or_default();
    let prompt = |names: &[&str]| {
        let found = names.iter().find_map(|name| config["prompts"][name].as_str());
        found.unwrap_or_default().to_string()
    };
    Ok(Prefixes {
        query: prompt(&["query"]),
        passage: prompt(&["passage", "document"]),
    })
}

/// `run` on the inputs, shortest first in batches of at most [`BATCH_TOKENS`], answers in the order of the inputs.
fn by_length<T>(
    inputs: &[EncoderInput],
    run: impl Fn(&[EncoderInput]) -> tune_model::Result<Vec<T>>,
) -> anyhow::Result<Vec<T>> {
    let mut order: Vec<usize> = (0..inputs.len()).collect();
    order.sort_by_key(|i| inputs[*i].tokens.len());
    let mut results: Vec<Option<T>> = inputs.iter().map(|_| None).collect();
    let mut rest = order.as_slice();
    while !rest.is_empty() {
        let mut tokens = 0;
        let fits = rest.iter().take_while(|i| {
            tokens += inputs[**i].tokens.len();
            tokens <= BATCH_TOKENS
        });
        let (batch, later) = rest.split_at(fits.count().max(1));
        let texts: Vec<EncoderInput> = batch.iter().map(|i| inputs[*i].clone()).collect();
        for (i, result) in batch.iter().zip(run(&texts)?) {
            results[*i] = Some(result);
        }
        rest = later;
    }
    results
        .into_iter()
        .collect::<Option<_>>()
        .context("the encoder gave too few results")
}

impl Embedder for BertEncoder {
    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn dimensions(&self) -> usize {
        self.encoder.dimensions()
    }

    fn max_tokens(&self) -> usize {
        let special = self.tokenizer.encode("").map_or(0, |empty| empty.tokens.len());
        self.encoder.max_tokens() - special - self.tokenizer.count(&self.prefixes.passage)
    }

    fn count_tokens(&self, text: &str) -> usize {
        self.tokenizer.count(text)
    }

    fn embed(&self, texts: &[&str], kind: TextKind) -> anyhow::Result<Vec<Vec<f32>>> {
        let prefix = match kind {
            TextKind::Query => &self.prefixes.query,
            TextKind::Passage => &self.prefixes.passage,
        };
        let inputs = texts.par_iter().map(|text| self.encoded(format!("{prefix}{text}")));
        by_length(&inputs.collect::<anyhow::Result<Vec<_>>>()?, |batch| {
            self.encoder.embed(batch)
        })
    }
}

impl Reranker for BertEncoder {
    fn score(&self, query: &str, passages: &[&Passage]) -> anyhow::Result<Vec<f64>> {
        let pairs = passages.par_iter().map(|passage| {
            let encoded = self.tokenizer.encode_pair(query, &passage.text)?;
            Ok(EncoderInput {
                tokens: encoded.tokens,
                types: encoded.types,
            })
        });
        let scores = by_length(&pairs.collect::<anyhow::Result<Vec<_>>>()?, |batch| {
            self.encoder.relevance(batch)
        })?;
        Ok(scores.into_iter().map(f64::from).collect())
    }
}
