//! A micro-batch that is too much for the device is run in halves: sums over tokens are the same sums.
use crate::{Result, TrainError};
use burn::tensor::Device;
use std::any::Any;
use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Once;
use tune_data::Batch;
use tune_model::lora::Factors;
use tune_model::memory::is_wanting;
use tune_model::{Keep, Losses, backprop};

/// What micro-batches are held to after the device ran out of memory, for the rest of the run.
#[derive(Debug, Clone)]
pub struct Limits {
    /// In one piece of a micro-batch, unless a single document has more.
    pub tokens: usize,
    pub keep: Keep,
    /// What is left to do when a single document is too much.
    pub least: Keep,
    device: Device,
    notes: Vec<String>,
}

impl Limits {
    pub fn new(keep: Keep, least: Keep, device: &Device) -> Self {
        Self {
            tokens: usize::MAX,
            keep,
            least,
            device: device.clone(),
            notes: Vec::new(),
        }
    }

    /// What was changed since the last call, a line each.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Less at once, or an error if that is the least already. `parts`: the piece that failed, halved.
    fn tighten(&mut self, tokens: usize, parts: usize, message: String) -> Result<()> {
        if parts > 1 {
            self.tokens = tokens.div_ceil(2).max(1);
            self.notes.push(format!(
                "out of memory at {tokens} tokens: micro-batches of more than {} are run in parts from here on; the step stays the same",
                self.tokens
            ));
        } else if self.keep != self.least {
            self.keep = self.least;
            self.notes.push(format!(
                "out of memory at one document of {tokens} tokens: all blocks are recomputed from here on"
            ));
        } else {
            return Err(TrainError::OutOfMemory { tokens, message });
        }
        Ok(())
    }
}

/// Runs a piece of a micro-batch, given the index of its first token.
type Run<'a> = dyn FnMut(&Batch, usize, Keep) -> Result<(Losses, Vec<Factors>)> + 'a;

/// Runs `batch` by `run(piece, index of its first token, keep)`, in as many pieces as `limits` and the device ask for. The losses
/// of the pieces, and the sum of their gradients.
pub fn in_pieces(batch: &Batch, limits: &mut Limits, run: &mut Run<'_>) -> Result<(Vec<Losses>, Vec<Factors>)> {
    let (mut losses, mut sums) = (Vec::new(), Vec::new());
    let mut waiting = VecDeque::from([(0, batch.clone())]);
    while let Some((first, piece)) = waiting.pop_front() {
        // Nothing is learned from it, and no gradient comes of it.
        if piece.learned() == 0 {
            continue;
        }
        let tokens = piece.tokens.len();
        let split = |waiting: &mut VecDeque<_>| {
            let halves = piece.halves();
            let count = halves.len();
            halves
                .into_iter()
                .rev()
                .for_each(|(start, half)| waiting.push_front((first + start, half)));
            count
        };
        if tokens > limits.tokens && piece.starts.len() > 2 {
            split(&mut waiting);
            continue;
        }
        let keep = limits.keep;
        match attempt(|| run(&piece, first, keep)) {
            Ok(done) => {
                let (loss, gradients) = done?;
                losses.push(loss);
                sums = add(sums, gradients);
            }
            Err(message) => {
                backprop::forget_tapes(&limits.device);
                let parts = split(&mut waiting);
                limits.tighten(tokens, parts, message)?;
            }
        }
    }
    Ok((losses, sums))
}

/// `sums + gradients`; no sums yet are zeros.
pub fn add(sums: Vec<Factors>, gradients: Vec<Factors>) -> Vec<Factors> {
    if sums.is_empty() {
        return gradients;
    }
    sums.into_iter()
        .zip(gradients)
        .map(|(sums, gradients)| sums.zip(gradients).map(|(sum, gradient)| sum + gradient))
        .collect()
}

thread_local! {
    /// Whether a panic for want of memory on this thread is waited for, so that nobody need be told.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// The result of `run`, or LibTorch's message if it panicked for want of memory: that is how such an error comes out of Burn.
fn attempt<T>(run: impl FnOnce() -> T) -> std::result::Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !EXPECTED.get() || out_of_memory(info.payload()).is_none() {
                told(info);
            }
        }));
    });
    EXPECTED.set(true);
    let ended = catch_unwind(AssertUnwindSafe(run));
    EXPECTED.set(false);
    ended.map_err(|payload| out_of_memory(&*payload).unwrap_or_else(|| resume_unwind(payload)))
}

/// The message of a panic that says so, its first line.
fn out_of_memory(payload: &(dyn Any + Send)) -> Option<String> {
    let text = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or(payload.downcast_ref::<&str>().copied())?;
    is_wanting(text).then(|| text.replace("\\n", "\n").lines().next().unwrap_or_default().to_string())
}
