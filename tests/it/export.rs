//! Exports are checked, and a broken one is caught.
use crate::golden::{adapter, checkpoint, folder, max_difference};
use burn::tensor::Device;
use serde_json::Value;
use std::path::Path;
use std::sync::atomic::AtomicU8;
use tune_model::checkpoint::StoredType;
use tune_model::merge::{MergeOptions, merge};
use tune_model::peft::Adapter;
use tune_model::precision::Quantize;
use tune_model::{CausalLm, Checkpoint, Input, Precision};
use tune_trainer::TrainError;
use tune_trainer::export::{ExportRequest, export};
use tune_trainer::outputs::Outputs;
use tune_trainer::serving::Profile;
use tune_trainer::verify::{Measured, Probe};
use tune_trainer::watch::Silent;

fn request<'a>(from: &'a Path, base: &'a str, outputs: &'a Outputs) -> ExportRequest<'a> {
    ExportRequest {
        from,
        base: Some(base),
        outputs,
        verify: true,
        onto_original: false,
        serve_target: &[],
        prompts: None,
        logits: None,
        hub: Default::default(),
        device: Device::flex(),
    }
}

fn outputs(adapter: Option<&Path>, merged: Option<&Path>) -> Outputs {
    Outputs {
        adapter: adapter.map(Path::to_path_buf),
        merged: merged.map(Path::to_path_buf),
        max_shard: 5 << 30,
        ..Default::default()
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
    let report = export(&request(&from, &base, &outputs(Some(&a), Some(&m))), &mut Silent).unwrap();
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

/// An adapter with ranks, alphas and scales of its own for some modules, in every form there is; each is read back by what
/// its readers make of it.
#[test]
fn every_form_is_the_model_that_was_trained() {
    for (rslora, gguf_type, bound) in [
        (false, StoredType::F32, 1e-4),
        (true, StoredType::F16, 0.02),
        (true, StoredType::BF16, 0.2),
        (false, StoredType::Ggml("Q8_0"), 0.5),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let golden = folder("llama-gqa-tied").join("adapter-pattern");
        let (from, at) = (dir.path().join("from"), |name: &str| Some(dir.path().join(name)));
        std::fs::create_dir(&from).unwrap();
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::copy(golden.join(name), from.join(name)).unwrap();
        }
        let config = from.join("adapter_config.json");
        let mut fields: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
        fields["use_rslora"] = rslora.into();
        std::fs::write(&config, fields.to_string()).unwrap();
        let base = folder("llama-gqa-tied").to_string_lossy().into_owned();
        let all = Outputs {
            profile: Some(Profile::Portable),
            adapter: at("adapter"),
            merged: at("merged"),
            gguf: at("new/model.gguf"),
            gguf_type: Some(gguf_type),
            gguf_lora: at("lora.gguf"),
            mlx: at("mlx"),
            modelfile: true,
            ..outputs(None, None)
        };
        // A random model rounds worse than the bound for trained ones: judged here by figures of its own.
        let checks = match export(&request(&from, &base, &all), &mut Silent) {
            Ok(report) => report.checks,
            Err(TrainError::Verify { checks }) if gguf_type != StoredType::F32 => checks,
            Err(error) => panic!("{error}"),
        };
        let forms: Vec<_> = checks.iter().map(|check| check.what.as_str()).collect();
        assert_eq!(forms, ["portable", "gguf-lora", "mlx", "merged", "gguf"]);
        for check in &checks {
            let bound = if check.what == "gguf" { bound } else { 1e-4 };
            assert!(check.max_logit_difference < bound, "{check}");
        }
        let portable = Adapter::read(&dir.path().join("adapter")).unwrap();
        assert!(!portable.config.use_rslora && portable.config.rank_pattern.is_empty());
        assert!(portable.pairs.values().all(|pair| pair.scale == 1.0));
        let modelfile = std::fs::read_to_string(dir.path().join("new/Modelfile")).unwrap();
        assert!(
            modelfile.starts_with("FROM ./model.gguf\n") && modelfile.contains("PARAMETER stop \"<|im_end|>\""),
            "{modelfile}"
        );
        let card = std::fs::read_to_string(dir.path().join("merged/README.md")).unwrap();
        assert!(card.contains("fine-tuned") && card.contains("licence"), "{card}");
    }
}

#[test]
fn a_base_alone_goes_to_gguf_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let (from, base) = (folder("llama-gqa-tied"), checkpoint("llama-gqa-tied"));
    let path = dir.path().join("base.gguf");
    let to = Outputs {
        gguf: Some(path.clone()),
        ..outputs(None, None)
    };
    let mut request = request(&from, "", &to);
    request.base = None;
    let report = export(&request, &mut Silent).unwrap();
    assert!(report.checks[0].max_logit_difference < 1e-5, "{}", report.checks[0]);
    let back = Checkpoint::open(&path.to_string_lossy(), &Default::default()).unwrap();
    assert_eq!(back.tensors(), base.tensors());
    for key in [
        "hidden_size",
        "head_dim",
        "rms_norm_eps",
        "rope_theta",
        "vocab_size",
        "eos_token_id",
    ] {
        assert_eq!(back.config[key], base.config[key], "{key}");
    }
    let tokenizer = |base: &Checkpoint| -> Value { serde_json::from_slice(&base.text.tokenizer_json).unwrap() };
    let (found, wanted) = (tokenizer(&back), tokenizer(&base));
    for (token, id) in wanted["model"]["vocab"].as_object().unwrap() {
        assert_eq!(found["model"]["vocab"][token], *id, "{token}");
    }
    assert_eq!(found["added_tokens"], wanted["added_tokens"]);
    assert_eq!(found["pre_tokenizer"], wanted["pre_tokenizer"]);

    let over = Outputs {
        force: true,
        ..to.clone()
    };
    request.outputs = &over;
    request.from = &path;
    let error = export(&request, &mut Silent).unwrap_err();
    assert!(error.to_string().contains("is the base itself"), "{error}");
}

