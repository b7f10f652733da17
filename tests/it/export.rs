//! Exports are checked, and a broken one is caught.
use crate::golden::{adapter, checkpoint, folder, max_difference};
use burn::tensor::Device;
use std::path::Path;
use std::sync::atomic::AtomicU8;
use tune_model::merge::{MergeOptions, merge};
use tune_model::peft::Adapter;
use tune_model::precision::Quantize;
use tune_model::{CausalLm, Checkpoint, Input, Precision};
use tune_trainer::export::{ExportRequest, export};
use tune_trainer::verify::{Measured, Probe};
use tune_trainer::watch::Silent;

fn request<'a>(
    from: &'a Path,
    base: &'a str,
    adapter: Option<&'a Path>,
    merged: Option<&'a Path>,
) -> ExportRequest<'a> {
    ExportRequest {
        from,
        base: Some(base),
        adapter,
        merged,
        verify: true,
        dtype: None,
        onto_original: false,
        max_shard: 5 << 30,
        serve_target: &[],
        prompts: None,
        logits: None,
        force: false,
        hub: Default::default(),
        device: Device::flex(),
    }
}

fn logits(model: &CausalLm) -> Vec<f32> {
    model
        .logits(&Input::sequence(&(0..40).map(|i| i * 3 % 150).collect::<Vec<_>>()))
        .unwrap()
}

#[test]
fn merged_equals_adapted() {
    for case in crate::parity::ADAPTED {
        let dir = tempfile::tempdir().unwrap();
        let (base, adapter) = (checkpoint(case), adapter(case, "adapter"));
        let out = dir.path().join("merged");
        merge(
            &base,
            &adapter,
            &out,
            &MergeOptions {
                max_shard: 40_000,
                ..Default::default()
            },
            &mut |_, _| (),
        )
        .unwrap();
        assert!(
            out.join("model.safetensors.index.json").exists(),
            "{case} was to be sharded"
        );
        let reloaded = Checkpoint::open(&out.to_string_lossy(), &Default::default()).unwrap();
        let merged = CausalLm::load(&reloaded, None, &Device::flex(), Precision::F32, &mut |_, _| ()).unwrap();
        let mut adapted = CausalLm::load(&base, None, &Device::flex(), Precision::F32, &mut |_, _| ()).unwrap();
        let plain = logits(&adapted);
        adapted.attach(&adapter).unwrap();
        let d = max_difference(&logits(&merged), &logits(&adapted));
        assert!(d < 1e-4, "{case}: {d}");
        assert!(
            max_difference(&logits(&merged), &plain) > 0.1,
            "{case}: the adapter does nothing"
        );
    }
}

/// GPT-2 stores its matrices `[in, out]`, and multiplies by what was quantized as `[out, in]`.
#[test]
fn a_merge_onto_a_quantized_gpt2_is_what_it_was_trained_on_under_its_own_names() {
    let (base, adapter) = (checkpoint("gpt2"), adapter("gpt2", "adapter"));
    for quantize in [Quantize::Nf4, Quantize::Int8] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("merged");
        let options = MergeOptions {
            onto: quantize,
            ..Default::default()
        };
        merge(&base, &adapter, &out, &options, &mut |_, _| ()).unwrap();
        let reloaded = Checkpoint::open(&out.to_string_lossy(), &Default::default()).unwrap();
        assert!(base.tensors().keys().eq(reloaded.tensors().keys()));
        let merged = CausalLm::load(&reloaded, None, &Device::flex(), Precision::F32, &mut |_, _| ()).unwrap();
        let held = Precision {
            linears: quantize.stored(),
            ..Precision::F32
        };
        let mut adapted = CausalLm::load(&base, None, &Device::flex(), held, &mut |_, _| ()).unwrap();
        adapted.attach(&adapter).unwrap();
        let d = max_difference(&logits(&merged), &logits(&adapted));
        assert!(d < 1e-4, "{quantize:?}: {d}");
    }
}

#[test]
fn an_adapter_peft_wrote_is_exported_and_verified() {
    let dir = tempfile::tempdir().unwrap();
    let from = folder("llama-gqa-tied").join("adapter-pattern");
    let base = folder("llama-gqa-tied").to_string_lossy().into_owned();
    let (a, m) = (dir.path().join("adapter"), dir.path().join("merged"));
    let report = export(&request(&from, &base, Some(&a), Some(&m)), &mut Silent).unwrap();
    assert_eq!(report.checks.len(), 2);
    assert!(
        report
            .checks
            .iter()
            .all(|c| c.passed && c.top1_agreement == 1.0 && c.prompts > 0),
        "{:?}",
        report.checks
    );
}

