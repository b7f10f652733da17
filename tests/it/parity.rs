//! Numbers against transformers, peft and torch.optim on tiny random models (`scripts/make_goldens.py`), and against ourselves:
//! packed = alone, kept = recomputed, cache = no cache, merged = adapted.
#![allow(clippy::print_stdout)] // The figures are there to be read.
use crate::golden::{Golden, adapter, checkpoint, devices, max_difference, relative};
use burn::tensor::Device;
use safetensors::SafeTensors;
use tune_model::generate::{GenerateOptions, generate};
use tune_model::lora::{LoraSpec, Targets};
use tune_model::precision::Stored;
use tune_model::{CausalLm, Checkpoint, Input, Keep, Noise, Precision};

const CASES: &[&str] = &[
    "llama-gqa-tied",
    "llama3-rope-untied",
    "llama-linear-rope",
    "mistral-window",
    "gpt-neo",
    "qwen2-window-yarn",
    "qwen2-tied",
    "qwen3",
    "smollm3",
    "smollm3-list",
    "olmo2",
    "phi3-longrope",
    "phi3-window",
    "gpt2",
    "gpt2-scaled",
    "gemma2",
    "gemma3-text",
    "gpt-neox",
    "gpt-neox-serial",
];
pub const ADAPTED: &[&str] = &[
    "llama-gqa-tied",
    "llama3-rope-untied",
    "gpt-neo",
    "qwen2-window-yarn",
    "qwen3",
    "smollm3",
    "olmo2",
    "phi3-longrope",
    "gpt2",
    "gemma2",
    "gemma3-text",
    "gpt-neox",
];

pub fn kept(blocks: usize) -> Keep {
    Keep { blocks, offloaded: 0 }
}

pub fn load(case: &str, device: &Device) -> CausalLm {
    load_in(case, device, Precision::F32)
}

fn load_in(case: &str, device: &Device, precision: Precision) -> CausalLm {
    CausalLm::load(&checkpoint(case), None, device, precision, &mut |_, _| ()).unwrap_or_else(|e| panic!("{case}: {e}"))
}

/// Matrices packed in bf16, which any processor can multiply by, though only some do so fast.
const BF16: Precision = Precision {
    linears: Stored::PackedBf16,
    head: Stored::PackedBf16,
    ..Precision::F32
};

/// Each case on each device, and on flex in bf16 too.
fn every_way<'a>(cases: &'a [&str]) -> impl Iterator<Item = (&'a str, Device, Precision)> {
    let exact = everywhere(cases).map(|(case, device)| (case, device, Precision::F32));
    exact.chain(cases.iter().map(|case| (*case, Device::flex(), BF16)))
}

fn load_adapted(case: &str, device: &Device) -> CausalLm {
    let mut model = load(case, device);
    model.attach(&adapter(case, "adapter")).unwrap();
    model
}

/// Each case on each device.
fn everywhere<'a>(cases: &'a [&str]) -> impl Iterator<Item = (&'a str, Device)> {
    devices()
        .into_iter()
        .flat_map(move |device| cases.iter().map(move |case| (*case, device.clone())))
}

pub fn all_linear(r: usize) -> LoraSpec {
    LoraSpec::all_linears(r)
}

/// Sequences and learn-masks end to end in one batch.
pub fn pack(sequences: &[(Vec<u32>, Vec<bool>)]) -> Input {
    let mut input = Input {
        tokens: vec![],
        positions: vec![],
        starts: vec![0],
        learn: vec![],
    };
    for (tokens, learn) in sequences {
        input.tokens.extend(tokens);
        input.positions.extend(0..tokens.len() as u32);
        input.learn.extend(learn);
        input.starts.push(input.tokens.len());
    }
    input
}

pub fn golden_sequences(golden: &Golden, prefix: &str) -> Vec<(Vec<u32>, Vec<bool>)> {
    let of = |i: usize| {
        let (ids, learn) = (format!("{prefix}ids.{i}"), format!("{prefix}learn.{i}"));
        (golden.u32(&ids), golden.bools(&learn))
    };
    vec![of(0), of(1)]
}

/// Both rows of `input_ids` as one packed batch.
pub fn golden_input(golden: &Golden) -> Input {
    let ids = golden.u32("input_ids");
    let length = golden.shape("input_ids")[1];
    let rows: Vec<_> = ids
        .chunks(length)
        .map(|row| (row.to_vec(), vec![true; length]))
        .collect();
    pack(&rows)
}

#[test]
fn logits_equal_transformers() {
    for (case, device) in everywhere(CASES) {
        let golden = Golden::open(case);
        let logits = load(case, &device).logits(&golden_input(&golden)).unwrap();
        let d = max_difference(&logits, &golden.f32("logits"));
        println!("{case} on {device:?}: logits differ by {d:.1e}");
        assert!(d < 1e-4, "{case} on {device:?}: logits differ by {d}");
    }
}

