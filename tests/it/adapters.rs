//! Other adapters than plain LoRA, against peft (`scripts/make_goldens.py`, `variants`), and going on from one that is there.
use crate::golden::{Golden, adapter, checkpoint, devices, folder, max_difference, relative};
use crate::parity::{all_linear, golden_input, golden_sequences, kept, load, pack};
use crate::training::{NAMES, losses, run, settings, twenty_steps};
use burn::tensor::{Device, Tensor};
use std::path::Path;
use std::sync::atomic::AtomicU8;
use tune_model::lora::{Init, LoraSpec};
use tune_model::merge::{MergeOptions, merge};
use tune_model::peft::Adapter;
use tune_model::precision::{Quantize, Stored};
use tune_model::{CausalLm, Checkpoint, Input, Noise, Precision};
use tune_trainer::settings::{Schedule, Settings, Targets, TrainFile, Validation};
use tune_trainer::train::{Ended, Outcome};

const CASE: &str = "llama-gqa-tied";

fn dora(device: &Device) -> CausalLm {
    let mut model = load(CASE, device);
    model.attach(&adapter(CASE, "adapter-dora")).unwrap();
    model
}

fn values(tensor: &Tensor<2>) -> Vec<f32> {
    tensor.clone().into_data().iter::<f32>().collect()
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn done(settings: &Settings) -> Outcome {
    let outcome = run(settings, None, &AtomicU8::new(0)).unwrap();
    assert_eq!(outcome.ended, Ended::Finished);
    outcome
}

#[test]
fn dora_equals_peft_in_value_and_gradient() {
    let golden = Golden::named(CASE, "dora");
    for device in devices() {
        let model = dora(&device);
        let d = max_difference(
            &model.logits(&golden_input(&golden)).unwrap(),
            &golden.f32("adapter_logits"),
        );
        assert!(d < 1e-4, "{device:?}: logits differ by {d}");

        let input = pack(&golden_sequences(&golden, ""));
        for keep in [0, 1, 99] {
            let (losses, gradients) = model.loss_and_gradients(&input, kept(keep), Noise::default()).unwrap();
            let (loss, wanted) = (losses.read(), golden.f64("loss_sum")[0]);
            assert!(
                (loss.sum - wanted).abs() / wanted < 1e-5,
                "{device:?}: {} {wanted}",
                loss.sum
            );
            for (adapter, gradients) in model.adapters().iter().zip(gradients) {
                for (name, gradient) in NAMES.zip(gradients) {
                    let key = format!("grad.{}.{name}", adapter.path);
                    let d = relative(&values(&gradient), &golden.f32(&key));
                    assert!(d < 1e-5, "{device:?}, {keep} kept: {key} differs by {d}");
                }
            }
        }
    }
}

#[test]
fn twenty_adamw_steps_of_dora_equal_peft_and_torch() {
    twenty_steps(&Golden::named(CASE, "dora"), &adapter(CASE, "adapter-dora"));
}

#[test]
fn fresh_magnitudes_change_nothing_and_count() {
    let (base, golden) = (checkpoint(CASE), Golden::open(CASE));
    let spec = LoraSpec {
        dora: true,
        ..all_linear(4)
    };
    for (device, linears) in devices()
        .into_iter()
        .flat_map(|device| [Stored::Dense, Stored::Nf4, Stored::Int8].map(|stored| (device.clone(), stored)))
    {
        let precision = Precision {
            linears,
            ..Precision::F32
        };
        let load = |spec| CausalLm::load(&base, spec, &device, precision, &mut |_, _| ()).unwrap();
        let input = golden_input(&golden);
        let (plain, fresh) = (load(None).logits(&input).unwrap(), load(Some(&spec)));
        let d = max_difference(&fresh.logits(&input).unwrap(), &plain);
        assert!(d < 1e-4, "{device:?}, {linears:?}: logits differ by {d}");
        let count = |factors: tune_model::lora::Factors| -> usize {
            factors.into_iter().map(|f| f.dims().iter().product::<usize>()).sum()
        };
        let counted: usize = fresh.adapters().into_iter().map(|m| count(m.factors)).sum();
        let sizes = tune_model::causal_lm::sizes(&base, Some(&spec), precision).unwrap();
        assert_eq!(counted, sizes.lora_params());
        // A product with r columns in place of the dense sum.
        let outputs: usize = sizes.adapters.iter().map(|block| block.scaled).sum();
        assert_eq!(outputs, 2 * (64 + 32 + 32 + 64 + 128 + 128 + 64));
    }
}

#[test]
fn merged_dora_equals_adapted_on_plain_and_quantized_bases() {
    let (base, dora) = (checkpoint(CASE), adapter(CASE, "adapter-dora"));
    for onto in [Quantize::None, Quantize::Nf4, Quantize::Int8] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("merged");
        let options = MergeOptions {
            onto,
            ..Default::default()
        };
        merge(&base, &dora, &out, &options, &mut |_, _| ()).unwrap();
        let merged = Checkpoint::open(&out.to_string_lossy(), &Default::default()).unwrap();
        let load = |base: &Checkpoint, linears| {
            let precision = Precision {
                linears,
                ..Precision::F32
            };
            CausalLm::load(base, None, &Device::flex(), precision, &mut |_, _| ()).unwrap()
        };
        let mut adapted = load(&base, onto.stored());
        adapted.attach(&dora).unwrap();
        let input = Input::sequence(&(0..40).map(|i| i * 3 % 150).collect::<Vec<_>>());
        let d = max_difference(
            &load(&merged, Stored::Dense).logits(&input).unwrap(),
            &adapted.logits(&input).unwrap(),
        );
        assert!(d < 1e-4, "{onto:?}: {d}");
    }
}

