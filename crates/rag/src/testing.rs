//! Stand-ins for a model, for tests.
use crate::ingest::{Document, Markup, headings};
use crate::{Embedder, TextKind};

/// Embeds by hashing words, counts words as tokens.
pub struct Words {
    pub max_tokens: usize,
}

impl Default for Words {
    fn default() -> Self {
        Self { max_tokens: 512 }
    }
}

const DIMENSIONS: usize = 64;

impl Embedder for Words {
    fn identity(&self) -> String {
        "words".into()
    }
    fn dimensions(&self) -> usize {
        DIMENSIONS
    }
    fn max_tokens(&self) -> usize {
        self.max_tokens
    }
    fn count_tokens(&self, text: &str) -> usize {
        text.split_whitespace().count()
    }
    fn embed(&self, texts: &[&str], _: TextKind) -> anyhow::Result<Vec<Vec<f32>>> {
        Ok(texts.iter().map(|text| vector(text)).collect())
    }
}

pub fn vector(text: &str) -> Vec<f32> {
    let mut vector = vec![0.0f32; DIMENSIONS];
    for word in text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
    {
        let hash = blake3::hash(word.to_lowercase().as_bytes());
        vector[hash.as_bytes()[0] as usize % DIMENSIONS] += 1.0;
    }
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-9);
    vector.iter().map(|x| x / length).collect()
}

/// Markdown if its name says so.
pub fn document(path: &str, text: &str) -> Document {
    let markdown = path.ends_with(".md");
    Document {
        path: path.into(),
        title: String::new(),
        markup: if markdown { Markup::Markdown } else { Markup::Plain },
        headings: if markdown { headings(text) } else { Vec::new() },
        pages: Vec::new(),
        text: text.into(),
        hash: blake3::hash(text.as_bytes()).to_hex().to_string(),
        bytes: text.len() as u64,
        modified: 0,
    }
}
