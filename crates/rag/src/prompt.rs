//! Passages and question to a conversation, within a budget of tokens.
use crate::{Message, Passage};
use serde::{Deserialize, Serialize};

/// A conversation that asks a question of numbered passages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    pub messages: Vec<Message>,
    /// In the order they stand in the prompt: the first is `[1]`.
    pub passages: Vec<Passage>,
    /// Retrieved, but over the budget.
    pub left_out: Vec<Passage>,
    /// Of the rendered conversation.
    pub tokens: usize,
}