#[test]
fn logits_with_adapters_equal_peft() {
    for (case, device) in everywhere(ADAPTED) {
        let golden = Golden::open(case);
        let logits = load_adapted(case, &device).logits(&golden_input(&golden)).unwrap();
        let d = max_difference(&logits, &golden.f32("adapter_logits"));
        assert!(d < 1e-4, "{case} on {device:?}: logits differ by {d}");
    }
    let golden = Golden::open("llama-gqa-tied");
    let mut model = load("llama-gqa-tied", &Device::flex());
    model.attach(&adapter("llama-gqa-tied", "adapter-pattern")).unwrap();
    let d = max_difference(
        &model.logits(&golden_input(&golden)).unwrap(),
        &golden.f32("pattern_logits"),
    );
    assert!(d < 1e-4, "rsLoRA with patterns: logits differ by {d}");
}

#[test]
fn loss_and_gradients_equal_peft_and_torch_autograd() {
    for (case, device) in everywhere(ADAPTED) {
        let (golden, model) = (Golden::open(case), load_adapted(case, &device));
        let input = pack(&golden_sequences(&golden, ""));
        let (losses, gradients) = model.loss_and_gradients(&input, kept(99), Noise::default()).unwrap();
        let loss = losses.read();
        let wanted = golden.f64("loss_sum")[0];
        assert_eq!(loss.learned, golden.u32("learned")[0] as usize);
        assert!(
            (loss.sum - wanted).abs() / wanted < 1e-5,
            "{case} on {device:?}: loss {} wanted {wanted}",
            loss.sum
        );
        let adapters = model.adapters();
        assert_eq!(
            adapters.len() * 2,
            golden.names().iter().filter(|n| n.starts_with("grad.")).count()
        );
        let mut largest = 0f64;
        for (adapter, gradients) in adapters.iter().zip(gradients) {
            for (name, gradient) in [("lora_A", gradients.a), ("lora_B", gradients.b)] {
                let key = format!("grad.{}.{name}", adapter.path);
                let ours: Vec<f32> = gradient.into_data().iter::<f32>().collect();
                let d = relative(&ours, &golden.f32(&key));
                assert!(d < 1e-5, "{case} on {device:?}: {key} differs by {d}");
                largest = largest.max(d);
            }
        }
        println!("{case} on {device:?}: gradients differ by at most {largest:.1e}");
    }
}

/// Rounding weights and inputs of products to bf16 moves a product by about 2^-9 of its size, as it moves torch's autocast.
#[test]
fn bf16_equals_f32_within_its_noise() {
    for case in ADAPTED {
        let golden = Golden::open(case);
        let mut model = load_in(case, &Device::flex(), BF16);
        model.attach(&adapter(case, "adapter")).unwrap();
        let logits = model.logits(&golden_input(&golden)).unwrap();
        let d = relative(&logits, &golden.f32("adapter_logits"));
        assert!((1e-6..2e-2).contains(&d), "{case}: logits differ by {d}");

        let input = pack(&golden_sequences(&golden, ""));
        let (losses, gradients) = model.loss_and_gradients(&input, kept(99), Noise::default()).unwrap();
        let loss = losses.read();
        let wanted = golden.f64("loss_sum")[0];
        assert!((loss.sum - wanted).abs() / wanted < 2e-3, "{case}: loss {}", loss.sum);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for (adapter, gradients) in model.adapters().iter().zip(gradients) {
            for (name, gradient) in [("lora_A", gradients.a), ("lora_B", gradients.b)] {
                ours.extend(gradient.into_data().iter::<f32>());
                theirs.extend(golden.f32(&format!("grad.{}.{name}", adapter.path)));
            }
        }
        let d = relative(&ours, &theirs);
        // GPT-Neo does not scale its scores: those of a tiny random one are large, and rounding moves its softmax.
        let noise = if case == &"gpt-neo" { 0.15 } else { 2e-2 };
        assert!(d < noise, "{case}: gradients differ by {d}");
    }
}

#[test]
fn kept_recomputed_and_offloaded_blocks_give_the_same_gradients() {
    for (case, device) in everywhere(ADAPTED) {
        let (golden, model) = (Golden::open(case), load_adapted(case, &device));
        let input = pack(&golden_sequences(&golden, ""));
        let noise = Noise {
            seed: 7,
            dropout: 0.2,
            neftune_alpha: 5.0,
        };
        let run = |keep| {
            let (losses, gradients) = model.loss_and_gradients(&input, keep, noise).unwrap();
            let flat = gradients.into_iter().flatten();
            (
                losses.read(),
                flat.flat_map(|t| t.into_data().iter::<f32>().collect::<Vec<_>>())
                    .collect::<Vec<_>>(),
            )
        };
        let (loss, wanted) = run(kept(model.layers()));
        for blocks in 0..model.layers() {
            for offloaded in [0, 1, model.layers()] {
                let keep = Keep { blocks, offloaded };
                let (again, found) = run(keep);
                assert_eq!(loss, again, "{case}: {keep:?}");
                assert!(relative(&found, &wanted) < 1e-6, "{case}: {keep:?}");
            }
        }
        let (other, _) = model
            .loss_and_gradients(&input, kept(0), Noise { seed: 8, ..noise })
            .unwrap();
        let other = other.read();
        assert_ne!(loss, other, "{case}: the noise does nothing");
    }
}

