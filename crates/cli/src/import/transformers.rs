//! Keys of transformers' TrainingArguments, which LLaMA-Factory and TRL take unchanged.
use super::common::*;
use super::{Move, Rule::*, Table};

pub const ARGUMENTS: Table = &[
    ("learning_rate", Same("train.learning_rate")),
    ("per_device_train_batch_size", Same("train.batch_size")),
    ("gradient_accumulation_steps", Same("train.grad_accumulation")),
    ("num_train_epochs", EPOCHS),
    ("max_steps", MAX_STEPS),
    ("lr_scheduler_type", SCHEDULE),
    ("lr_scheduler_kwargs", With),
    ("warmup_ratio", With),
    ("warmup_steps", With),
    ("optim", OPTIMIZER),
    ("optim_args", RATES),
    ("adam_beta1", With),
    ("adam_beta2", With),
    ("adam_epsilon", Same("train.eps")),
    ("weight_decay", Same("train.weight_decay")),
    ("max_grad_norm", Same("train.max_grad_norm")),
    ("neftune_noise_alpha", Same("train.neftune_alpha")),
    ("label_smoothing_factor", LOSS),
    ("seed", Same("train.seed")),
    ("data_seed", Needless("train.seed decides all")),
    ("bf16", By(half)),
    (
        "fp16",
        By(|moving, key, value| match super::is_off(value) {
            true => moving.off(key),
            false => float16(moving, key),
        }),
    ),
    ("output_dir", Same("output.dir")),
    ("overwrite_output_dir", OVERWRITE),
    ("do_eval", Needless("train.eval_every and data.validation say it")),
    ("eval_strategy", With),
    ("evaluation_strategy", With),
    ("eval_steps", With),
    (
        "eval_on_start",
        Needless("the first evaluation is before the first step"),
    ),
    ("per_device_eval_batch_size", EVAL_BATCH),
    ("eval_accumulation_steps", EVAL_BATCH),
    ("prediction_loss_only", EVAL_BATCH),
    ("save_strategy", With),
    ("save_steps", With),
    ("save_total_limit", By(keep_last)),
    ("save_only_model", Needless("checkpoints can always be gone on from")),
    ("save_safetensors", Needless("always so")),
    ("load_best_model_at_end", BEST),
    ("metric_for_best_model", BEST),
    ("greater_is_better", BEST),
    ("resume_from_checkpoint", RESUME),
    ("logging_steps", LOGGING),
    ("logging_strategy", LOGGING),
    ("logging_first_step", LOGGING),
    ("logging_dir", LOGGING),
    ("log_level", LOGGING),
    ("log_level_replica", LOGGING),
    ("disable_tqdm", LOGGING),
    ("include_num_input_tokens_seen", LOGGING),
    ("include_tokens_per_second", LOGGING),
    ("run_name", TRACKERS),
    ("project", TRACKERS),
    ("trackio_space_id", TRACKERS),
    ("report_to", By(report_to)),
    ("push_to_hub", HUB),
    ("hub_model_id", HUB),
    ("hub_strategy", HUB),
    ("hub_token", HUB),
    ("hub_private_repo", HUB),
    ("gradient_checkpointing", COMPUTING),
    ("gradient_checkpointing_kwargs", COMPUTING),
    ("torch_compile", COMPUTING),
    ("torch_compile_backend", COMPUTING),
    ("torch_compile_mode", COMPUTING),
    ("torch_empty_cache_steps", COMPUTING),
    ("use_liger_kernel", COMPUTING),
    ("liger_kernel_config", COMPUTING),
    ("tf32", COMPUTING),
    ("bf16_full_eval", COMPUTING),
    ("fp16_full_eval", COMPUTING),
    ("auto_find_batch_size", COMPUTING),
    ("use_cpu", Needless("device says it")),
    ("dataloader_num_workers", WORKERS),
    ("dataloader_pin_memory", WORKERS),
    ("dataloader_prefetch_factor", WORKERS),
    ("dataloader_persistent_workers", WORKERS),
    (
        "dataloader_drop_last",
        Needless("no row is left out; the last step of an epoch may be smaller"),
    ),
    ("remove_unused_columns", LOADING),
    ("group_by_length", SHUFFLING),
    ("length_column_name", SHUFFLING),
    ("deepspeed", DEVICES),
    ("fsdp", DEVICES),
    ("fsdp_config", DEVICES),
    ("parallelism_config", DEVICES),
    ("accelerator_config", DEVICES),
    ("local_rank", Needless("a run is on one device")),
    ("ddp_timeout", Needless("a run is on one device")),
    ("ddp_backend", Needless("a run is on one device")),
    ("ddp_find_unused_parameters", Needless("a run is on one device")),
];

/// What transformers does where nothing is said.
pub const DEFAULT_SCHEDULE: (&str, &str) = ("train.schedule", "\"linear\"");
pub const DEFAULT_WARMUP: (&str, &str) = ("train.warmup_ratio", "0.0");
pub const DEFAULT_BATCH: (&str, &str) = ("train.batch_size", "8");
pub const DEFAULT_ACCUMULATION: (&str, &str) = ("train.grad_accumulation", "1");

pub fn finish(moving: &mut Move) {
    finish_schedule(
        moving,
        &Schedule {
            name: "lr_scheduler_type",
            arguments: "lr_scheduler_kwargs",
            warmup_steps: "warmup_steps",
            warmup_ratio: "warmup_ratio",
        },
    );
    betas(moving, "adam_beta1", "adam_beta2");
    let newer = moving.get("eval_strategy").is_some();
    cadence(
        moving,
        &Cadence {
            strategy: if newer { "eval_strategy" } else { "evaluation_strategy" },
            steps: "eval_steps",
            per_epoch: "",
            path: "train.eval_every",
        },
    );
    cadence(
        moving,
        &Cadence {
            strategy: "save_strategy",
            steps: "save_steps",
            per_epoch: "",
            path: "train.save_every",
        },
    );
}

pub fn keep_last(moving: &mut Move, key: &str, value: &serde_json::Value) {
    match moving.number(key) {
        Some(kept) if kept < 1.0 => moving.needless(key, "two checkpoints and the best are kept"),
        _ => moving.take(key, "train.keep_last", value),
    }
}

pub fn report_to(moving: &mut Move, key: &str, value: &serde_json::Value) {
    let others: Vec<_> = words(value)
        .into_iter()
        .filter(|to| !["none", "tensorboard"].contains(&to.as_str()))
        .collect();
    if others.is_empty() {
        moving.needless(key, "TensorBoard's files are written by output.tensorboard");
    } else {
        moving.drop(
            key,
            format!(
                "no {}: the run's folder has TensorBoard files and metrics.jsonl",
                others.join(", ")
            ),
        );
    }
}