#[test]
fn an_adapter_of_a_quantized_base_is_merged_onto_what_it_was_trained_on_unless_asked() {
    for quantize in [Quantize::Nf4, Quantize::Int8] {
        let dir = tempfile::tempdir().unwrap();
        let (from, merged) = (dir.path().join("from"), dir.path().join("merged"));
        let mut trained = adapter("llama-gqa-tied", "adapter");
        trained.config.quantize = quantize;
        trained.write(&from).unwrap();
        assert_eq!(Adapter::read(&from).unwrap().config.quantize, quantize);
        let base = folder("llama-gqa-tied").to_string_lossy().into_owned();
        let mut request = request(&from, &base, None, Some(&merged));
        let report = export(&request, &mut Silent).unwrap();
        let [check] = report.checks.as_slice() else { panic!() };
        assert!(check.passed && check.max_logit_difference < 1e-4, "{check}");

        request.onto_original = true;
        let report = export(&request, &mut Silent).unwrap();
        let [check, cost] = report.checks.as_slice() else {
            panic!()
        };
        assert!(check.passed && check.max_logit_difference < 1e-4, "{check}");
        assert!(cost.max_logit_difference > 10.0 * check.max_logit_difference, "{cost}");
    }
}

/// Rewrites an adapter folder.
fn tamper(dir: &Path, change: impl Fn(&mut Adapter)) {
    let mut adapter = Adapter::read(dir).unwrap();
    change(&mut adapter);
    adapter.write(dir).unwrap();
}

fn wrong_scale(adapter: &mut Adapter) {
    let pair = adapter.pairs.values_mut().next().unwrap();
    pair.b.iter_mut().for_each(|b| *b *= 1.5);
}

/// B as if it had been read column by column.
fn transposed(adapter: &mut Adapter) {
    let pair = adapter.pairs.values_mut().next().unwrap();
    let b = pair.b.clone();
    pair.b = (0..b.len())
        .map(|i| b[i % pair.outputs * pair.r + i / pair.outputs])
        .collect();
}

fn missing_module(adapter: &mut Adapter) {
    let first = adapter.pairs.keys().next().unwrap().clone();
    adapter.pairs.remove(&first);
}

#[test]
fn broken_adapters_are_caught() {
    let dir = tempfile::tempdir().unwrap();
    let settings = crate::training::settings(dir.path());
    crate::training::run(&settings, None, &AtomicU8::new(0)).unwrap();
    let run = settings.output.dir;
    let whole = Adapter::read(&run.join("adapter")).unwrap();
    let verify = || export(&request(&run, &settings.model.base, None, None), &mut Silent);
    verify().unwrap();
    for (what, change) in [
        ("a wrong scale", wrong_scale as fn(&mut Adapter)),
        ("a transposition", transposed),
        ("a missing module", missing_module),
    ] {
        whole.write(&run.join("adapter")).unwrap();
        tamper(&run.join("adapter"), change);
        let error = verify().expect_err(what);
        assert!(
            matches!(error, tune_trainer::TrainError::Verify { .. }),
            "{what}: {error}"
        );
    }
}

#[test]
fn broken_merges_are_caught() {
    let (base, whole) = (checkpoint("llama-gqa-tied"), adapter("llama-gqa-tied", "adapter"));
    let sample = |seed: u32| {
        let tokens: Vec<u32> = (0..30).map(|i| (i * 7 + seed * 13) % 150).collect();
        let learn = (0..30).map(|i| i > 12).collect();
        tune_data::Sample::new(
            tokens,
            learn,
            tune_data::Origin {
                file: "probe".into(),
                line: 1,
            },
        )
    };
    let probes: Vec<_> = (0..3).filter_map(|s| Probe::of(&sample(s))).collect();
    let measure = |model: &CausalLm| Measured::of(model, &probes, &[]).unwrap();
    let mut adapted = CausalLm::load(&base, None, &Device::flex(), Precision::F32, &mut |_, _| ()).unwrap();
    adapted.attach(&whole).unwrap();
    let wanted = measure(&adapted);
    let dir = tempfile::tempdir().unwrap();
    let merged = |name: &str, change: fn(&mut Adapter)| {
        let (mut changed, out) = (whole.clone(), dir.path().join(name));
        change(&mut changed);
        merge(&base, &changed, &out, &MergeOptions::default(), &mut |_, _| ()).unwrap();
        let merged = Checkpoint::open(&out.to_string_lossy(), &Default::default()).unwrap();
        let model = CausalLm::load(&merged, None, &Device::flex(), Precision::F32, &mut |_, _| ()).unwrap();
        wanted.check("merged", &measure(&model), 1e-2).passed
    };
    assert!(merged("whole", |_| ()));
    assert!(!merged("scale", wrong_scale), "a wrong scale passed");
    assert!(!merged("transposed", transposed), "a transposition passed");
    assert!(!merged("missing", missing_module), "a missing module passed");
}
