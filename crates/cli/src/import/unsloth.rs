//! Unsloth: `unsloth train --config` and Studio's configs (checked against unsloth_cli/config.py of 2026).
use super::common::*;
use super::{Fate, Move, Rival, Rule::*, Table, is_off};
use crate::args::Rival as Name;
use serde_json::Value;

pub const UNSLOTH: Rival = Rival {
    name: Name::Unsloth,
    title: "Unsloth",
    signs: &[
        "training.max_seq_length",
        "training.training_type",
        "training.random_seed",
        "training.train_on_completions",
        "lora.lora_r",
        "lora.lora_alpha",
        "lora.finetune_language_layers",
        "data.format_type",
        "data.local_dataset",
        "logging.enable_wandb",
    ],
    base: "model",
    rules: &[RULES],
    finish,
    defaults: &[
        ("model.quantize", "\"nf4\""),
        ("data.max_length", "2048"),
        ("data.packing", "false"),
        ("data.validation", "0.0"),
        ("data.learn", "\"all\""),
        ("lora.r", "64"),
        ("lora.alpha", "16.0"),
        ("train.batch_size", "2"),
        ("train.grad_accumulation", "4"),
        ("train.schedule", "\"linear\""),
        ("train.weight_decay", "0.01"),
        ("train.seed", "3407"),
        ("output.dir", "\"outputs\""),
    ],
};

const RULES: Table = &[
    ("model", Same("model.base")),
    ("data.dataset", By(dataset)),
    ("data.local_dataset", By(local_dataset)),
    ("data.format_type", By(format_type)),
    ("training.training_type", By(training_type)),
    ("training.max_seq_length", Same("data.max_length")),
    ("training.load_in_4bit", By(four_bits)),
    ("training.output_dir", Same("output.dir")),
    ("training.num_epochs", EPOCHS),
    ("training.learning_rate", Same("train.learning_rate")),
    ("training.batch_size", Same("train.batch_size")),
    ("training.gradient_accumulation_steps", Same("train.grad_accumulation")),
    ("training.warmup_steps", With),
    ("training.warmup_ratio", With),
    ("training.max_steps", MAX_STEPS),
    ("training.save_steps", Same("train.save_every")),
    ("training.eval_steps", By(eval_steps)),
    ("training.weight_decay", Same("train.weight_decay")),
    ("training.random_seed", Same("train.seed")),
    ("training.packing", Same("data.packing")),
    ("training.train_on_completions", By(completions)),
    ("training.gradient_checkpointing", COMPUTING),
    ("training.optim", OPTIMIZER),
    ("training.lr_scheduler_type", SCHEDULE),
    ("training.trust_remote_code", REMOTE_CODE),
    ("lora.lora_r", Same("lora.r")),
    ("lora.lora_alpha", Same("lora.alpha")),
    ("lora.lora_dropout", Same("lora.dropout")),
    ("lora.target_modules", With),
    ("lora.use_rslora", Same("lora.rslora")),
    ("lora.use_loftq", START),
    ("lora.use_dora", DORA),
    ("lora.vision_all_linear", Never(IMAGES, TEXT_INSTEAD)),
    (
        "lora.finetune_vision_layers",
        Needless("text alone: a language model has no such layers"),
    ),
    (
        "lora.finetune_language_layers",
        Needless("lora.targets says which linears"),
    ),
    (
        "lora.finetune_attention_modules",
        Needless("lora.targets says which linears"),
    ),
    ("lora.finetune_mlp_modules", Needless("lora.targets says which linears")),
    ("logging.enable_wandb", TRACKERS),
    ("logging.wandb_project", Needless("a name for Weights & Biases")),
    (
        "logging.wandb_token",
        Lost("tokens belong in no file: take it out of the config"),
    ),
    (
        "logging.hf_token",
        Lost("tokens belong in no file: HF_TOKEN is taken from the environment"),
    ),
    ("logging.enable_tensorboard", Same("output.tensorboard")),
    ("logging.tensorboard_dir", LOGGING),
    ("logging.log_frequency", LOGGING),
];

