//! What will happen, before it does: steps, memory, time.
use crate::settings::{KeepBlocks, Settings};
use crate::{Result, TrainError, memory};
use burn::tensor::{Device, Tensor};
use serde::Serialize;
use std::time::{Duration, Instant};
use tune_data::{Corpus, Packed, Row};
use tune_model::causal_lm::Sizes;
use tune_model::ops::{linear, linear_cross_entropy::chunk_rows};
use tune_model::{Checkpoint, Frozen, Precision};

#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    pub device: String,
    pub device_why: String,
    pub base: String,
    pub family: String,
    pub total_params: usize,
    pub trainable_params: usize,
    pub adapted_modules: usize,
    pub train_records: usize,
    pub validation_records: usize,
    pub rows: usize,
    /// Tokens over the room in all rows.
    pub fill: f64,
    pub cut: usize,
    pub split: usize,
    pub dropped: usize,
    pub tokens_per_epoch: usize,
    pub learned_per_epoch: usize,
    pub steps_per_epoch: usize,
    pub total_steps: usize,
    pub epochs: f64,
    pub tokens_per_step: f64,
    /// Estimated, in bytes, at the longest micro-batch.
    pub memory: Vec<MemoryPart>,
    pub kept_blocks: usize,
    pub blocks: usize,
    /// What one trained token must cost at least: `4 P_frozen + 6 P_lora + 6 L d T`, the head for learned tokens alone.
    pub floor_flops_per_token: f64,
    /// Measured on a short matmul probe; the time is an estimate from it.
    pub peak_flops: f64,
    pub expected_seconds: f64,
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct MemoryPart {
    pub name: String,
    pub bytes: u64,
}

/// What the plan is drawn from.
pub struct Sources<'a> {
    pub settings: &'a Settings,
    pub base: &'a Checkpoint,
    pub sizes: &'a Sizes,
    pub corpus: &'a Corpus,
    pub packed: &'a Packed,
    pub validation_tokens: usize,
    pub device: &'a Device,
    pub precision: Precision,
    pub device_why: &'a str,
    /// Blocks kept by the run that goes on.
    pub kept_before: Option<usize>,
    pub warnings: Vec<String>,
}

/// Share of the matmul probe's speed that whole steps reach; for the estimate of the time alone.
const EXPECTED_SHARE: f64 = 0.7;
/// Share of the free memory the plan may use.
const USABLE: f64 = 0.9;

pub fn plan(sources: Sources<'_>) -> Result<Plan> {
    let Sources {
        settings,
        base,
        sizes,
        corpus,
        packed,
        ..
    } = &sources;
    let train = &settings.train;
    let lengths = Lengths::of(packed, corpus, train.batch_size);
    let steps_per_epoch = packed
        .rows
        .len()
        .div_ceil(train.batch_size)
        .div_ceil(train.grad_accumulation);
    let total_steps = match train.max_steps {
        0 => (train.epochs * steps_per_epoch as f64).ceil() as usize,
        steps => steps,
    };
    let epochs = total_steps as f64 / steps_per_epoch as f64;

    let mut warnings = sources.warnings.clone();
    let (memory, kept_blocks) = memory_plan(&sources, &lengths, &mut warnings)?;
    let floor = floor_flops(sizes, &lengths);
    let peak_flops = measure_peak(sources.device, sources.precision);
    let recomputed = 2.0 * sizes.matmul_params as f64 * (1.0 - share(kept_blocks, sizes.layers));
    let evaluations = match train.eval_every {
        0 => 0,
        every => 1 + total_steps.div_ceil(every),
    };
    let flops = epochs * lengths.tokens as f64 * (floor + recomputed)
        + (evaluations * sources.validation_tokens) as f64 * 2.0 * sizes.matmul_params as f64;
    Ok(Plan {
        device: device_name(sources.device),
        device_why: sources.device_why.to_string(),
        base: base.name.clone(),
        family: sizes.family.clone(),
        total_params: sizes.total_params,
        trainable_params: sizes.lora_params,
        adapted_modules: sizes.adapted_modules,
        train_records: corpus.report.train_records,
        validation_records: corpus.report.validation_records,
        rows: packed.rows.len(),
        fill: share(lengths.tokens, packed.rows.len() * settings.data.max_length),
        cut: packed.cut,
        split: packed.split,
        dropped: packed.dropped,
        tokens_per_epoch: lengths.tokens,
        learned_per_epoch: lengths.learned,
        steps_per_epoch,
        total_steps,
        epochs,
        tokens_per_step: lengths.tokens as f64 / steps_per_epoch as f64,
        memory,
        kept_blocks,
        blocks: sizes.layers,
        floor_flops_per_token: floor,
        peak_flops,
        expected_seconds: flops / (peak_flops * EXPECTED_SHARE),
        warnings,
    })
}

/// What the rows add up to, in tokens.
struct Lengths {
    tokens: usize,
    learned: usize,
    /// At most in one micro-batch.
    longest: usize,
    /// Tokens a token shares its segment with, on average over tokens.
    segment: f64,
}

impl Lengths {
    fn of(packed: &Packed, corpus: &Corpus, batch_size: usize) -> Self {
        let pieces = || packed.rows.iter().flat_map(|row| &row.pieces);
        let tokens: usize = packed.rows.iter().map(Row::len).sum();
        let squares: usize = pieces().map(|piece| piece.len() * piece.len()).sum();
        let mut rows: Vec<usize> = packed.rows.iter().map(Row::len).collect();
        rows.sort_unstable_by(|a, b| b.cmp(a));
        Self {
            tokens,
            learned: pieces().map(|piece| piece.learned(&corpus.train)).sum(),
            longest: rows.iter().take(batch_size).sum(),
            segment: share(squares, tokens),
        }
    }
}