#[test]
fn magnitudes_are_trained_saved_and_resumed_to_the_bit() {
    let with = |dir: &Path| {
        let mut settings = settings(dir);
        settings.lora.dora = true;
        settings.lora.dropout = 0.0;
        settings
    };
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (wanted, settings) = (with(whole.path()), with(parts.path()));
    done(&wanted);
    let dir = &settings.output.dir;
    run(&settings, None, &AtomicU8::new(1)).unwrap();
    run(&settings, Some(dir), &AtomicU8::new(0)).unwrap();
    assert_eq!(losses(dir), losses(&wanted.output.dir));
    let file = |dir: &Path| bytes(&dir.join("adapter/adapter_model.safetensors"));
    assert_eq!(file(dir), file(&wanted.output.dir), "the adapters differ");

    let trained = Adapter::read(&dir.join("adapter")).unwrap();
    assert!(trained.config.use_dora);
    let first = Adapter::read(&wanted.output.dir.join("checkpoints/step-000009/adapter")).unwrap();
    for (path, pair) in &trained.pairs {
        let (now, earlier) = (pair.m.as_ref().unwrap(), first.pairs[path].m.as_ref().unwrap());
        assert!(max_difference(now, earlier) > 0.0, "{path}: the magnitudes stood still");
    }
}

#[test]
fn dora_is_refused_where_it_cannot_be_served_or_dropped_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.lora.dora = true;
    settings.output.serve_target = vec!["peft".into(), "vllm".into(), "llama.cpp".into()];
    let error = run(&settings, None, &AtomicU8::new(0)).unwrap_err().to_string();
    for part in ["lora.dora", "for vllm", "for llama.cpp", "--merged", "lora.dropout"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!error.contains("peft"), "{error}");
}