fn finish(moving: &mut Move) {
    check_base(moving, "model");
    match moving.get("lora.target_modules").cloned() {
        Some(value) if !is_off(&value) => moving.apply("lora.target_modules", &value, TARGETS),
        _ => {
            if moving.get("lora.target_modules").is_some() {
                moving.off("lora.target_modules");
            }
            moving.default("lora.targets", SEVEN, "Unsloth");
        }
    }
    finish_schedule(
        moving,
        &Schedule {
            name: "training.lr_scheduler_type",
            arguments: "",
            warmup_steps: "training.warmup_steps",
            warmup_ratio: "training.warmup_ratio",
        },
    );
}

/// The linears of Llama and its like.
const SEVEN: &str = r#"["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]"#;

fn training_type(moving: &mut Move, key: &str, value: &Value) {
    match value.as_str().map(str::to_ascii_lowercase).as_deref() {
        Some("lora" | "qlora" | "lora/qlora") => moving.needless(key, "LoRA is what tune trains"),
        _ => moving.refuse(
            key,
            value,
            "tune trains LoRA adapters alone",
            "say `training_type: lora`; a learning rate ten times higher than for all weights is usual",
        ),
    }
}

fn four_bits(moving: &mut Move, key: &str, value: &Value) {
    match value.as_bool() {
        Some(on) => moving.take(key, "model.quantize", &if on { "nf4" } else { "none" }.into()),
        None => moving.mistyped(key, value, "true or false"),
    }
}

fn completions(moving: &mut Move, key: &str, value: &Value) {
    match value.as_bool() {
        Some(true) => moving.change(key, "data.learn", "assistant", "answers alone"),
        Some(false) => moving.change(key, "data.learn", "all", "prompts too"),
        None => moving.mistyped(key, value, "true or false"),
    }
}

/// A count of steps, or a share of them.
fn eval_steps(moving: &mut Move, key: &str, value: &Value) {
    match moving.number(key) {
        Some(0.0) => moving.off(key),
        Some(share) if share < 1.0 => cadence(
            moving,
            &Cadence {
                strategy: "",
                steps: "training.eval_steps",
                per_epoch: "",
                path: "train.eval_every",
            },
        ),
        _ => moving.take(key, "train.eval_every", value),
    }
}

fn dataset(moving: &mut Move, key: &str, value: &Value) {
    let Some(id) = value.as_str() else {
        return moving.mistyped(key, value, "the name of a data set");
    };
    if is_off(value) {
        return moving.off(key);
    }
    let file = local_file(moving, id, None, None);
    let to = format!("data.train = {file:?}");
    let why = "tune reads files".to_string();
    let same = file == id;
    moving.note(
        key,
        id,
        if same {
            Fate::Taken(to)
        } else {
            Fate::Changed { to, why }
        },
    );
    moving.data.train.push((file, 1.0));
}

fn local_dataset(moving: &mut Move, key: &str, value: &Value) {
    let files = words(value);
    if files.is_empty() {
        return moving.off(key);
    }
    moving.note(key, files.join(", "), Fate::Taken(format!("data.train = {files:?}")));
    moving.data.train.extend(files.into_iter().map(|file| (file, 1.0)));
}

fn format_type(moving: &mut Move, key: &str, value: &Value) {
    let format = match value.as_str().map(str::to_ascii_lowercase).as_deref() {
        Some("auto") => "auto",
        Some("alpaca") => "alpaca",
        Some("sharegpt") => "sharegpt",
        Some("chatml" | "conversational") => "messages",
        Some("raw") => "text",
        _ => return moving.mistyped(key, value, "auto, alpaca, chatml, sharegpt, conversational or raw"),
    };
    moving.take(key, "data.format", &format.into());
}
