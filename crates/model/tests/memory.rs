//! The planner's count of bytes against those really allocated, at the peak of a step.
#![allow(clippy::print_stdout)] // A measurement is there to be read.
use burn::tensor::{DType, Device};
use serde_json::{Value, json};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tune_model::causal_lm::sizes;
use tune_model::lora::LoraSpec;
use tune_model::memory::{Micro, footprint};
use tune_model::{CausalLm, Checkpoint, DeviceKind, Input, Keep, Noise, OpenOptions, Precision};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all calls go to `System` as they come.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(held, Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One measurement at a time.
static ALONE: Mutex<()> = Mutex::new(());

const VOCAB: usize = 4096;

fn config(model_type: &str, layers: usize) -> Value {
    json!({
        "model_type": model_type, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": layers,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32, "vocab_size": VOCAB,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": if model_type == "gpt_neox" { "gelu" } else { "silu" }, "tie_word_embeddings": true,
        // As GPT-2 and GPT-Neo call the same.
        "n_embd": 256, "n_inner": 704, "n_layer": layers, "n_head": 8, "n_positions": 4096,
        "num_layers": layers, "num_heads": 8, "attention_types": [[["global", "local"], layers / 2]]
    })
}

/// A folder with a model of `config`, its weights small and not all equal.
fn write_model(config: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, info) in Checkpoint::outline("tiny", config.clone()).unwrap().tensors() {
        let start = data.len();
        for i in 0..info.elements() {
            data.extend((((i * 37 % 101) as f32 - 50.0) * 1e-3).to_le_bytes());
        }
        header.insert(
            name.clone(),
            json!({ "dtype": "F32", "shape": info.shape, "data_offsets": [start, data.len()] }),
        );
    }
    let header = Value::Object(header).to_string().into_bytes();
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    fs_err::write(folder.path().join("model.safetensors"), file).unwrap();
    fs_err::write(folder.path().join("config.json"), config.to_string()).unwrap();
    fs_err::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    folder
}

fn lora(dropout: f64, layers: Option<Vec<usize>>) -> LoraSpec {
    LoraSpec {
        dropout,
        layers,
        ..LoraSpec::all_linears(8)
    }
}

/// `rows` documents of `length` tokens, the later `learned` of each learned.
fn input(rows: usize, length: usize, learned: usize) -> Input {
    let n = rows * length;
    Input {
        tokens: (0..n).map(|i| (i * 31 % VOCAB) as u32).collect(),
        positions: (0..n).map(|i| (i % length) as u32).collect(),
        starts: (0..=rows).map(|row| row * length).collect(),
        learn: (0..n).map(|i| i % length >= length - learned).collect(),
    }
}

/// Bytes held by now, and a peak that only grows: of Rust's allocations, or of all that go through the C library, sampled.
trait Meter {
    fn held(&self) -> usize;
    /// The peak while `run` runs, and what it gives.
    fn peak<T>(&self, run: impl FnOnce() -> T) -> (usize, T);
}

struct Rusts;

impl Meter for Rusts {
    fn held(&self) -> usize {
        HELD.load(Relaxed)
    }
    fn peak<T>(&self, run: impl FnOnce() -> T) -> (usize, T) {
        PEAK.store(self.held(), Relaxed);
        let made = run();
        (PEAK.load(Relaxed), made)
    }
}

/// LibTorch's tensors are not Rust's: the C library is asked, all the while.
#[cfg(all(feature = "tch", target_env = "gnu"))]
struct Libraries;

#[cfg(all(feature = "tch", target_env = "gnu"))]
impl Meter for Libraries {
    fn held(&self) -> usize {
        // SAFETY: it only reads the allocator's account of itself.
        let account = unsafe { libc::mallinfo2() };
        account.uordblks + account.hblkhd
    }
    fn peak<T>(&self, run: impl FnOnce() -> T) -> (usize, T) {
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let sampler = scope.spawn(|| {
                let mut peak = 0;
                while !done.load(Relaxed) {
                    peak = self.held().max(peak);
                    std::thread::sleep(std::time::Duration::from_micros(50));
                }
                peak
            });
            let made = run();
            done.store(true, Relaxed);
            (sampler.join().unwrap(), made)
        })
    }
}

#[test]
fn the_planned_peak_is_the_measured_one_on_flex() {
    check(&Rusts, &Device::flex(), Precision::F32, DeviceKind::Flex, 7.0, 1);
}

#[cfg(all(feature = "tch", target_env = "gnu"))]
#[test]
fn the_planned_peak_is_near_the_measured_one_on_libtorch() {
    let bf16 = Precision {
        compute: DType::BF16,
        ..Precision::F32
    };
    // Not counted: what MKL and oneDNN keep. Processors without bf16 are slow in it: a few settings do.
    for (precision, every) in [(Precision::F32, 1), (bf16, 4)] {
        let device = tune_model::libtorch::cpu();
        check(&Libraries, &device, precision, DeviceKind::LibTorch, 25.0, every);
    }
}