/// Two short rows that make one micro-batch and one step, an optimizer that remembers nothing, and a rate that stays: `2 k` steps
/// are then `k` steps and `k` more.
fn without_memory(dir: &Path, steps: usize) -> Settings {
    let mut settings = settings(dir);
    let row = |i| format!(r#"{{"prompt": "colour {i}?", "response": "red"}}"#);
    std::fs::write(dir.join("train.jsonl"), [row(1), row(2)].join("\n")).unwrap();
    settings.data.train = vec![TrainFile::Path(dir.join("train.jsonl"))];
    settings.data.validation = Validation::Share(0.0);
    settings.data.max_length = 128;
    settings.lora.dropout = 0.0;
    let train = &mut settings.train;
    (train.max_steps, train.grad_accumulation, train.learning_rate) = (steps, 1, 1e-3);
    (train.schedule, train.warmup_ratio, train.betas) = (Schedule::Constant, 0.0, [0.0, 0.0]);
    (train.neftune_alpha, train.samples) = (0.0, 0);
    settings
}

#[test]
fn half_the_steps_and_half_again_from_the_adapter_are_all_the_steps() {
    for dora in [false, true] {
        let dir = || tempfile::tempdir().unwrap();
        let (whole, first, second) = (dir(), dir(), dir());
        let with = |dir: &Path, steps| {
            let mut settings = without_memory(dir, steps);
            settings.lora.dora = dora;
            settings
        };
        let whole = with(whole.path(), 8);
        done(&whole);
        let first = with(first.path(), 4);
        done(&first);
        let mut second = with(second.path(), 4);
        // What it brings need not be said again.
        second.lora = tune_trainer::settings::Lora {
            adapter: first.output.dir.join("adapter"),
            ..Default::default()
        };
        done(&second);
        let of = |settings: &Settings| {
            losses(&settings.output.dir)
                .into_iter()
                .map(|(_, loss)| loss)
                .collect::<Vec<_>>()
        };
        let (halves, whole_way) = ([of(&first), of(&second)].concat(), of(&whole));
        assert_eq!(halves[..5], whole_way[..5], "dora: {dora}");
        // `mean + 1.0 * (gradient - mean)` is the gradient but for rounding.
        for (found, wanted) in halves.iter().zip(&whole_way) {
            assert!(
                (found - wanted).abs() < 1e-6 * wanted,
                "dora: {dora}: {halves:?} for {whole_way:?}"
            );
        }
        let update = |settings: &Settings| -> Vec<f32> {
            let adapter = Adapter::read(&settings.output.dir.join("adapter")).unwrap();
            adapter
                .pairs
                .into_values()
                .flat_map(|pair| [pair.a, pair.b].concat())
                .collect()
        };
        let d = relative(&update(&second), &update(&whole));
        assert!(d < 1e-5, "dora: {dora}: the adapters differ by {d}");
    }
}

/// Of the base with an adapter, on what a run of these settings holds back.
fn validation_loss(settings: &Settings, adapter: &Path) -> f64 {
    let text = checkpoint(CASE).text;
    let template = text.chat_template.as_deref();
    let codec = tune_data::Codec::new(&text.tokenizer_json, text.tokenizer_config.as_ref(), template).unwrap();
    let corpus = tune_data::corpus::load(&settings.data_spec(), &codec, None, &|_| ()).unwrap();
    let rows: Vec<_> = corpus.validation.into_iter().map(|s| (s.tokens, s.learn)).collect();
    let mut model = load(CASE, &Device::flex());
    model.attach(&Adapter::read(adapter).unwrap()).unwrap();
    let loss = model.loss(&pack(&rows)).unwrap();
    loss.sum / loss.learned as f64
}

#[test]
fn an_adapter_peft_wrote_is_gone_on_from_with_its_patterns() {
    let dir = tempfile::tempdir().unwrap();
    let from = folder(CASE).join("adapter-pattern");
    let mut settings = settings(dir.path());
    settings.lora = tune_trainer::settings::Lora {
        adapter: from.clone(),
        ..Default::default()
    };
    settings.train.max_steps = 1;
    let outcome = done(&settings);

    // Before the first step it is the adapter as it was.
    let (wanted, found) = (validation_loss(&settings, &from), outcome.first_eval.unwrap());
    assert!((found - wanted).abs() < 1e-5, "{found} for {wanted}");

    let (before, after) = (
        Adapter::read(&from).unwrap(),
        Adapter::read(&settings.output.dir.join("adapter")).unwrap(),
    );
    assert_eq!(after.config.rank_pattern, before.config.rank_pattern);
    assert_eq!(after.config.alpha_pattern, before.config.alpha_pattern);
    assert!(after.config.use_rslora);
    assert!(after.pairs.keys().eq(before.pairs.keys()));
}

#[test]
fn what_contradicts_the_adapter_gone_on_from_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.lora.adapter = folder(CASE).join("adapter");
    settings.lora.r = 3;
    settings.lora.dropout = 0.0;
    settings.lora.targets = Targets::Names(vec!["q_proj".into()]);
    settings.lora.dora = true;
    let error = run(&settings, None, &AtomicU8::new(0)).unwrap_err().to_string();
    for part in ["lora.r: found 3, wanted 4", "lora.targets", "lora.dora: found true"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!error.contains("lora.alpha"), "{error}");

    // Of another module the adapter knows nothing.
    let partial = dir.path().join("partial");
    let mut some = adapter(CASE, "adapter");
    some.pairs.pop_first();
    some.write(&partial).unwrap();
    let mut settings = crate::training::settings(dir.path());
    settings.lora = tune_trainer::settings::Lora {
        adapter: partial,
        ..Default::default()
    };
    let error = run(&settings, None, &AtomicU8::new(0)).unwrap_err().to_string();
    assert!(error.contains("`model.layers.0.mlp.down_proj` is a target"), "{error}");

    settings.lora.adapter = dir.path().join("nowhere");
    let error = run(&settings, None, &AtomicU8::new(0)).unwrap_err().to_string();
    assert!(error.contains("adapter_config.json"), "{error}");
}

fn pissa() -> LoraSpec {
    LoraSpec {
        init: Init::Pissa,
        ..all_linear(4)
    }
}

