//! What will happen, before it does: steps, memory, time.
use crate::fit::Room;
use crate::settings::{KeepBlocks, Settings};
use crate::{Result, TrainError, memory};
use burn::tensor::{Device, Tensor};
use serde::Serialize;
use std::time::{Duration, Instant};
use tune_data::{Corpus, Packed, Row};
use tune_model::causal_lm::{Sizes, sizes};
use tune_model::memory::{Footprint, Micro, Part};
use tune_model::ops::linear;
use tune_model::precision::Quantize;
use tune_model::{Checkpoint, DeviceKind, Frozen, Keep, Precision};

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
    /// Counted, in bytes, for the peak of the longest micro-batch.
    pub memory: Vec<Part>,
    /// What of it may be used, where that is known.
    pub usable_memory: Option<u64>,
    pub keep: Keep,
    pub blocks: usize,
    /// What waits on the host for the device.
    pub host_memory: u64,
    /// What recorded steps hold on the device beside that; `None`: their operations are launched one by one.
    pub recorded: Option<u64>,
    /// Tokens a row may have at this batch size, with everything recomputed (or offloaded) that can be; no more than the model sees.
    pub longest_that_fits: Option<usize>,
    /// Tokens the model sees at most.
    pub context: usize,
    /// What one trained token must cost at least: `4 P_frozen + 6 P_lora + 6 L d T`, the head for learned tokens alone.
    pub floor_flops_per_token: f64,
    /// `None` where the plan is for a device that is not here.
    pub speed: Option<Speed>,
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Speed {
    /// Measured on a short matmul probe; the time is an estimate from it.
    pub peak_flops: f64,
    pub expected_seconds: f64,
}

impl Plan {
    /// Bytes on the device.
    pub fn planned_memory(&self) -> u64 {
        self.memory.iter().map(|part| part.bytes).sum()
    }
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
    /// What the plan is for: `device`'s kind, unless that is not here.
    pub kind: DeviceKind,
    /// All that may be used, context and slack included; `None` = what is free.
    pub budget: Option<u64>,
    /// Blocks kept by the run that goes on.
    pub kept_before: Option<usize>,
    pub warnings: Vec<String>,
}

/// Share of the matmul probe's speed that whole steps reach; for the estimate of the time alone.
const EXPECTED_SHARE: f64 = 0.7;
/// Share of what is free that the plan may use.
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
    let memory = memory_plan(&sources, &lengths, &mut warnings)?;
    let floor = floor_flops(sizes, &lengths);
    let recomputed = 2.0 * sizes.matmul_params as f64 * (1.0 - share(memory.keep.blocks, sizes.shape.layers));
    let evaluations = match train.eval_every {
        0 => 0,
        every => 1 + total_steps.div_ceil(every),
    };
    let flops = epochs * lengths.tokens as f64 * (floor + recomputed)
        + (evaluations * sources.validation_tokens) as f64 * 2.0 * sizes.matmul_params as f64;
    let speed = (sources.kind == DeviceKind::of(sources.device)).then(|| {
        let peak_flops = measure_peak(sources.device, sources.precision);
        Speed {
            peak_flops,
            expected_seconds: flops / (peak_flops * EXPECTED_SHARE),
        }
    });
    Ok(Plan {
        device: device_name(sources.device),
        device_why: sources.device_why.to_string(),
        base: base.name.clone(),
        family: sizes.family.clone(),
        total_params: sizes.total_params,
        trainable_params: sizes.lora_params(),
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
        memory: memory.footprint.parts,
        usable_memory: memory.usable,
        keep: memory.keep,
        blocks: sizes.shape.layers,
        host_memory: memory.footprint.host,
        recorded: memory.recorded,
        longest_that_fits: memory.longest,
        context: sizes.shape.context,
        floor_flops_per_token: floor,
        speed,
        warnings,
    })
}

/// What the rows add up to, in tokens.
pub(crate) struct Lengths {
    pub tokens: usize,
    pub learned: usize,
    /// The longest micro-batch a batch size makes: its tokens, and the most that may be learned of one.
    pub longest: Vec<(usize, usize)>,
    /// Tokens a token shares its segment with, on average over tokens.
    pub segment: f64,
}