#[test]
fn a_packed_document_costs_what_it_costs_alone() {
    for (case, device, precision) in every_way(CASES) {
        let (golden, model) = (Golden::open(case), load_in(case, &device, precision));
        let ids = golden.u32("input_ids");
        let documents: Vec<_> = [&ids[..24], &ids[24..41], &ids[30..33]]
            .map(|d| (d.to_vec(), vec![true; d.len()]))
            .into();
        let packed = model.loss(&pack(&documents)).unwrap();
        let alone: f64 = documents
            .iter()
            .map(|d| model.loss(&pack(std::slice::from_ref(d))).unwrap().sum)
            .sum();
        assert!(
            (packed.sum - alone).abs() / alone < 1e-5,
            "{case}: packed {} alone {alone}",
            packed.sum
        );
    }
}

#[test]
fn the_cache_changes_nothing_and_batches_of_unequal_prompts_neither() {
    for (case, device, precision) in every_way(CASES) {
        // An ulp of difference between attending to one query and to many can tip the rounding of an activation to bf16.
        let tolerance = if precision == BF16 { 2e-2 } else { 1e-4 };
        let (golden, model) = (Golden::open(case), load_in(case, &device, precision));
        let ids = golden.u32("input_ids");
        let prompts = vec![ids[..20].to_vec(), ids[24..27].to_vec(), ids[30..41].to_vec()];
        let options = GenerateOptions {
            logprobs: 3,
            ..GenerateOptions::greedy(12)
        };
        let together = generate(&model, &prompts, &options, &mut |_, _| true).unwrap();
        for (prompt, batched) in prompts.iter().zip(&together) {
            let alone = &generate(&model, std::slice::from_ref(prompt), &options, &mut |_, _| true).unwrap()[0];
            assert_eq!(alone.tokens, batched.tokens, "{case}");
            let mut tokens = prompt.clone();
            for (step, token) in batched.steps.iter().zip(&batched.tokens) {
                let logits = model.logits(&Input::sequence(&tokens)).unwrap();
                let last = &logits[logits.len() - model.vocab_size()..];
                let (logprob, top) = tune_model::sampler::logprobs(last, *token, 1);
                assert!(top[0].1 - logprob < tolerance, "{case}: greedy without a cache differs");
                assert!(
                    (logprob - step.logprob).abs() < tolerance,
                    "{case}: {logprob} against {}",
                    step.logprob
                );
                tokens.push(*token);
            }
        }
    }
}

#[test]
fn fresh_adapters_change_nothing_and_count_by_formula() {
    for (case, device) in everywhere(CASES) {
        let golden = Golden::open(case);
        let base = checkpoint(case);
        let spec = all_linear(4);
        let model = CausalLm::load(&base, Some(&spec), &device, Precision::F32, &mut |_, _| ()).unwrap();
        let d = max_difference(&model.logits(&golden_input(&golden)).unwrap(), &golden.f32("logits"));
        assert!(d < 1e-4, "{case}: B = 0 but logits differ by {d}");
        let counted: usize = model
            .adapters()
            .iter()
            .flat_map(|m| m.factors.as_ref())
            .map(|factor| factor.dims().iter().product::<usize>())
            .sum();
        assert_eq!(
            counted,
            tune_model::causal_lm::sizes(&base, Some(&spec), Precision::F32)
                .unwrap()
                .lora_params(),
            "{case}"
        );
        assert!(
            model
                .adapters()
                .iter()
                .all(|m| m.factors.a.clone().abs().max().into_scalar::<f32>() > 0.0)
        );
    }
}

/// As transformers' own `save_pretrained` writes it, with the head's module around the rest.
#[test]
fn gpt2_has_its_prefix_or_not() {
    let (golden, folder) = (Golden::open("gpt2"), tempfile::tempdir().unwrap());
    let from = crate::golden::folder("gpt2");
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(from.join(file), folder.path().join(file)).unwrap();
    }
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let named = tensors
        .iter()
        .map(|(name, tensor)| (format!("transformer.{name}"), tensor));
    let renamed = safetensors::serialize(named, None).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), renamed).unwrap();
    let base = Checkpoint::open(&folder.path().to_string_lossy(), &Default::default()).unwrap();
    let model = CausalLm::load(&base, None, &Device::flex(), Precision::F32, &mut |_, _| ()).unwrap();
    let d = max_difference(&model.logits(&golden_input(&golden)).unwrap(), &golden.f32("logits"));
    assert!(d < 1e-4, "logits differ by {d}");
}

#[test]
fn targets_that_match_nothing_are_refused_by_name() {
    let base = checkpoint("llama-gqa-tied");
    let spec = LoraSpec {
        targets: Targets::Names(vec!["q_proj".into(), "query".into()]),
        layers: Some(vec![0, 70]),
        ..all_linear(4)
    };
    let error = tune_model::causal_lm::sizes(&base, Some(&spec), Precision::F32).unwrap_err();
    let text = format!("{error}\n{}", error.hint().unwrap_or_default());
    for part in ["target `query` matches no linear layer", "layer 70", "q_proj"] {
        assert!(text.contains(part), "{text}");
    }
}
