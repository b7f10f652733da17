//! What a run tells whoever watches it. The trainer never prints.
use crate::plan::Plan;

/// One optimizer step, as `metrics.jsonl` has it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct StepMetrics {
    pub step: usize,
    pub epoch: f64,
    pub loss: f64,
    pub lr: f64,
    /// Before clipping.
    pub grad_norm: f64,
    /// Tokens since the start of the run, all and learned.
    pub tokens: u64,
    pub learned_tokens: u64,
    pub tokens_per_second: f64,
    pub learned_tokens_per_second: f64,
    /// Floor FLOPs per second over this machine's measured matmul peak.
    pub floor_share: f64,
    pub peak_memory_bytes: u64,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct EvalMetrics {
    pub step: usize,
    pub epoch: f64,
    pub eval_loss: f64,
    pub perplexity: f64,
    pub best: bool,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct SampleAnswer {
    pub step: usize,
    pub prompt: String,
    pub answer: String,
    pub reference: String,
}

pub enum Event<'a> {
    /// A phase with a countable length began (`loading weights`, `tokenizing`, `evaluating`, ...); `total` 0 = unknown.
    Phase {
        name: &'a str,
        total: usize,
    },
    Progress {
        done: usize,
    },
    Plan(&'a Plan),
    /// The first optimizer step is about to begin.
    Started {
        step: usize,
        total_steps: usize,
        seconds_since_start: f64,
    },
    Step {
        metrics: &'a StepMetrics,
        total_steps: usize,
        seconds_left: f64,
    },
    Eval(&'a EvalMetrics),
    Sample(&'a SampleAnswer),
    Saved {
        path: &'a std::path::Path,
        step: usize,
    },
    Note(&'a str),
    Warning(&'a str),
}

/// `Send`, because tokenizing reports from its own threads.
pub trait Watch: Send {
    fn on(&mut self, event: Event<'_>);
}

/// Watches nothing (tests).
pub struct Silent;
impl Watch for Silent {
    fn on(&mut self, _: Event<'_>) {}
}