fn floor_flops(sizes: &Sizes, lengths: &Lengths) -> f64 {
    let head = sizes.hidden * sizes.vocab;
    let blocks = sizes.matmul_params.saturating_sub(head) as f64;
    let learned = share(lengths.learned, lengths.tokens);
    4.0 * (blocks + learned * head as f64)
        + 6.0 * sizes.lora_params as f64
        + 6.0 * (sizes.layers * sizes.hidden) as f64 * lengths.segment
}

/// The parts, and how many blocks may keep their activations: as many as fit.
fn memory_plan(
    sources: &Sources<'_>,
    lengths: &Lengths,
    warnings: &mut Vec<String>,
) -> Result<(Vec<MemoryPart>, usize)> {
    let Sources {
        settings, base, sizes, ..
    } = sources;
    let part = |name: &str, bytes: usize| MemoryPart {
        name: name.into(),
        bytes: bytes as u64,
    };
    let adapters = 4 * sizes.lora_params;
    let logits = chunk_rows(sizes.vocab).min(lengths.longest) * sizes.vocab * 4;
    let scratch = Some(sizes.scratch_bytes).filter(|bytes| *bytes > 0);
    let scratch = scratch.map(|bytes| part("one matrix, dequantized", bytes));
    let fixed = [
        part("weights", sizes.weight_bytes),
        part("adapters", adapters),
        part("gradients", 2 * adapters),
        part("optimizer moments", 2 * adapters),
        part("one block's backward", lengths.longest * sizes.kept_bytes_per_token),
        part("logits, in chunks", logits),
    ];
    let fixed: Vec<_> = fixed.into_iter().chain(scratch).collect();
    let of_blocks = |kept: usize| {
        let recomputed = sizes.layers - kept;
        lengths.longest * (kept * sizes.kept_bytes_per_token + recomputed * sizes.recomputed_bytes_per_token)
    };
    let total = |kept: usize| fixed.iter().map(|part| part.bytes).sum::<u64>() + of_blocks(kept) as u64;
    let available = memory::available();
    let usable = available.map_or(u64::MAX, |bytes| (bytes as f64 * USABLE) as u64);
    let kept = match (&settings.train.keep_blocks, sources.kept_before) {
        (KeepBlocks::Count(count), _) if *count > sizes.layers => {
            return Err(TrainError::TooManyKept {
                found: *count,
                blocks: sizes.layers,
                base: base.name.clone(),
            });
        }
        (KeepBlocks::Count(count), _) => *count,
        (KeepBlocks::Word(_), Some(before)) => before.min(sizes.layers),
        (KeepBlocks::Word(_), None) => (0..=sizes.layers)
            .rev()
            .find(|kept| total(*kept) <= usable)
            .unwrap_or(0),
    };
    if let Some(available) = available.filter(|bytes| total(kept) > *bytes) {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        warnings.push(format!(
            "this run needs about {:.1} GiB of memory and {:.1} GiB are free: lower data.max_length or train.batch_size",
            gib(total(kept)),
            gib(available)
        ));
    }
    let kept_part = MemoryPart {
        name: format!("activations, {kept} of {} blocks kept", sizes.layers),
        bytes: of_blocks(kept) as u64,
    };
    Ok((fixed.into_iter().chain([kept_part]).collect(), kept))
}

/// FLOP/s of a frozen linear layer on `device`, by the operation the model uses: the best of a tenth of a second.
pub fn measure_peak(device: &Device, precision: Precision) -> f64 {
    const ROWS: usize = 512;
    const N: usize = 1024;
    let matrix = |rows| Tensor::<2>::ones([rows, N], (device, precision.compute));
    let (x, weight) = (matrix(ROWS), Frozen::new(matrix(N), precision.linears));
    let flops = 2.0 * (ROWS * N * N) as f64;
    let begun = Instant::now();
    let mut best = f64::MIN_POSITIVE;
    while begun.elapsed() < Duration::from_millis(100) {
        let run = Instant::now();
        let product = linear(x.clone(), &weight);
        // A device that fails here fails in the first step too, with a better message.
        let _ = device.sync();
        drop(product);
        best = best.max(flops / run.elapsed().as_secs_f64());
    }
    best
}

fn device_name(device: &Device) -> String {
    format!("{device:?}").trim_matches(['<', '>']).to_string()
}

fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn llama_3_1_8b() -> Sizes {
        Sizes {
            family: "llama".into(),
            layers: 32,
            hidden: 4096,
            vocab: 128_256,
            context: 131_072,
            matmul_params: 7_504_658_432,
            total_params: 8_030_261_248,
            lora_params: 41_943_040,
            adapted_modules: 224,
            kept_bytes_per_token: 1,
            recomputed_bytes_per_token: 1,
            weight_bytes: 1,
            scratch_bytes: 0,
        }
    }

    #[test]
    fn floor_equals_the_worked_example() {
        // Llama-3.1-8B, r = 16 on all linears, documents of 4096 tokens, all learned: 33.5 GFLOP a token.
        let lengths = Lengths {
            tokens: 4096,
            learned: 4096,
            longest: 4096,
            segment: 4096.0,
        };
        let flops = floor_flops(&llama_3_1_8b(), &lengths);
        assert!((flops / 1e9 - 33.5).abs() < 0.1, "{flops}");
        let half = Lengths {
            learned: 2048,
            ..lengths
        };
        assert!((flops - floor_flops(&llama_3_1_8b(), &half) - 2.0 * 4096.0 * 128_256.0).abs() < 1e3);
    }

    #[test]
    fn the_probe_measures_something_plausible() {
        let peak = measure_peak(&Device::flex(), Precision::F32);
        assert!((1e8..1e15).contains(&peak), "{peak}");
    }
}
