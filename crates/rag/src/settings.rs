//! `[rag]` of the config: every setting of indexing, retrieval and prompts, with its default and its limits.
use crate::error::{RagError, Result};
use crate::filter::Conditions;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Every key is always present when written; "none" is an empty string or list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rag {
    /// Folders, globs, files.
    pub documents: Vec<String>,
    /// Key of the text in JSONL documents.
    pub text_key: String,
    /// Larger files are skipped, by name.
    pub max_file_mb: u64,
    pub store: StoreKind,
    /// Folder of a SQLite index.
    pub path: PathBuf,
    /// Address of a Qdrant or Chroma server.
    pub url: String,
    /// Name of the index on a server.
    pub collection: String,
    /// Folder or hub id.
    pub embedder: String,
    /// At most so many tokens of the embedder a chunk; fewer where the embedder sees fewer.
    pub chunk_tokens: usize,
    /// Share of a chunk that the next one repeats at most.
    pub chunk_overlap: f64,
    /// Put title and headings before a chunk where it is embedded; BM25 sees them in any case.
    pub breadcrumb: bool,
    pub retriever: Retriever,
    pub top_k: usize,
    /// Passages each retriever gives to fusion, reranking and MMR; at least `top_k`.
    pub candidates: usize,
    /// Of reciprocal rank fusion: a passage counts `weight / (rrf_k + rank)`.
    pub rrf_k: f64,
    pub dense_weight: f64,
    pub bm25_weight: f64,
    /// Maximal marginal relevance: 1 = relevance alone, lower = more different passages.
    pub mmr_lambda: f64,
    /// What to search: globs of paths, and `title:GLOB`, `heading:GLOB`, `page:A-B`, `type:pdf`; empty = all.
    pub only: Vec<String>,
    /// Folder or hub id of a cross-encoder; empty = none.
    pub reranker: String,
    /// Before every conversation; empty = none.
    pub system: String,
    /// With `{passages}` and `{question}`.
    pub template: String,
    /// Where no passages are given, with `{question}`.
    pub plain_template: String,
    pub order: Order,
    /// Tokens of a prompt; 0 = what the model's context leaves beside the answer.
    pub prompt_tokens: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    Sqlite,
    Qdrant,
    Chroma,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Retriever {
    Dense,
    Bm25,
    /// Both, fused by reciprocal rank.
    Hybrid,
}

/// Of the passages in a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    BestFirst,
    /// The best stands next to the question.
    BestLast,
}

pub const TEMPLATE: &str = "Answer the question from the passages below and cite them as [1], [2]. If they do not hold \
    the answer, say that it is not in the documents.\n\n{passages}\n\nQuestion: {question}";

impl Default for Rag {
    fn default() -> Self {
        Self {
            documents: Vec::new(),
            text_key: "text".into(),
            max_file_mb: 300,
            store: StoreKind::Sqlite,
            path: PathBuf::new(),
            url: String::new(),
            collection: "tune".into(),
            embedder: String::new(),
            chunk_tokens: 500,
            chunk_overlap: 0.15,
            breadcrumb: true,
            retriever: Retriever::Hybrid,
            top_k: 5,
            candidates: 50,
            rrf_k: 60.0,
            dense_weight: 1.0,
            bm25_weight: 1.0,
            mmr_lambda: 1.0,
            only: Vec::new(),
            reranker: String::new(),
            system: String::new(),
            template: TEMPLATE.into(),
            plain_template: "{question}".into(),
            order: Order::BestFirst,
            prompt_tokens: 0,
        }
    }
}

impl Rag {
    /// All that is wrong, at once.
    pub fn validate(&self) -> Result<()> {
        let mut problems: Vec<String> = self.problems().into_iter().flatten().collect();
        if let Err(RagError::Settings { problems: of_only }) = Conditions::parse(&self.only) {
            problems.extend(of_only);
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(RagError::Settings { problems })
        }
    }

