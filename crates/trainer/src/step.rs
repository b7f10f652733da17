//! One optimizer step: micro-batches to (sum, count), one division, norm, clip, update.
use crate::optim::{AdamW, clip_factor, squared_norms};
use crate::out_of_memory::{self, Limits};
use crate::{Result, TrainError, tensors};
use burn::tensor::Tensor;
use tune_data::Batch;
use tune_model::lora::Factors;
use tune_model::ops::clock;
use tune_model::{CausalLm, Loss, Losses, Noise, noise};

/// What one step did. `loss` is the mean over the learned tokens of the whole window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepResult {
    pub loss: f64,
    pub grad_norm: f64,
    pub tokens: usize,
    pub learned: usize,
}

/// How a step is made; the same for all steps of a run but for `step` and `rate`.
#[derive(Debug, Clone, Copy)]
pub struct StepOptions {
    /// From 1.
    pub step: usize,
    pub rate: f64,
    pub max_grad_norm: f64,
    pub seed: u64,
    pub dropout: f64,
    pub neftune_alpha: f64,
}

/// Errors leave model and optimizer as they were: nothing is updated by a loss or gradient that is not finite.
pub fn step(
    model: &mut CausalLm,
    adamw: &mut AdamW,
    window: &[Batch],
    options: &StepOptions,
    limits: &mut Limits,
) -> Result<StepResult> {
    let (losses, gradients) = accumulate(model, window, options, limits)?;
    let (losses, norm) = read(losses, &gradients);
    for (loss, batch) in losses.iter().zip(window) {
        if !loss.sum.is_finite() {
            return Err(not_finite("loss", loss.sum, options.step, std::slice::from_ref(batch)));
        }
    }
    let loss = losses.into_iter().fold(Loss::default(), std::ops::Add::add);
    let divisor = loss.learned as f64;
    let grad_norm = norm / divisor;
    if !grad_norm.is_finite() {
        return Err(not_finite("gradient norm", grad_norm, options.step, window));
    }
    let _running = clock::op("optimizer");
    let scale = clip_factor(grad_norm, options.max_grad_norm) / divisor;
    let updated = adamw.update(model.adapters(), gradients, scale, options.rate);
    model.set_adapters(updated);
    let tokens = window.iter().map(|batch| batch.tokens.len()).sum();
    Ok(StepResult {
        loss: loss.sum / divisor,
        grad_norm,
        tokens,
        learned: loss.learned,
    })
}

/// The losses of each micro-batch, in pieces, and the gradients' sums over the window. Nothing is read from the device.
pub fn accumulate(
    model: &CausalLm,
    window: &[Batch],
    options: &StepOptions,
    limits: &mut Limits,
) -> Result<(Vec<Vec<Losses>>, Vec<Factors>)> {
    let mut losses = Vec::with_capacity(window.len());
    let mut sums = Vec::new();
    for (micro, batch) in window.iter().enumerate() {
        let seed = mix(options.seed, options.step as u64, micro as u64);
        let (pieces, gradients) = out_of_memory::in_pieces(batch, limits, &mut |piece, first, keep| {
            let noise = Noise {
                seed: seed.wrapping_add(first as u64),
                dropout: options.dropout,
                neftune_alpha: options.neftune_alpha,
            };
            Ok(model.loss_and_gradients(&tensors::input(piece), keep, noise)?)
        })?;
        losses.push(pieces);
        sums = out_of_memory::add(sums, gradients);
    }
    Ok((losses, sums))
}

/// The loss of each micro-batch, and the gradients' norm: all that a step waits for the device for, in one transfer.
fn read(losses: Vec<Vec<Losses>>, gradients: &[Factors]) -> (Vec<Loss>, f64) {
    let learned: Vec<usize> = losses
        .iter()
        .map(|pieces| pieces.iter().map(Losses::learned).sum())
        .collect();
    let mut parts: Vec<Tensor<1>> = losses.into_iter().flatten().map(|losses| losses.0).collect();
    parts.push(squared_norms(gradients));
    let values = tensors::to_host(&Tensor::cat(parts, 0));
    let mut values = values.as_slice();
    let losses = learned
        .into_iter()
        .map(|learned| {
            let (own, rest) = values.split_at(learned);
            values = rest;
            Loss::of(own)
        })
        .collect();
    let squares: f64 = values.iter().map(|square| f64::from(*square)).sum();
    (losses, squares.sqrt())
}

fn not_finite(what: &'static str, value: f64, step: usize, batches: &[Batch]) -> TrainError {
    let mut rows: Vec<String> = Vec::new();
    for origin in batches.iter().flat_map(|batch| &batch.origins) {
        let row = origin.to_string();
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    TrainError::NotFinite {
        what,
        value,
        step,
        rows,
    }
}

/// One seed for each micro-batch of each step, so that resuming needs no generator state.
fn mix(seed: u64, step: u64, micro: u64) -> u64 {
    noise::bits(noise::bits(seed, step), micro)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_micro_batch_has_its_own_seed() {
        let mut seeds: Vec<_> = (0..50).flat_map(|s| (0..50).map(move |m| mix(42, s, m))).collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 2500);
    }

    #[test]
    fn bad_rows_are_named_once() {
        let origin = |line| tune_data::Origin {
            file: "a.jsonl".into(),
            line,
        };
        let batch = Batch {
            tokens: vec![],
            positions: vec![],
            learn: vec![],
            starts: vec![0],
            origins: vec![origin(3), origin(3), origin(7)],
        };
        let error = not_finite("loss", f64::NAN, 12, &[batch]).to_string();
        assert_eq!(
            error,
            "loss of step 12 is NaN; the rows in it:\n  a.jsonl:3\n  a.jsonl:7"
        );
    }
}
