//! The optimizer step against torch, the accumulation grid, and whole runs on a tiny model.
use crate::golden::{Golden, adapter, checkpoint, devices, folder};
use burn::tensor::{Device, Tensor};
use std::path::Path;
use std::sync::atomic::AtomicU8;
use tune_data::Batch;
use tune_model::lora::Factors;
use tune_model::peft::Adapter;
use tune_model::{CausalLm, Keep, Precision};
use tune_trainer::optim::{AdamW, Options};
use tune_trainer::out_of_memory::{self, Limits};
use tune_trainer::settings::{Settings, TrainFile};
use tune_trainer::step::{StepOptions, step};
use tune_trainer::train::{Ended, Outcome, Start, train};
use tune_trainer::watch::Silent;

/// As in PEFT's files.
pub const NAMES: Factors<&str> = Factors {
    a: "lora_A",
    b: "lora_B",
    m: Some("lora_magnitude_vector"),
};

pub const TORCH: Options = Options {
    betas: [0.9, 0.999],
    eps: 1e-8,
    weight_decay: 0.01,
    b_ratio: 1.0,
};

pub fn options(number: usize, rate: f64) -> StepOptions {
    StepOptions {
        step: number,
        rate,
        max_grad_norm: 1.0,
        seed: 1,
        dropout: 0.0,
        neftune_alpha: 0.0,
    }
}

pub fn limits(blocks: usize, device: &Device) -> Limits {
    let keep = Keep { blocks, offloaded: 0 };
    Limits::new(keep, Keep::default(), device)
}

fn adapted(device: &Device) -> CausalLm {
    let mut model = CausalLm::load(
        &checkpoint("llama-gqa-tied"),
        None,
        device,
        Precision::F32,
        &mut |_, _| (),
    )
    .unwrap();
    model.attach(&adapter("llama-gqa-tied", "adapter")).unwrap();
    model
}

pub fn batch(samples: &[(Vec<u32>, Vec<bool>)]) -> Batch {
    let mut batch = Batch {
        tokens: vec![],
        positions: vec![],
        learn: vec![],
        starts: vec![0],
        origins: vec![],
    };
    for (tokens, learn) in samples {
        batch.tokens.extend(tokens);
        batch.positions.extend(0..tokens.len() as u32);
        batch.learn.extend(learn);
        batch.starts.push(batch.tokens.len());
        batch.origins.push(tune_data::Origin {
            file: "a.jsonl".into(),
            line: batch.origins.len() + 1,
        });
    }
    batch
}

fn values(t: &Tensor<2>) -> Vec<f32> {
    t.clone().into_data().iter::<f32>().collect()
}

fn adapter_values(model: &CausalLm) -> Vec<f32> {
    model
        .adapters()
        .iter()
        .flat_map(|m| m.factors.as_ref().into_iter().flat_map(values))
        .collect()
}

#[test]
fn twenty_adamw_steps_equal_peft_and_torch() {
    twenty_steps(&Golden::open("llama-gqa-tied"), &adapter("llama-gqa-tied", "adapter"));
}

/// From `adapter`, on each device, against the losses, norms and last weights in `golden`.
pub fn twenty_steps(golden: &Golden, adapter: &Adapter) {
    for device in devices() {
        let mut model = adapted(&device);
        model.attach(adapter).unwrap();
        let mut adamw = AdamW::new(TORCH, &model.adapters());
        let (losses, norms) = (golden.f64("adamw.losses"), golden.f64("adamw.grad_norms"));
        for i in 0..20 {
            let sample = |row: usize| {
                let name = |what| format!("adamw.{what}.{}.{row}", i % 4);
                (golden.u32(&name("ids")), golden.bools(&name("learn")))
            };
            let window = [batch(&[sample(0), sample(1)])];
            let result = step(
                &mut model,
                &mut adamw,
                &window,
                &options(i + 1, 1e-2),
                &mut limits(99, &device),
            )
            .unwrap();
            assert!(
                (result.loss - losses[i]).abs() / losses[i] < 1e-5,
                "{device:?}, step {i}: {} wanted {}",
                result.loss,
                losses[i]
            );
            assert!(
                (result.grad_norm - norms[i]).abs() / norms[i] < 1e-4,
                "{device:?}, step {i}: {} {}",
                result.grad_norm,
                norms[i]
            );
        }
        for m in model.adapters() {
            for (name, tensor) in NAMES.zip(m.factors.as_ref()) {
                let wanted = golden.f32(&format!("adamw.final.{}.{name}", m.path));
                let d = crate::golden::max_difference(&values(tensor), &wanted);
                assert!(d < 1e-4, "{device:?}: {} {name} differs by {d}", m.path);
            }
        }
    }
}

