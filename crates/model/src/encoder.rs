//! Encoders of class BERT (MiniLM, BGE, E5, cross-encoders): sentence embeddings and relevance of pairs, as
//! sentence-transformers computes them (Devlin et al. 2018, arXiv:1810.04805; Reimers & Gurevych 2019, arXiv:1908.10084).
use crate::checkpoint::Checkpoint;
use crate::load::{At, Weights};
use crate::nn::{LayerNorm, Linear, Pass};
use crate::ops::{self, Activation, Gelu, Segment, Segments, attention::AttentionCfg};
use crate::precision::is_flex;
use crate::{ModelError, Precision, Result};
use burn::tensor::{Device, Int, Tensor, TensorData};
use rayon::prelude::*;
use serde::Deserialize;

/// Tokens a core takes at once, a longer text alone: enough for the products to run at full speed.
const GROUP_TOKENS: usize = 512;

#[derive(Debug, Clone, Deserialize)]
struct Config {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f64,
    hidden_act: String,
    #[serde(default = "absolute")]
    position_embedding_type: String,
}
fn absolute() -> String {
    "absolute".into()
}

/// What becomes of the hidden states of a text's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    Mean,
    /// The first token's.
    Cls,
}

/// Token ids with special ones, and for a pair which of its two texts each belongs to.
#[derive(Debug, Clone, Default)]
pub struct EncoderInput {
    pub tokens: Vec<u32>,
    /// As long as `tokens`, 0 or 1; empty = all 0.
    pub types: Vec<u32>,
}

pub struct Encoder {
    embeddings: Embeddings,
    layers: Vec<Layer>,
    relevance: Option<Relevance>,
    pooling: Pooling,
    heads: usize,
    hidden: usize,
    vocab: usize,
    max_tokens: usize,
    device: Device,
}
struct Embeddings {
    word: Tensor<2>,
    position: Tensor<2>,
    token_type: Tensor<2>,
    norm: LayerNorm,
}
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
}
/// The head of a cross-encoder.
struct Relevance {
    pooler: Linear,
    classifier: Linear,
}

impl Encoder {
    /// Loads in f32, strictly: every missing, unexpected or misshapen tensor in one error. How texts are pooled and how many
    /// tokens are seen is read from the files sentence-transformers leaves beside the weights, where there are any.
    pub fn load(base: &Checkpoint, device: &Device) -> Result<Self> {
        let model_type = base.config.get("model_type").and_then(|v| v.as_str()).unwrap_or("");
        if model_type != "bert" {
            return Err(ModelError::NotAnEncoder {
                base: base.name.clone(),
                model_type: model_type.to_string(),
            });
        }
        let config: Config = serde_json::from_value(base.config.clone()).map_err(|source| ModelError::Config {
            base: base.name.clone(),
            source,
        })?;
        check(base, &config)?;
        let pooling = pooling(base)?;
        let seen = base.companion("sentence_bert_config.json")?;
        let seen = seen.and_then(|c| c.get("max_seq_length")?.as_u64());
        let max_tokens = seen.map_or(config.max_position_embeddings, |n| {
            config.max_position_embeddings.min(n as usize)
        });

        // The account first, so that a wrong tensor is told before anything is read.
        Parts::load(base, &config, device, false)?;
        let parts = Parts::load(base, &config, device, true)?;
        base.release();
        Ok(Self {
            embeddings: parts.embeddings,
            layers: parts.layers,
            relevance: parts.relevance,
            pooling,
            heads: config.num_attention_heads,
            hidden: config.hidden_size,
            vocab: config.vocab_size,
            max_tokens,
            device: device.clone(),
        })
    }

    /// Length of an embedding.
    pub fn dimensions(&self) -> usize {
        self.hidden
    }

    /// Tokens of a text that are seen, special ones included.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Whether pairs can be scored.
    pub fn is_cross_encoder(&self) -> bool {
        self.relevance.is_some()
    }

    /// One vector of length 1 a text.
    ///
    /// # Errors
    /// For no tokens, for more than [`Self::max_tokens`], and for ids outside the vocabulary.
    pub fn embed(&self, texts: &[EncoderInput]) -> Result<Vec<Vec<f32>>> {
        self.grouped(texts, |texts| self.embed_together(texts))
    }

    /// The relevance logit of each pair, higher is better.
    ///
    /// # Errors
    /// As [`Self::embed`], and where the base has no classifier with one output.
    pub fn relevance(&self, pairs: &[EncoderInput]) -> Result<Vec<f32>> {
        let head = self.relevance.as_ref().ok_or(ModelError::NotACrossEncoder)?;
        self.grouped(pairs, |pairs| self.relevance_together(pairs, head))
    }

