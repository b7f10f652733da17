//! Measures steps as a run makes them: speed, memory against the plan, and where the time goes.
use crate::fit::Room;
use crate::optim::{AdamW, Options};
use crate::out_of_memory::Limits;
use crate::plan::{Lengths, device_name, floor_flops, measure_peak};
use crate::prepare::prepare;
use crate::step::{StepOptions, StepResult, step};
use crate::train::Start;
use crate::watch::Watch;
use crate::{Result, TrainError, continued, memory};
use burn::tensor::Device;
use serde::Serialize;
use std::time::Instant;
use tune_data::{Batch, Loader};
use tune_model::causal_lm::sizes;
use tune_model::generate::{GenerateOptions, generate};
use tune_model::lora::LoraSpec;
use tune_model::memory::{Micro, Part};
use tune_model::ops::clock::{self, Spent};
use tune_model::{CausalLm, Checkpoint, DeviceKind, Keep, ModelError, Precision};

/// What is run, on what.
pub struct Subject<'a> {
    pub base: &'a Checkpoint,
    pub lora: &'a LoraSpec,
    pub device: &'a Device,
    pub precision: Precision,
    pub started: Instant,
}

/// How steps are made. Rates and clipping cost the same whatever they are.
pub struct Training {
    /// The micro-batches of one step, the same for every step.
    pub window: Vec<Batch>,
    pub optimizer: Options,
    /// Blocks kept; `None`: as many as fit.
    pub keep: Option<usize>,
    /// Bytes the plan may use; `None`: what is free.
    pub memory: Option<u64>,
    pub steps: Steps,
}

/// How many of each kind, in this order.
#[derive(Debug, Clone, Copy)]
pub struct Steps {
    /// At least one: allocators fill their caches and LibTorch chooses its kernels.
    pub warm_up: usize,
    pub measured: usize,
    /// With the account of ops on.
    pub by_op: usize,
}

/// Median and quartiles.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

#[derive(Debug, Clone, Serialize)]
pub struct TrainingReport {
    pub device: String,
    pub tokens_per_step: usize,
    pub learned_per_step: usize,
    pub kept_blocks: usize,
    pub blocks: usize,
    pub tokens_per_second: Spread,
    pub learned_tokens_per_second: f64,
    /// What a token must cost at least, over what the device's products reach.
    pub floor_share: f64,
    pub floor_flops_per_token: f64,
    pub peak_flops: f64,
    pub planned: Vec<Part>,
    pub planned_bytes: u64,
    /// Beside that, where steps are recorded.
    pub recorded_bytes: Option<u64>,
    /// Beyond what was held before the weights; the process's on a CPU.
    pub measured_bytes: u64,
    /// From the start of the program to the start of the first step, and that step.
    pub seconds_to_first_step: f64,
    pub first_step_seconds: f64,
    pub step_seconds: Vec<f64>,
    pub first_loss: f64,
    pub last_loss: f64,
    /// Of one step while every op is waited for.
    pub accounted_step_seconds: f64,
    pub by_op: Vec<Spent>,
}

/// What a run would begin with: its base, adapter and precision, the first step's micro-batches, the blocks its plan keeps.
pub fn of_run(
    start: &Start<'_>,
    steps: Steps,
    watch: &mut dyn Watch,
) -> Result<(Checkpoint, LoraSpec, Precision, Training)> {
    let settings = continued::resolve(start.settings)?;
    let prepared = prepare(&start.with(&settings), None, watch)?;
    let train = &settings.train;
    let mut loader = Loader::new(prepared.packed.rows.len(), train.batch_size, train.seed);
    let training = Training {
        window: prepared.next_window(&mut loader, train.grad_accumulation)?,
        optimizer: Options::of(train),
        keep: Some(prepared.plan.keep.blocks),
        memory: None,
        steps,
    };
    Ok((prepared.base, settings.lora_spec(), prepared.precision, training))
}

/// How steps will be made, and what they take.
#[derive(Debug, Clone, Serialize)]
pub struct Planned {
    pub keep: Keep,
    pub blocks: usize,
    pub parts: Vec<Part>,
    /// What waits on the host for the device.
    pub host_bytes: u64,
    /// On the device beside the parts, where steps are recorded.
    pub recorded_bytes: Option<u64>,
    /// Tokens one row may have, where it is known what memory there is; no more than the model sees.
    pub longest: Option<usize>,
}

