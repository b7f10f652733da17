//! A run or an adapter folder to what servers load, and the proof that it is the same model.
use crate::{Result, watch::Watch};
use std::path::{Path, PathBuf};

pub struct ExportRequest<'a> {
    /// Run folder (its best adapter), one of its checkpoints, or an adapter folder (ours or PEFT's).
    pub from: &'a Path,
    /// Base to use instead of the one the run or adapter names.
    pub base: Option<&'a str>,
    pub adapter: Option<&'a Path>, pub merged: Option<&'a Path>, pub verify: bool,
    pub dtype: Option<tune_model::checkpoint::StoredType>, pub max_shard: u64,
    pub serve_target: &'a [String],
    /// Prompts (JSONL) the check runs on; `None` = the run's validation rows, or built-in probes.
    pub prompts: Option<&'a Path>,
    /// Where to leave token ids and logits for another program to check (`ids.N`, `logits.N`).
    pub logits: Option<&'a Path>,
    pub force: bool,
    pub hub: tune_model::OpenOptions, pub device: burn::tensor::Device,
}
#[derive(Debug, Clone, serde::Serialize)]
pub struct ExportReport { pub adapter: Option<PathBuf>, pub merged: Option<PathBuf>, pub merge: Option<tune_model::merge::MergeReport>, pub checks: Vec<Check> }
/// What was written, reloaded and compared with the adapted model it came from.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Check {
    /// `adapter` or `merged`.
    pub what: String, pub prompts: usize, pub max_logit_difference: f64, pub top1_agreement: f64,
    pub perplexity_before: f64, pub perplexity_after: f64, pub equal_texts: usize, pub bound: f64, pub passed: bool,
}
pub fn export(request: &ExportRequest<'_>, watch: &mut dyn Watch) -> Result<ExportReport> { let _ = (request, watch); todo!() }

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: logits differ by {:.2e} (bound {:.2e})", self.what, self.max_logit_difference, self.bound)
    }
}
