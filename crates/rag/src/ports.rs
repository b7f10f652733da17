//! What this crate asks of a model, so that an echo can stand in for one.
use crate::Passage;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextKind {
    Query,
    Passage,
}

/// Texts to unit vectors.
pub trait Embedder {
    /// Name and content hash: vectors of another one are never mixed in.
    fn identity(&self) -> String;
    fn dimensions(&self) -> usize;
    /// Tokens of a text that are seen; the rest would be cut silently.
    fn max_tokens(&self) -> usize;
    /// Tokens of `text` without special ones, never cut.
    fn count_tokens(&self, text: &str) -> usize;
    /// One vector of length 1 a text.
    fn embed(&self, texts: &[&str], kind: TextKind) -> anyhow::Result<Vec<Vec<f32>>>;
}

/// Query and passages to relevance, higher is better.
pub trait Reranker {
    fn score(&self, query: &str, passages: &[&Passage]) -> anyhow::Result<Vec<f64>>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
    Assistant,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: Role,
    pub content: String,
}

/// Which weights answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    Base,
    /// With the adapter trained on questions and answers.
    Tuned,
    /// With the adapter trained on questions, passages and answers.
    Hybrid,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub text: String,
    pub prompt_tokens: usize,
    pub answer_tokens: usize,
    /// Of the batch the answer came in.
    pub first_token_seconds: f64,
    pub seconds: f64,
}

/// Conversations to answers, greedily.
pub trait Answerer {
    /// Hash of the base, and of the adapter where there is one; `None` if these weights are not at hand.
    fn identity(&self, weights: Weights) -> Option<String>;
    /// Tokens the rendered conversation takes in a prompt.
    fn count_tokens(&self, messages: &[Message]) -> anyhow::Result<usize>;
    /// Tokens prompt and answer may take together.
    fn context(&self) -> usize;
    /// Answers in the order of `conversations`; `on_answer` is told each as soon as it is there.
    fn answer(
        &mut self,
        weights: Weights,
        conversations: &[Vec<Message>],
        max_new_tokens: usize,
        on_answer: &mut dyn FnMut(usize, &Answer),
    ) -> anyhow::Result<Vec<Answer>>;
    /// Negative log-likelihood in nats of the reference as the answer to each conversation, and its tokens: of a long
    /// one those that the context has room for.
    fn likelihood(
        &mut self,
        weights: Weights,
        conversations: &[(Vec<Message>, String)],
    ) -> anyhow::Result<Vec<(f64, usize)>>;
}