impl Planned {
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }
}

/// What [`train`] would do on a device of `kind`, which need not be here.
///
/// # Errors
/// If it does not fit into the memory asked for, or a GPU's.
pub fn plan(subject: &Subject<'_>, training: &Training, kind: DeviceKind) -> Result<Planned> {
    let sizes = sizes(subject.base, Some(subject.lora), subject.precision)?;
    let lengths = lengths(&training.window);
    if let Some(found) = training.keep.filter(|keep| *keep > sizes.shape.layers) {
        return Err(TrainError::TooManyKept {
            found,
            blocks: sizes.shape.layers,
            base: subject.base.name.clone(),
        });
    }
    let (tokens, learned) = lengths.longest.last().copied().unwrap_or_default();
    let micro = Micro {
        tokens,
        learned,
        longest: documents(&training.window).max().unwrap_or(0),
        accumulates: training.window.len() > 1,
        dropout: subject.lora.dropout > 0.0,
    };
    let here = kind == DeviceKind::of(subject.device);
    let asked = training.memory.map(|bytes| bytes.saturating_sub(kind.before_all()));
    let usable = asked.or_else(|| memory::free(subject.device).filter(|_| here));
    let room = Room {
        sizes: &sizes,
        kind,
        bytes: usable.unwrap_or(u64::MAX),
    };
    let blocks = training.keep.map_or(0..=sizes.shape.layers, |blocks| blocks..=blocks);
    let longest = usable.map(|_| room.longest(1, micro).min(sizes.shape.context));
    let keep = match (room.keep(micro, blocks), usable) {
        (Some(keep), _) => keep,
        (None, Some(usable)) if asked.is_some() || kind == DeviceKind::Cuda => {
            let least = match training.keep {
                Some(blocks) => Keep { blocks, offloaded: 0 },
                None => room.least(),
            };
            return Err(TrainError::TooLarge {
                needed: room.footprint(micro, least).total(),
                usable,
                change: match longest {
                    _ if training.keep.is_some() => "keep fewer blocks: without --keep-blocks, as many as fit".into(),
                    Some(longest) if longest > 1 => format!("--batch 1 --seq {longest} fits"),
                    _ => "not one token fits beside the weights, which --quantize nf4 makes smaller".into(),
                },
            });
        }
        // A CPU can swap.
        (None, _) => Keep {
            blocks: training.keep.unwrap_or(0),
            offloaded: 0,
        },
    };
    let footprint = room.footprint(micro, keep);
    Ok(Planned {
        keep,
        blocks: sizes.shape.layers,
        host_bytes: footprint.host,
        parts: footprint.parts,
        recorded_bytes: room.recorded(micro, keep),
        longest,
    })
}