/// Of the settings the first, and `every` so many-th after it.
fn check(meter: &impl Meter, device: &Device, precision: Precision, kind: DeviceKind, percent: f64, every: usize) {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let keep = |blocks, offloaded| Keep { blocks, offloaded };
    let settings = [
        ("llama", 6, input(1, 512, 511), keep(6, 0), 0.0, None, false),
        ("llama", 6, input(1, 1024, 100), keep(3, 0), 0.0, None, false),
        ("llama", 6, input(4, 256, 128), keep(0, 0), 0.0, None, false),
        ("llama", 6, input(2, 512, 511), keep(2, 0), 0.1, None, false),
        (
            "llama",
            12,
            input(8, 128, 127),
            keep(12, 0),
            0.0,
            Some((6..12).collect()),
            false,
        ),
        ("llama", 12, input(3, 333, 30), keep(5, 0), 0.0, None, false),
        ("llama", 6, input(2, 512, 511), keep(6, 0), 0.0, None, true),
        ("llama", 6, input(4, 256, 128), keep(2, 0), 0.0, None, true),
        ("qwen3", 6, input(1, 512, 100), keep(6, 0), 0.0, None, false),
        ("olmo2", 6, input(1, 512, 100), keep(6, 0), 0.0, None, false),
        ("olmo2", 6, input(4, 256, 128), keep(0, 0), 0.0, None, false),
        ("phi3", 6, input(1, 512, 100), keep(6, 0), 0.0, None, false),
        ("phi3", 6, input(4, 256, 128), keep(0, 0), 0.0, None, false),
        ("gemma2", 6, input(1, 512, 100), keep(6, 0), 0.0, None, false),
        ("gemma3_text", 6, input(1, 512, 100), keep(6, 0), 0.0, None, false),
        ("gemma3_text", 6, input(4, 256, 128), keep(0, 0), 0.0, None, false),
        ("gpt2", 6, input(1, 512, 100), keep(6, 0), 0.0, None, false),
        ("gpt2", 6, input(4, 256, 128), keep(0, 0), 0.0, None, false),
        ("gpt_neo", 6, input(1, 512, 100), keep(6, 0), 0.0, None, false),
        ("gpt_neo", 6, input(4, 256, 128), keep(0, 0), 0.0, None, false),
        ("gpt_neox", 6, input(1, 512, 100), keep(6, 0), 0.0, None, false),
        ("gpt_neox", 6, input(4, 256, 128), keep(0, 0), 0.0, None, false),
    ];
    let mut wrong = Vec::new();
    for (family, layers, input, keep, dropout, adapted, dora) in settings.into_iter().step_by(every) {
        let folder = write_model(&config(family, layers));
        let base = Checkpoint::open(&folder.path().to_string_lossy(), &OpenOptions::default()).unwrap();
        let lora = LoraSpec {
            dora,
            ..lora(dropout, adapted)
        };
        let sizes = sizes(&base, Some(&lora), precision).unwrap();
        let before = meter.held();
        let model = CausalLm::load(&base, Some(&lora), device, precision, &mut |_, _| ()).unwrap();
        let loaded = meter.held() - before;
        let noise = Noise {
            seed: 1,
            dropout,
            neftune_alpha: 0.0,
        };
        let (peak, (losses, gradients)) = meter.peak(|| model.loss_and_gradients(&input, keep, noise).unwrap());
        let measured = peak - before;
        let micro = Micro {
            tokens: input.tokens.len(),
            learned: losses.learned(),
            longest: input.starts.windows(2).map(|s| s[1] - s[0]).max().unwrap_or(0),
            accumulates: false,
            dropout: dropout > 0.0,
        };
        drop(gradients);
        let planned = footprint(&sizes, micro, keep, kind);
        // No optimizer was made here.
        let moments = planned
            .parts
            .iter()
            .find(|part| part.name == "optimizer moments")
            .unwrap();
        let planned_bytes = planned.total() - moments.bytes;
        let off = |planned: f64, measured: f64| 100.0 * (planned / measured - 1.0);
        let static_bytes: u64 = planned.parts[..3].iter().map(|part| part.bytes).sum();
        let all = off(planned_bytes as f64, measured as f64);
        let moving = off((planned_bytes - static_bytes) as f64, (measured - loaded) as f64);
        println!(
            "{family}, {layers} blocks, {} tokens, {keep:?}: planned {planned_bytes}, measured {measured}: {all:+.1} %, {moving:+.1} % without weights; loaded {loaded} planned {static_bytes}",
            micro.tokens
        );
        if all.abs().max(moving.abs()) >= percent {
            wrong.push(format!("{family}, {keep:?}: {all:+.1} %, {moving:+.1} %; {planned:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
