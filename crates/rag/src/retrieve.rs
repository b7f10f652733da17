//! Question to passages.
use crate::Passage;
use serde::{Deserialize, Serialize};

/// What one question brought up.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Retrieved {
    /// Best first; ties in the order of their ids. `score` is that of the last stage that ran.
    pub passages: Vec<Passage>,
    /// What each stage said of `passages[i]`.
    pub scores: Vec<Scores>,
    pub timings: Timings,
}

/// Scores by stage; `None` where the stage did not run or did not return the passage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Cosine.
    pub dense: Option<f64>,
    pub bm25: Option<f64>,
    /// Sum of `weight / (k + rank)`.
    pub fused: Option<f64>,
    pub rerank: Option<f64>,
}

/// Seconds; 0 for a stage that did not run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    pub embed: f64,
    pub search: f64,
    pub rerank: f64,
}