/// Steps as `planned`, on made-up or real weights; nothing is written.
pub fn train(subject: &Subject<'_>, training: &Training, planned: Planned) -> Result<TrainingReport> {
    let device = subject.device;
    let sizes = sizes(subject.base, Some(subject.lora), subject.precision)?;
    let lengths = lengths(&training.window);
    let room = Room {
        sizes: &sizes,
        kind: DeviceKind::of(device),
        bytes: u64::MAX,
    };
    let mut limits = Limits::new(planned.keep, room.least(), device);
    let peak_flops = measure_peak(device, subject.precision);
    memory::reset_peak(device);
    let before = memory::used(device).unwrap_or(0);
    let mut model = load(subject, Some(subject.lora))?;
    if planned.recorded_bytes.is_some() {
        model.record_steps();
    }
    let mut adamw = AdamW::new(training.optimizer, &model.adapters());
    let mut options = StepOptions {
        step: 0,
        rate: 1e-4,
        max_grad_norm: 1.0,
        seed: 0,
        dropout: subject.lora.dropout,
        neftune_alpha: 0.0,
    };
    let mut timed = || -> Result<(StepResult, f64)> {
        let begun = Instant::now();
        options.step += 1;
        let result = step(&mut model, &mut adamw, &training.window, &options, &mut limits)?;
        let _ = device.sync();
        Ok((result, begun.elapsed().as_secs_f64()))
    };

    let seconds_to_first_step = subject.started.elapsed().as_secs_f64();
    let (first, first_step_seconds) = timed()?;
    let steps = training.steps;
    for _ in 1..steps.warm_up {
        timed()?;
    }
    let measured: Vec<_> = (0..steps.measured).map(|_| timed()).collect::<Result<_>>()?;
    let measured_bytes = memory::peak_on(device).unwrap_or(0).saturating_sub(before);
    let (accounted, spent) = clock::account(device, || (0..steps.by_op).map(|_| timed()).collect::<Result<Vec<_>>>());
    let accounted: f64 = accounted?.iter().map(|(_, seconds)| seconds).sum();

    let step_seconds: Vec<f64> = measured.iter().map(|(_, seconds)| *seconds).collect();
    let tokens = lengths.tokens as f64;
    let tokens_per_second = spread(step_seconds.iter().map(|seconds| tokens / seconds).collect());
    let floor = floor_flops(&sizes, &lengths);
    Ok(TrainingReport {
        device: device_name(device),
        tokens_per_step: lengths.tokens,
        learned_per_step: lengths.learned,
        kept_blocks: planned.keep.blocks,
        blocks: planned.blocks,
        learned_tokens_per_second: tokens_per_second.median * lengths.learned as f64 / tokens,
        floor_share: floor * tokens_per_second.median / peak_flops,
        tokens_per_second,
        floor_flops_per_token: floor,
        peak_flops,
        planned_bytes: planned.bytes(),
        recorded_bytes: planned.recorded_bytes,
        planned: planned.parts,
        measured_bytes,
        seconds_to_first_step,
        first_step_seconds,
        first_loss: first.loss,
        last_loss: measured.last().map_or(first.loss, |(result, _)| result.loss),
        step_seconds,
        accounted_step_seconds: accounted / steps.by_op.max(1) as f64,
        by_op: of_one_step(spent, accounted, steps.by_op),
    })
}

/// Divides by the steps, and names what no op accounts for.
fn of_one_step(mut spent: Vec<Spent>, seconds: f64, steps: usize) -> Vec<Spent> {
    let named: f64 = spent.iter().map(|op| op.seconds).sum();
    spent.push(Spent {
        name: "everything else",
        calls: 0,
        seconds: (seconds - named).max(0.0),
    });
    for op in &mut spent {
        op.calls /= steps.max(1);
        op.seconds /= steps.max(1) as f64;
    }
    if steps == 0 { Vec::new() } else { spent }
}

/// How answers are made: `prompts` of `prompt` tokens together, `new` tokens each.
#[derive(Debug, Clone, Copy)]
pub struct Decoding {
    pub prompts: usize,
    pub prompt: usize,
    pub new: usize,
    pub rounds: usize,
}

#[derive(Debug, Clone, Serialize)]
pub struct DecodingReport {
    pub device: String,
    pub prompts: usize,
    pub prompt_tokens: usize,
    pub new_tokens: usize,
    /// All answers together, after the first token of each.
    pub new_tokens_per_second: Spread,
    pub seconds_to_first_token: Spread,
    pub measured_bytes: u64,
}

/// Greedy answers of the base alone that stop at nothing.
pub fn decode(subject: &Subject<'_>, decoding: Decoding) -> Result<DecodingReport> {
    let Decoding {
        prompts, prompt, new, ..
    } = decoding;
    let model = load(subject, None)?;
    if prompt.saturating_add(new) > model.context() {
        return Err(TrainError::Model(ModelError::TooLong {
            tokens: prompt.saturating_add(new),
            context: model.context(),
        }));
    }
    let vocab = model.vocab_size();
    let texts: Vec<Vec<u32>> = (0..prompts).map(|i| tokens(i as u64, prompt, vocab)).collect();
    let options = GenerateOptions::greedy(new);
    let (mut first, mut rates) = (Vec::new(), Vec::new());
    // The first round warms up.
    for round in 0..=decoding.rounds {
        let (begun, mut after_first, mut come) = (Instant::now(), None, 0);
        generate(&model, &texts, &options, &mut |_, _| {
            come += 1;
            if come == prompts {
                after_first = Some(begun.elapsed().as_secs_f64());
            }
            true
        })?;
        let (all, begin) = (begun.elapsed().as_secs_f64(), after_first.unwrap_or_default());
        if round > 0 {
            first.push(begin);
            rates.push((come - prompts) as f64 / (all - begin).max(f64::MIN_POSITIVE));
        }
    }
    Ok(DecodingReport {
        device: device_name(subject.device),
        prompts,
        prompt_tokens: prompt,
        new_tokens: new,
        new_tokens_per_second: spread(rates),
        seconds_to_first_token: spread(first),
        measured_bytes: memory::peak_on(subject.device).unwrap_or(0),
    })
}