/// `B·(A·v)` of `[out, r]` and `[r, in]`, with the `v` of the goldens.
fn product(b: &Tensor<2>, a: &Tensor<2>, scale: f32) -> Vec<f32> {
    let ([r, inputs], a, b) = (a.dims(), values(a), values(b));
    let v = |i: usize, j: usize| ((37 * i + 11 * j) % 101) as f32 / 50.0 - 1.0;
    let inner = |k: usize, j: usize| (0..inputs).map(|i| f64::from(a[k * inputs + i] * v(i, j))).sum::<f64>();
    let inner: Vec<_> = (0..r).map(|k| [inner(k, 0), inner(k, 1)]).collect();
    let row = |row: &[f32], j: usize| row.iter().zip(&inner).map(|(b, u)| f64::from(*b) * u[j]).sum::<f64>();
    b.chunks(r)
        .flat_map(|b| [row(b, 0), row(b, 1)])
        .map(|x| x as f32 * scale)
        .collect()
}

#[test]
fn pissa_equals_peft_in_value_and_gradient() {
    let golden = Golden::named(CASE, "pissa");
    for device in devices() {
        let model = CausalLm::load(
            &checkpoint(CASE),
            Some(&pissa()),
            &device,
            Precision::F32,
            &mut |_, _| (),
        )
        .unwrap();
        let input = golden_input(&golden);
        let logits = model.logits(&input).unwrap();
        let d = max_difference(&logits, &golden.f32("logits"));
        assert!(d < 1e-4, "{device:?}: logits differ by {d}");
        let d = max_difference(&logits, &load(CASE, &device).logits(&input).unwrap());
        assert!(d < 1e-4, "{device:?}: taken apart and together it differs by {d}");

        let input = pack(&[(golden.u32("ids"), golden.bools("learn"))]);
        let (loss, gradients) = model.loss_and_gradients(&input, kept(99), Noise::default()).unwrap();
        let (loss, wanted) = (loss.read().sum, golden.f64("loss_sum")[0]);
        assert!((loss - wanted).abs() / wanted < 1e-5, "{device:?}: {loss} {wanted}");
        for (m, gradients) in model.adapters().iter().zip(gradients) {
            let (a, b) = (&m.factors.a, &m.factors.b);
            for (name, found) in [
                ("part", product(b, a, m.scale as f32)),
                ("grad_a", product(b, &gradients.a, 1.0)),
                ("grad_b", product(&gradients.b, a, 1.0)),
            ] {
                let d = relative(&found, &golden.f32(&format!("{name}.{}", m.path)));
                assert!(d < 2e-5, "{device:?}: {name} of {} differs by {d}", m.path);
            }
        }
    }
}

#[test]
fn a_run_from_the_principal_part_is_resumed_to_the_bit_and_leaves_a_plain_adapter() {
    let with = |dir: &Path| {
        let mut settings = settings(dir);
        settings.lora.init = Init::Pissa;
        settings.lora.alpha_pattern = vec![("v_proj".into(), 3.0)];
        settings.train.learning_rate = 1e-3;
        settings
    };
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (wanted, settings) = (with(whole.path()), with(parts.path()));
    let outcome = done(&wanted);
    let dir = &settings.output.dir;
    run(&settings, None, &AtomicU8::new(1)).unwrap();
    run(&settings, Some(dir), &AtomicU8::new(0)).unwrap();
    assert_eq!(losses(dir), losses(&wanted.output.dir));
    let file = |dir: &Path| bytes(&dir.join("adapter/adapter_model.safetensors"));
    assert_eq!(file(dir), file(&wanted.output.dir), "the adapters differ");

    let trained = Adapter::read(&dir.join("adapter")).unwrap();
    assert_eq!((trained.config.r, trained.config.lora_alpha), (8, 16.0));
    let (_, best) = outcome.best_eval.unwrap();
    let plain = validation_loss(&settings, &dir.join("adapter"));
    assert!(
        (plain - best).abs() < 1e-5 * best,
        "on the whole base {plain}, in training {best}"
    );
    assert!((outcome.first_eval.unwrap() - best).abs() > 0.1, "nothing was learned");
}

#[test]
fn the_principal_part_is_refused_of_what_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.lora.init = Init::Pissa;
    settings.lora.dora = true;
    settings.lora.dropout = 0.0;
    settings.model.quantize = Quantize::Nf4;
    let error = run(&settings, None, &AtomicU8::new(0)).unwrap_err().to_string();
    assert!(
        error.contains("model.quantize") && error.contains("lora.dora"),
        "{error}"
    );
    let spec = LoraSpec { r: 33, ..pissa() };
    let error = tune_model::causal_lm::sizes(&checkpoint(CASE), Some(&spec), Precision::F32).unwrap_err();
    assert!(error.to_string().contains("k_proj` is [32, 64]"), "{error}");
}