#[test]
fn every_way_to_accumulate_eight_samples_is_the_same_step() {
    let samples: Vec<(Vec<u32>, Vec<bool>)> = (0..8)
        .map(|s| {
            let n = 5 + 3 * s;
            let tokens = (0..n).map(|i| ((i * 31 + s * 17) % 150) as u32).collect();
            (tokens, (0..n).map(|i| i > n / (s % 3 + 2)).collect())
        })
        .collect();
    let run = |batch_size: usize| {
        let mut model = adapted(&Device::flex());
        let mut adamw = AdamW::new(TORCH, &model.adapters());
        let window: Vec<_> = samples.chunks(batch_size).map(batch).collect();
        let result = step(
            &mut model,
            &mut adamw,
            &window,
            &options(1, 1e-3),
            &mut limits(99, &Device::flex()),
        )
        .unwrap();
        (result, adapter_values(&model))
    };
    let (one, weights) = run(8);
    for size in [1, 2, 4] {
        let (other, others) = run(size);
        assert_eq!((one.tokens, one.learned), (other.tokens, other.learned));
        assert!(
            (one.loss - other.loss).abs() / one.loss < 1e-6,
            "{size}: {} {}",
            one.loss,
            other.loss
        );
        assert!((one.grad_norm - other.grad_norm).abs() / one.grad_norm < 1e-6, "{size}");
        let d = crate::golden::relative(&others, &weights);
        assert!(d < 1e-6, "{size} a batch: weights differ by {d}");
    }
}

/// Steps on eight documents where the device holds `tokens` at once, and only with everything recomputed if `recomputed`.
fn steps_within(tokens: usize, recomputed: bool) -> (Vec<f32>, Vec<String>) {
    let samples: Vec<(Vec<u32>, Vec<bool>)> = (0..8)
        .map(|s| {
            let n = 8 + s;
            (
                (0..n).map(|i| ((i * 31 + s * 17) % 150) as u32).collect(),
                (0..n).map(|i| i > 3).collect(),
            )
        })
        .collect();
    let mut model = adapted(&Device::flex());
    let mut adamw = AdamW::new(TORCH, &model.adapters());
    let (mut limits, mut notes) = (limits(99, &Device::flex()), Vec::new());
    for _ in 0..5 {
        let (_, gradients) = out_of_memory::in_pieces(&batch(&samples), &mut limits, &mut |piece, _, keep| {
            if piece.tokens.len() > tokens || (recomputed && keep.blocks > 0) {
                panic!("called `Result::unwrap()` on an `Err` value: Torch(\"CUDA out of memory. Tried to allocate\")");
            }
            Ok(model.loss_and_gradients(&tune_trainer::tensors::input(piece), keep, Default::default())?)
        })
        .unwrap();
        let updated = adamw.update(model.adapters(), gradients, 0.01, 1e-2);
        model.set_adapters(updated);
        notes.extend(limits.take_notes());
    }
    (adapter_values(&model), notes)
}

#[test]
fn out_of_memory_costs_time_and_changes_nothing() {
    let (wanted, notes) = steps_within(usize::MAX, false);
    assert!(notes.is_empty());
    for (tokens, recomputed, told) in [(60, false, 1), (30, false, 2), (15, true, 3)] {
        let (found, notes) = steps_within(tokens, recomputed);
        let d = crate::golden::relative(&found, &wanted);
        assert!(d < 1e-5, "{tokens} tokens at once: adapters differ by {d}");
        assert_eq!(notes.len(), told, "{notes:#?}");
    }
}

#[test]
fn what_no_half_can_help_is_an_error() {
    let one = (vec![1, 2, 3], vec![false, true, true]);
    let ended = out_of_memory::in_pieces(&batch(&[one]), &mut limits(0, &Device::flex()), &mut |_, _, _| {
        panic!("CUDA out of memory")
    });
    let error = ended.map(|_| ()).unwrap_err();
    assert!(
        matches!(error, tune_trainer::TrainError::OutOfMemory { tokens: 3, .. }),
        "{error}"
    );
    assert!(error.hint().is_some());
}

/// A tiny data set, and settings for a run of seconds on it.
pub fn settings(dir: &Path) -> Settings {
    let rows: Vec<String> = (0..24)
        .map(|i| {
            let (question, answer) = (format!("colour {i}?"), ["red sky", "blue sea", "green tree"][i % 3]);
            serde_json::json!({ "prompt": question, "response": answer }).to_string()
        })
        .collect();
    std::fs::write(dir.join("train.jsonl"), rows.join("\n")).unwrap();
    let mut settings = Settings::default();
    settings.model.base = folder("llama-gqa-tied").to_string_lossy().into_owned();
    settings.data.train = vec![TrainFile::Path(dir.join("train.jsonl"))];
    settings.data.validation = tune_trainer::settings::Validation::Share(0.2);
    settings.data.max_length = 64;
    settings.data.cache = false;
    settings.lora.r = 4;
    settings.lora.alpha = 8.0;
    settings.lora.dropout = 0.1;
    settings.train.max_steps = 12;
    settings.train.grad_accumulation = 2;
    settings.train.learning_rate = 1e-2;
    settings.train.eval_every = 4;
    settings.train.save_every = 3;
    settings.train.samples = 1;
    settings.train.sample_tokens = 4;
    settings.train.neftune_alpha = 2.0;
    settings.output.dir = dir.join("run");
    settings
}