fn load(subject: &Subject<'_>, lora: Option<&LoraSpec>) -> Result<CausalLm> {
    let Subject {
        base,
        device,
        precision,
        ..
    } = subject;
    Ok(CausalLm::load(base, lora, device, *precision, &mut |_, _| ())?)
}

/// `count` token ids below `vocab`.
pub fn tokens(seed: u64, count: usize, vocab: usize) -> Vec<u32> {
    let draw = |i| (tune_model::noise::uniform(seed, i) * vocab as f64) as u32;
    (0..count as u64).map(draw).collect()
}

/// Their lengths.
fn documents(window: &[Batch]) -> impl Iterator<Item = usize> {
    let starts = window.iter().flat_map(|batch| batch.starts.windows(2));
    starts.map(|s| s[1] - s[0])
}

fn lengths(window: &[Batch]) -> Lengths {
    let tokens: usize = documents(window).sum();
    let longest = window.iter().map(|batch| (batch.tokens.len(), batch.learned())).max();
    Lengths {
        tokens,
        learned: window.iter().map(Batch::learned).sum(),
        longest: longest.into_iter().collect(),
        segment: documents(window).map(|length| length * length).sum::<usize>() as f64 / tokens.max(1) as f64,
    }
}

/// NaN of nothing.
fn spread(mut values: Vec<f64>) -> Spread {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let last = values.len().saturating_sub(1);
        values
            .get((share * last as f64).round() as usize)
            .copied()
            .unwrap_or(f64::NAN)
    };
    Spread {
        low: at(0.25),
        median: at(0.5),
        high: at(0.75),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_step_of_a_made_up_model_is_measured_whole() {
        let base = Checkpoint::outline(
            "tiny",
            json!({
                "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
                "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 50, "max_position_embeddings": 64
            }),
        )
        .unwrap();
        let lora = LoraSpec::all_linears(4);
        let subject = Subject {
            base: &base,
            lora: &lora,
            device: &Device::flex(),
            precision: Precision::F32,
            started: Instant::now(),
        };
        let window = vec![Batch {
            tokens: tokens(3, 24, 50),
            positions: (0..24).map(|i| i % 12).collect(),
            learn: (0..24).map(|i| i % 12 >= 6).collect(),
            starts: vec![0, 12, 24],
            origins: Vec::new(),
        }];
        let training = Training {
            window,
            optimizer: Options::of(&Default::default()),
            keep: Some(1),
            memory: None,
            steps: Steps {
                warm_up: 1,
                measured: 3,
                by_op: 2,
            },
        };
        let planned = plan(&subject, &training, DeviceKind::Flex).unwrap();
        let report = train(&subject, &training, planned).unwrap();
        assert_eq!((report.tokens_per_step, report.learned_per_step), (24, 12));
        assert_eq!(
            (report.kept_blocks, report.blocks, report.step_seconds.len()),
            (1, 2, 3)
        );
        // About log(50) before anything is learned, and less after a few steps on the same tokens.
        assert!((report.first_loss - 50f64.ln()).abs() < 0.1, "{}", report.first_loss);
        assert!(report.last_loss < report.first_loss);
        let calls = |name: &str| report.by_op.iter().find(|op| op.name == name).map(|op| op.calls);
        // Two blocks forward, one of them again.
        assert_eq!(calls("attention"), Some(3));
        assert_eq!(calls("attention, backward"), Some(2));
        // q, k and v as one, gate and up as another, and two alone.
        assert_eq!(calls("linear with adapter"), Some(12));
        assert_eq!(calls("linear with adapter, backward"), Some(8));
        assert_eq!(calls("optimizer"), Some(1));

        let decoding = Decoding {
            prompts: 2,
            prompt: 5,
            new: 4,
            rounds: 1,
        };
        let report = decode(&subject, decoding).unwrap();
        assert!(report.new_tokens_per_second.median > 0.0 && report.seconds_to_first_token.median > 0.0);
    }
}