#[test]
fn what_cannot_be_written_is_refused_before_anything_is() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| Some(dir.path().join(name));
    let refused = |case: &str, adapter: &str, to: Outputs| {
        let from = folder(case).join(adapter);
        let base = folder(case).to_string_lossy().into_owned();
        let error = export(&request(&from, &base, &to), &mut Silent).unwrap_err();
        format!("{error}\n{}", error.hint().unwrap_or_default())
    };
    let case = "llama-gqa-tied";
    let none = outputs(None, None);
    let told = refused(
        "gpt-neo",
        "adapter",
        Outputs {
            gguf: at("x.gguf"),
            ..none.clone()
        },
    );
    assert!(
        told.contains("`gpt_neo`") && told.contains("convert_hf_to_gguf.py"),
        "{told}"
    );
    let told = refused(
        case,
        "",
        Outputs {
            mlx: at("x"),
            ..none.clone()
        },
    );
    assert!(told.contains("without an adapter"), "{told}");
    let twice = Outputs {
        merged: at("x"),
        mlx: at("x"),
        ..none.clone()
    };
    assert!(refused(case, "adapter", twice).contains("two things"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);

    std::fs::write(dir.path().join("x.gguf"), "mine").unwrap();
    let file = Outputs {
        merged: at("m"),
        gguf_lora: at("x.gguf"),
        ..none
    };
    assert!(refused(case, "adapter", file.clone()).contains("--force"));
    assert_eq!(std::fs::read(dir.path().join("x.gguf")).unwrap(), b"mine");
    assert!(!dir.path().join("m").exists(), "refused before anything is written");
    let forced = Outputs { force: true, ..file };
    let base = folder(case).to_string_lossy().into_owned();
    export(&request(&folder(case).join("adapter"), &base, &forced), &mut Silent).unwrap();
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
        let outputs = outputs(None, Some(&merged));
        let mut request = request(&from, &base, &outputs);
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
    let nothing = outputs(None, None);
    let verify = || export(&request(&run, &settings.model.base, &nothing), &mut Silent);
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