    /// On flex a core takes a few texts through all layers by itself: what lies between two products stays in its cache, and
    /// no core waits for another. Elsewhere all texts are one batch.
    fn grouped<T: Send>(
        &self,
        texts: &[EncoderInput],
        run: impl Fn(&[EncoderInput]) -> Result<Vec<T>> + Sync,
    ) -> Result<Vec<T>> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        if !is_flex(&self.device) {
            return run(texts);
        }
        let mut groups: Vec<&[EncoderInput]> = Vec::new();
        let mut rest = texts;
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = rest.iter().take_while(|text| {
                tokens += text.tokens.len();
                tokens <= GROUP_TOKENS
            });
            let (group, later) = rest.split_at(fits.count().max(1));
            groups.push(group);
            rest = later;
        }
        let results: Vec<Vec<T>> = groups.into_par_iter().map(&run).collect::<Result<_>>()?;
        Ok(results.into_iter().flatten().collect())
    }

    fn embed_together(&self, texts: &[EncoderInput]) -> Result<Vec<Vec<f32>>> {
        let (hidden, starts) = self.forward(texts)?;
        let values: Vec<f32> = hidden.into_data().iter::<f32>().collect();
        let text = |range: &[usize]| {
            let rows = values[range[0] * self.hidden..range[1] * self.hidden].chunks_exact(self.hidden);
            let taken = match self.pooling {
                Pooling::Mean => range[1] - range[0],
                Pooling::Cls => 1,
            };
            let mut sum = vec![0f32; self.hidden];
            for row in rows.take(taken) {
                sum.iter_mut().zip(row).for_each(|(s, v)| *s += v);
            }
            // The mean's divisor falls out of the normalization.
            let length = sum.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
            sum.iter_mut().for_each(|v| *v /= length);
            sum
        };
        Ok(starts.windows(2).map(text).collect())
    }

    fn relevance_together(&self, pairs: &[EncoderInput], head: &Relevance) -> Result<Vec<f32>> {
        let (hidden, starts) = self.forward(pairs)?;
        let first: Vec<i32> = starts[..starts.len() - 1].iter().map(|s| *s as i32).collect();
        let first = hidden.select(0, indices(first, &self.device));
        let pass = Pass::plain(Segments::from_iter([]), None);
        let pooled = head.pooler.forward(first, &pass).tanh();
        let logits = head.classifier.forward(pooled, &pass);
        Ok(logits.into_data().iter::<f32>().collect())
    }

    /// Hidden states of all tokens, `[tokens, hidden]`, and where each text starts.
    fn forward(&self, texts: &[EncoderInput]) -> Result<(Tensor<2>, Vec<usize>)> {
        let (mut tokens, mut types, mut positions, mut starts) = (vec![], vec![], vec![], vec![0]);
        for text in texts {
            let n = text.tokens.len();
            if n == 0 {
                return Err(ModelError::NoTokens);
            }
            if n > self.max_tokens {
                return Err(ModelError::TooLong {
                    tokens: n,
                    context: self.max_tokens,
                });
            }
            if let Some(&token) = text.tokens.iter().find(|t| **t as usize >= self.vocab) {
                return Err(ModelError::TokenOutOfRange {
                    token,
                    vocab: self.vocab,
                });
            }
            tokens.extend(text.tokens.iter().map(|t| *t as i32));
            types.extend((0..n).map(|i| i32::from(text.types.get(i) == Some(&1))));
            positions.extend(0..n as i32);
            starts.push(tokens.len());
        }
        let e = &self.embeddings;
        let rows = |table: &Tensor<2>, ids| table.clone().select(0, indices(ids, &self.device));
        let x = rows(&e.word, tokens) + rows(&e.token_type, types) + rows(&e.position, positions);
        let x = e.norm.forward(x).value();
        let segments: Segments = starts.windows(2).map(|s| Segment::within(s[0]..s[1])).collect();
        let head_dim = self.hidden / self.heads;
        let cfg = AttentionCfg {
            heads: self.heads,
            kv_heads: self.heads,
            head_dim,
            scale: (head_dim as f64).powf(-0.5),
            window: None,
            causal: false,
            softcap: None,
            segments: segments.clone(),
        };
        let pass = Pass::plain(segments, None);
        Ok((
            self.layers.iter().fold(x, |x, layer| layer.forward(x, &cfg, &pass)),
            starts,
        ))
    }
}