    fn problems(&self) -> Vec<Option<String>> {
        let server = self.store != StoreKind::Sqlite;
        let http = self.url.starts_with("http://") || self.url.starts_with("https://");
        let quote = |text: &str| format!("{text:?}");
        let name = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        vec![
            wrong(
                self.documents.is_empty(),
                "rag.documents",
                "[]",
                "folders, globs or files",
            ),
            wrong(self.embedder.is_empty(), "rag.embedder", "\"\"", "a folder or hub id"),
            wrong(self.text_key.is_empty(), "rag.text_key", "\"\"", "a key"),
            wrong(self.max_file_mb == 0, "rag.max_file_mb", "0", "at least 1"),
            wrong(
                !server && self.path.as_os_str().is_empty(),
                "rag.path",
                "\"\"",
                "the folder of the index",
            ),
            wrong(
                server && !http,
                "rag.url",
                &quote(&self.url),
                "http://host:port or https://host:port",
            ),
            wrong(
                self.collection.len() < 3 || self.collection.len() > 63 || !self.collection.chars().all(name),
                "rag.collection",
                &quote(&self.collection),
                "3 to 63 letters, digits, - and _",
            ),
            wrong(
                !(16..=100_000).contains(&self.chunk_tokens),
                "rag.chunk_tokens",
                &self.chunk_tokens.to_string(),
                "16 to 100000",
            ),
            wrong(
                !(0.0..=0.5).contains(&self.chunk_overlap),
                "rag.chunk_overlap",
                &self.chunk_overlap.to_string(),
                "0 to 0.5",
            ),
            wrong(
                !(1..=1000).contains(&self.top_k),
                "rag.top_k",
                &self.top_k.to_string(),
                "1 to 1000",
            ),
            wrong(
                self.candidates < self.top_k || self.candidates > 10_000,
                "rag.candidates",
                &self.candidates.to_string(),
                "top_k to 10000",
            ),
            wrong(
                !(self.rrf_k >= 0.0 && self.rrf_k.is_finite()),
                "rag.rrf_k",
                &self.rrf_k.to_string(),
                "0 or more",
            ),
            wrong(
                !weight(self.dense_weight),
                "rag.dense_weight",
                &self.dense_weight.to_string(),
                "0 or more",
            ),
            wrong(
                !weight(self.bm25_weight),
                "rag.bm25_weight",
                &self.bm25_weight.to_string(),
                "0 or more",
            ),
            wrong(
                self.dense_weight == 0.0 && self.bm25_weight == 0.0,
                "rag.dense_weight and rag.bm25_weight",
                "0",
                "one of them above 0",
            ),
            wrong(
                !(0.0..=1.0).contains(&self.mmr_lambda),
                "rag.mmr_lambda",
                &self.mmr_lambda.to_string(),
                "0 to 1",
            ),
            wrong(
                self.store == StoreKind::Chroma && self.retriever != Retriever::Dense,
                "rag.retriever with store = \"chroma\"",
                &quote(self.retriever.name()),
                "\"dense\": a Chroma server has no BM25",
            ),
            wrong(
                !holds_once(&self.template, "{passages}") || !holds_once(&self.template, "{question}"),
                "rag.template",
                &quote(&self.template),
                "{passages} and {question}, each once",
            ),
            wrong(
                !holds_once(&self.plain_template, "{question}"),
                "rag.plain_template",
                &quote(&self.plain_template),
                "{question} once",
            ),
        ]
    }
}

impl Retriever {
    /// As written in a config.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Bm25 => "bm25",
            Self::Hybrid => "hybrid",
        }
    }
}

fn wrong(is_wrong: bool, key: &str, found: &str, wanted: &str) -> Option<String> {
    is_wrong.then(|| format!("{key}: found {found}, wanted {wanted}"))
}

fn weight(value: f64) -> bool {
    value >= 0.0 && value.is_finite()
}

fn holds_once(template: &str, placeholder: &str) -> bool {
    template.matches(placeholder).count() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> Rag {
        Rag {
            documents: vec!["docs".into()],
            path: "index".into(),
            embedder: "minilm".into(),
            ..Rag::default()
        }
    }

    #[test]
    fn the_defaults_are_valid_and_survive_a_round_trip() {
        minimal().validate().unwrap();
        let text = serde_json::to_string(&minimal()).unwrap();
        assert_eq!(serde_json::from_str::<Rag>(&text).unwrap(), minimal());
    }

    #[test]
    fn all_problems_are_named_at_once() {
        let bad = Rag {
            chunk_overlap: 0.9,
            top_k: 0,
            mmr_lambda: f64::NAN,
            template: "no placeholder".into(),
            store: StoreKind::Chroma,
            only: vec!["page:0".into()],
            ..Rag::default()
        };
        let RagError::Settings { problems } = bad.validate().unwrap_err() else {
            panic!("wanted the list of problems");
        };
        let keys: Vec<&str> = problems
            .iter()
            .filter_map(|p| p.split_once(": found "))
            .map(|(key, _)| key)
            .collect();
        assert_eq!(
            keys,
            [
                "rag.documents",
                "rag.embedder",
                "rag.url",
                "rag.chunk_overlap",
                "rag.top_k",
                "rag.mmr_lambda",
                "rag.retriever with store = \"chroma\"",
                "rag.template",
                "rag.only"
            ]
        );
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(serde_json::from_str::<Rag>(r#"{"chunk_token": 3}"#).is_err());
    }
}