impl Lengths {
    fn of(packed: &Packed, corpus: &Corpus, batch_size: usize) -> Self {
        let pieces = || packed.rows.iter().flat_map(|row| &row.pieces);
        let tokens: usize = packed.rows.iter().map(Row::len).sum();
        let squares: usize = pieces().map(|piece| piece.len() * piece.len()).sum();
        let learned = |row: &Row| {
            row.pieces
                .iter()
                .map(|piece| piece.learned(&corpus.train))
                .sum::<usize>()
        };
        let descending = |of: &dyn Fn(&Row) -> usize| {
            let mut rows: Vec<usize> = packed.rows.iter().map(of).collect();
            rows.sort_unstable_by(|a, b| b.cmp(a));
            let sums = rows.into_iter().take(batch_size).scan(0, |sum, row| {
                *sum += row;
                Some(*sum)
            });
            sums.collect::<Vec<_>>()
        };
        let longest = descending(&Row::len).into_iter().zip(descending(&learned)).collect();
        Self {
            tokens,
            learned: pieces().map(|piece| piece.learned(&corpus.train)).sum(),
            longest,
            segment: share(squares, tokens),
        }
    }
}

pub(crate) fn floor_flops(sizes: &Sizes, lengths: &Lengths) -> f64 {
    let shape = &sizes.shape;
    let head = shape.hidden * shape.vocab;
    let blocks = sizes.matmul_params.saturating_sub(head) as f64;
    let learned = share(lengths.learned, lengths.tokens);
    4.0 * (blocks + learned * head as f64)
        + 6.0 * sizes.lora_params() as f64
        + 6.0 * (shape.layers * shape.hidden) as f64 * lengths.segment
}

struct MemoryPlan {
    keep: Keep,
    footprint: Footprint,
    usable: Option<u64>,
    longest: Option<usize>,
    recorded: Option<u64>,
}

/// How the longest micro-batch fits into what there is. On a GPU what does not fit is an error; a CPU can swap, and is warned of.
fn memory_plan(sources: &Sources<'_>, lengths: &Lengths, warnings: &mut Vec<String>) -> Result<MemoryPlan> {
    let Sources {
        settings,
        base,
        sizes,
        kind,
        ..
    } = sources;
    let (train, layers) = (&settings.train, sizes.shape.layers);
    let blocks = match (&train.keep_blocks, sources.kept_before) {
        (KeepBlocks::Count(count), _) if *count > layers => {
            return Err(TrainError::TooManyKept {
                found: *count,
                blocks: layers,
                base: base.name.clone(),
            });
        }
        (KeepBlocks::Count(count), _) => *count..=*count,
        (KeepBlocks::Word(_), Some(before)) => before.min(layers)..=before.min(layers),
        (KeepBlocks::Word(_), None) => 0..=layers,
    };
    let micro = |(tokens, learned): (usize, usize)| Micro {
        tokens,
        learned,
        // No document is longer than the longest row.
        longest: lengths.longest.first().map_or(0, |(row, _)| *row),
        accumulates: train.grad_accumulation > 1,
        dropout: settings.lora.dropout > 0.0,
    };
    let longest = micro(lengths.longest.last().copied().unwrap_or_default());
    let usable = match sources.budget {
        Some(budget) => Some(budget.saturating_sub(kind.before_all())),
        None if *kind == DeviceKind::of(sources.device) => {
            memory::free(sources.device).map(|bytes| (bytes as f64 * USABLE) as u64)
        }
        None => None,
    };
    let room = Room {
        sizes,
        kind: *kind,
        bytes: usable.unwrap_or(u64::MAX),
    };
    let keep = match (room.keep(longest, blocks.clone()), usable) {
        (Some(keep), _) => keep,
        (None, Some(usable)) if sources.budget.is_some() || *kind == DeviceKind::Cuda => {
            return Err(TrainError::TooLarge {
                needed: room.footprint(longest, room.least()).total(),
                usable,
                change: smallest_change(sources, &room, lengths, micro),
            });
        }
        (None, _) => {
            let keep = Keep {
                blocks: *blocks.start(),
                offloaded: 0,
            };
            warnings.push(format!(
                "this run needs about {:.1} GB of memory and {:.1} GB can be used: {}",
                room.footprint(longest, keep).total() as f64 / 1e9,
                room.bytes as f64 / 1e9,
                smallest_change(sources, &room, lengths, micro)
            ));
            keep
        }
    };
    let footprint = room.footprint(longest, keep);
    let on_host = memory::available().filter(|_| *kind == DeviceKind::of(sources.device));
    if let Some(available) = on_host.filter(|available| footprint.host > *available) {
        warnings.push(format!(
            "{:.1} GB of host memory are to take what does not fit on the device, and {:.1} GB are free",
            footprint.host as f64 / 1e9,
            available as f64 / 1e9
        ));
    }
    Ok(MemoryPlan {
        keep,
        footprint,
        recorded: room.recorded(longest, keep),
        usable,
        longest: usable.map(|_| room.longest(train.batch_size, longest).min(sizes.shape.context)),
    })
}