impl Layer {
    fn load(at: &At<'_, '_>, index: usize, config: &Config) -> Self {
        let (d, inner, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let linear = |path: &str, inputs, outputs| Linear::load(&at.at(path), index, inputs, outputs, true);
        let norm = |path: &str| LayerNorm::load(&at.at(path), d, eps);
        Self {
            query: linear("attention.self.query", d, d),
            key: linear("attention.self.key", d, d),
            value: linear("attention.self.value", d, d),
            attention_output: linear("attention.output.dense", d, d),
            attention_norm: norm("attention.output.LayerNorm"),
            intermediate: linear("intermediate.dense", d, inner),
            output: linear("output.dense", inner, d),
            output_norm: norm("output.LayerNorm"),
        }
    }

    /// `[tokens, d]` to the same; the norms come after the residual sums.
    fn forward(&self, x: Tensor<2>, cfg: &AttentionCfg, pass: &Pass<'_>) -> Tensor<2> {
        let [q, k, v] = Linear::forward_all([&self.query, &self.key, &self.value], x.clone(), pass);
        let attended = ops::attention(q, k, v, cfg.clone());
        let x = self.attention_output.forward(attended, pass) + x;
        let x = self.attention_norm.forward(x).value();
        let inner = Activation::gelu(self.intermediate.forward(x.clone(), pass), Gelu::Exact);
        self.output_norm.forward(self.output.forward(inner, pass) + x).value()
    }
}

/// Everything with weights.
struct Parts {
    embeddings: Embeddings,
    layers: Vec<Layer>,
    relevance: Option<Relevance>,
}

impl Parts {
    fn load(base: &Checkpoint, config: &Config, device: &Device, read: bool) -> Result<Self> {
        let nothing = &mut |_, _| ();
        let weights = Weights::new(base, device, Precision::F32, read, nothing);
        let d = config.hidden_size;
        // Under a classifier the encoder is a part named `bert`; alone it is the whole.
        let nested = weights.has("bert.embeddings.word_embeddings.weight");
        let root = if nested {
            weights.root().at("bert")
        } else {
            weights.root()
        };
        let embeddings = root.at("embeddings");
        let layers = root.at("encoder").at("layer");
        let classifies = weights.has("classifier.weight");
        let parts = Self {
            embeddings: Embeddings {
                word: embeddings.matrix("word_embeddings.weight", config.vocab_size, d),
                position: embeddings.matrix("position_embeddings.weight", config.max_position_embeddings, d),
                token_type: embeddings.matrix("token_type_embeddings.weight", config.type_vocab_size, d),
                norm: LayerNorm::load(&embeddings.at("LayerNorm"), d, config.layer_norm_eps),
            },
            layers: (0..config.num_hidden_layers)
                .map(|i| Layer::load(&layers.at(&i.to_string()), i, config))
                .collect(),
            relevance: classifies.then(|| Relevance {
                pooler: Linear::load(&root.at("pooler").at("dense"), 0, d, d, true),
                classifier: Linear::load(&weights.root().at("classifier"), 0, d, 1, true),
            }),
        };
        // Embedding models carry a pooler that nothing uses.
        weights.finish(|name| name.contains("position_ids") || (!classifies && name.contains("pooler.")))?;
        Ok(parts)
    }
}

fn check(base: &Checkpoint, config: &Config) -> Result<()> {
    let problem = if config.hidden_act != "gelu" {
        format!("hidden_act is `{}`, wanted `gelu`", config.hidden_act)
    } else if config.position_embedding_type != "absolute" {
        format!(
            "position_embedding_type is `{}`, wanted `absolute`",
            config.position_embedding_type
        )
    } else if config.num_attention_heads == 0 || !config.hidden_size.is_multiple_of(config.num_attention_heads) {
        format!(
            "{} attention heads over {} columns",
            config.num_attention_heads, config.hidden_size
        )
    } else {
        return Ok(());
    };
    Err(ModelError::ConfigUnsupported {
        base: base.name.clone(),
        problem,
    })
}

/// The mean, unless `1_Pooling/config.json` says otherwise.
fn pooling(base: &Checkpoint) -> Result<Pooling> {
    let Some(config) = base.companion("1_Pooling/config.json")? else {
        return Ok(Pooling::Mean);
    };
    let on = |mode: &str| config.get(format!("pooling_mode_{mode}")).and_then(|v| v.as_bool()) == Some(true);
    match (on("mean_tokens"), on("cls_token")) {
        (true, false) => Ok(Pooling::Mean),
        (false, true) => Ok(Pooling::Cls),
        _ => Err(ModelError::ConfigUnsupported {
            base: base.name.clone(),
            problem: "1_Pooling/config.json pools neither by the mean nor by the first token alone".into(),
        }),
    }
}

fn indices(ids: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let n = ids.len();
    Tensor::from_data(TensorData::new(ids, [n]), device)
}