pub fn run(settings: &Settings, resume: Option<&Path>, stop: &AtomicU8) -> Result<Outcome, tune_trainer::TrainError> {
    let start = Start {
        settings,
        resume,
        force: false,
        cache: None,
        hub: Default::default(),
        device: Device::flex(),
        device_why: "test".into(),
        memory: None,
        planned_for: None,
        stop,
        started: std::time::Instant::now(),
    };
    train(&start, &mut Silent)
}

pub fn losses(dir: &Path) -> Vec<(u64, f64)> {
    let text = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    let rows = text
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    rows.filter_map(|row| Some((row["step"].as_u64()?, row["loss"].as_f64()?)))
        .collect()
}

#[test]
fn a_run_learns_and_leaves_everything_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.train.max_steps = 40;
    settings.lora.dropout = 0.0;
    settings.train.neftune_alpha = 0.0;
    let outcome = run(&settings, None, &AtomicU8::new(0)).unwrap();
    assert_eq!((outcome.ended, outcome.steps), (Ended::Finished, 40));
    let (_, best) = outcome.best_eval.unwrap();
    assert!(
        best < outcome.first_eval.unwrap() * 0.6,
        "{best} from {:?}",
        outcome.first_eval
    );
    let run = &settings.output.dir;
    for file in [
        "config.toml",
        "metrics.jsonl",
        "samples.jsonl",
        "loss.svg",
        "receipt.json",
        "state.json",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/tokenizer.json",
        "tensorboard",
        "checkpoints",
    ] {
        assert!(run.join(file).exists(), "{file} is missing");
    }
    let state: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(run.join("state.json")).unwrap()).unwrap();
    assert_eq!(state["state"], "finished");
    let keys = [
        "epoch",
        "lr",
        "grad_norm",
        "tokens",
        "learned_tokens",
        "tokens_per_second",
        "floor_share",
    ];
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let row: serde_json::Value = serde_json::from_str(text.lines().find(|l| l.contains("grad_norm")).unwrap()).unwrap();
    assert!(
        keys.iter().all(|key| row[key].is_number()) && row["peak_memory_bytes"].as_u64().unwrap() > 0,
        "{row}"
    );
}

#[test]
fn a_stopped_and_resumed_run_is_the_same_run_to_the_bit() {
    let whole = tempfile::tempdir().unwrap();
    let wanted = settings(whole.path());
    run(&wanted, None, &AtomicU8::new(0)).unwrap();

    let parts = tempfile::tempdir().unwrap();
    let settings = settings(parts.path());
    let dir = settings.output.dir.clone();
    // A stop already asked for ends the run after one step.
    assert_eq!(run(&settings, None, &AtomicU8::new(1)).unwrap().ended, Ended::Stopped);
    assert_eq!(
        run(&settings, Some(&dir), &AtomicU8::new(1)).unwrap().ended,
        Ended::Stopped
    );
    assert_eq!(
        run(&settings, Some(&dir), &AtomicU8::new(0)).unwrap().ended,
        Ended::Finished
    );

    assert_eq!(losses(&dir), losses(&wanted.output.dir));
    let bytes = |dir: &Path| std::fs::read(dir.join("adapter/adapter_model.safetensors")).unwrap();
    assert_eq!(bytes(&dir), bytes(&wanted.output.dir), "the adapters differ");
}

#[test]
fn changed_settings_and_data_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    let out = settings.output.dir.clone();
    run(&settings, None, &AtomicU8::new(1)).unwrap();
    settings.train.learning_rate = 5e-3;
    let error = run(&settings, Some(&out), &AtomicU8::new(0)).unwrap_err().to_string();
    assert!(error.contains("learning_rate") && error.contains("0.005"), "{error}");
    settings.train.learning_rate = 1e-2;
    let more = r#"{"prompt": "new", "response": "row"}"#;
    let text = std::fs::read_to_string(dir.path().join("train.jsonl")).unwrap();
    std::fs::write(dir.path().join("train.jsonl"), format!("{text}\n{more}")).unwrap();
    let error = run(&settings, Some(&out), &AtomicU8::new(0)).unwrap_err().to_string();
    assert!(error.contains("train.jsonl"), "{error}");
}

#[test]
fn a_run_folder_that_exists_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    run(&settings, None, &AtomicU8::new(1)).unwrap();
    let error = run(&settings, None, &AtomicU8::new(0)).unwrap_err();
    assert!(
        error.hint().unwrap().contains("--resume"),
        "{error}: {:?}",
        error.hint()
    );
}