/// What would make the run fit: fewer rows at a time, else 4 bits a weight, else shorter rows, else a smaller base.
fn smallest_change(
    sources: &Sources<'_>,
    room: &Room<'_>,
    lengths: &Lengths,
    micro: impl Fn((usize, usize)) -> Micro,
) -> String {
    let (settings, batch_size) = (sources.settings, sources.settings.train.batch_size);
    let fewer = (1..batch_size)
        .rev()
        .filter_map(|rows| Some((rows, *lengths.longest.get(rows - 1)?)))
        .find(|(_, longest)| room.keep(micro(*longest), 0..=0).is_some());
    if let Some((rows, _)) = fewer {
        return format!("set train.batch_size = {rows}, and train.grad_accumulation higher by as much");
    }
    let one = lengths.longest.first().copied().unwrap_or_default();
    let of_4_bits = || {
        let precision = Precision::resolve_for(settings.model.dtype, Quantize::Nf4, sources.kind).ok()?;
        let sizes = sizes(sources.base, Some(&settings.lora_spec()), precision).ok()?;
        let room = Room { sizes: &sizes, ..*room };
        room.keep(micro(one), 0..=0)
    };
    if settings.model.quantize == Quantize::None && of_4_bits().is_some() {
        return format!("set model.quantize = \"nf4\"{}", alone(batch_size));
    }
    match room.longest(1, micro((1, 1))) {
        0 | 1 => "not even one token fits beside the weights: a smaller base, or more memory".into(),
        length => format!("set data.max_length = {length}{}", alone(batch_size)),
    }
}

fn alone(batch_size: usize) -> &'static str {
    if batch_size > 1 {
        " and train.batch_size = 1"
    } else {
        ""
    }
}

/// FLOP/s of a frozen linear layer on `device`, by the operation the model uses: the best of a tenth of a second. A device
/// that is fast at small products is tried with larger ones, which alone fill a GPU.
pub fn measure_peak(device: &Device, precision: Precision) -> f64 {
    const SMALL: Duration = Duration::from_millis(100);
    let small = best_flops(device, precision, 512, 1024, SMALL);
    let (rows, n) = (8192, 4096);
    if 2.0 * (rows * n * n) as f64 / small > SMALL.as_secs_f64() {
        return small;
    }
    small.max(best_flops(device, precision, rows, n, SMALL))
}

/// The best of `time`, for `[rows, n] · [n, n]ᵀ`.
fn best_flops(device: &Device, precision: Precision, rows: usize, n: usize, time: Duration) -> f64 {
    let matrix = |rows| Tensor::<2>::ones([rows, n], (device, precision.compute));
    let (x, weight) = (matrix(rows), Frozen::new(matrix(n), precision.linears));
    let flops = 2.0 * (rows * n * n) as f64;
    let begun = Instant::now();
    let mut best = f64::MIN_POSITIVE;
    while begun.elapsed() < time {
        let run = Instant::now();
        let product = linear(x.clone(), &weight);
        // A device that fails here fails in the first step too, with a better message.
        let _ = device.sync();
        drop(product);
        best = best.max(flops / run.elapsed().as_secs_f64());
    }
    best
}

pub(crate) fn device_name(device: &Device) -> String {
    format!("{device:?}").trim_matches(['<', '>']).to_string()
}

fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn llama_3_1_8b() -> Sizes {
        let config = serde_json::json!({
            "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
            "max_position_embeddings": 131072
        });
        let lora = Settings::default().lora_spec();
        tune_model::causal_lm::sizes_of_shape(config, Some(&lora), Precision::F32).unwrap()
    }

    #[test]
    fn floor_equals_the_worked_example() {
        // Llama-3.1-8B, r = 16 on all linears, documents of 4096 tokens, all learned: 33.5 GFLOP a token.
        let lengths = Lengths {
            tokens: 4096,
            learned: 4096,
            longest: vec![(4096, 4096)],
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
