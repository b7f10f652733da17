//! Axolotl (checked against src/axolotl/utils/schemas of 2026).
use super::common::*;
use super::{Move, Rival, Rule::*, Table, is_off};
use crate::args::Rival as Name;
use serde_json::{Map, Value};

pub const AXOLOTL: Rival = Rival {
    name: Name::Axolotl,
    title: "Axolotl",
    signs: &[
        "base_model",
        "micro_batch_size",
        "sequence_len",
        "sample_packing",
        "num_epochs",
        "val_set_size",
        "lora_target_linear",
        "dataset_prepared_path",
        "adapter",
        "pretraining_dataset",
    ],
    base: "base_model",
    rules: &[RULES, DATASET],
    finish,
    defaults: &[
        ("train.epochs", "1.0"),
        ("train.grad_accumulation", "1"),
        ("data.max_length", "512"),
        ("data.packing", "false"),
        ("data.too_long", "\"drop\""),
        ("data.validation", "0.0"),
        ("lora.r", "8"),
        ("lora.alpha", "8.0"),
        ("output.dir", "\"./model-out\""),
    ],
};

const RULES: Table = &[
    ("base_model", Same("model.base")),
    ("revision_of_model", Same("model.revision")),
    ("base_model_config", LOADING),
    ("model_type", LOADING),
    ("cls_model_config", LOADING),
    ("tokenizer_type", LOADING),
    ("tokenizer_config", Lost("the tokenizer is the base's")),
    ("tokenizer_use_fast", LOADING),
    ("tokenizer_legacy", LOADING),
    ("tokenizer_use_mistral_common", LOADING),
    ("processor_type", Never(IMAGES, TEXT_INSTEAD)),
    ("is_llama_derived_model", LOADING),
    ("is_mistral_derived_model", LOADING),
    ("is_falcon_derived_model", LOADING),
    ("is_qwen_derived_model", LOADING),
    ("trust_remote_code", REMOTE_CODE),
    (
        "overrides_of_model_config",
        Lost("the model is as its config.json says"),
    ),
    ("overrides_of_model_kwargs", LOADING),
    ("low_cpu_mem_usage", LOADING),
    ("strict", LOADING),
    ("adapter", By(adapter)),
    ("load_in_4bit", With),
    ("load_in_8bit", With),
    ("gptq", Lost("the base must not be quantized: model.quantize does that")),
    ("gptq_groupsize", LOADING),
    ("gptq_model_v1", LOADING),
    (
        "bnb_config_kwargs",
        Lost("4 bits are NF4 with maxima quantized too, as by default there"),
    ),
    ("lora_r", Same("lora.r")),
    ("lora_alpha", Same("lora.alpha")),
    ("lora_dropout", Same("lora.dropout")),
    ("lora_target_linear", With),
    ("lora_target_modules", With),
    ("lora_target_parameters", Lost("adapters are on linears")),
    ("lora_modules_to_save", TO_SAVE),
    ("lora_fan_in_fan_out", Needless("the family says how its matrices lie")),
    ("lora_model_dir", Same("lora.adapter")),
    ("lora_on_cpu", COMPUTING),
    ("lora_mlp_kernel", COMPUTING),
    ("lora_qkv_kernel", COMPUTING),
    ("lora_o_kernel", COMPUTING),
    ("loraplus_lr_ratio", Same("train.loraplus_ratio")),
    ("loraplus_lr_embedding", Needless("embeddings have no adapter")),
    ("peft_layers_to_transform", Same("lora.layers")),
    ("peft_layers_pattern", Needless("blocks are counted by the family")),
    ("peft_use_dora", DORA),
    ("peft_use_rslora", Same("lora.rslora")),
    ("peft_init_lora_weights", START),
    ("peft.loftq_config", START),
    ("peft_trainable_token_indices", NEW_TOKENS),
    ("peft_autocast_adapter_dtype", Needless("adapters are f32")),
    (
        "relora",
        Never("ReLoRA merges and starts anew", "remove it to train one adapter"),
    ),
    (
        "rl",
        Never("tune trains on answers, not on preferences or rewards", SFT_INSTEAD),
    ),
    ("reward_model", Never("tune trains no reward models", SFT_INSTEAD)),
    (
        "process_reward_model",
        Never("tune trains no reward models", SFT_INSTEAD),
    ),
    (
        "unfrozen_parameters",
        Never(
            "tune trains adapters alone",
            "remove it and name modules in lora_target_modules",
        ),
    ),
    ("datasets", By(datasets)),
    ("test_datasets", By(test_datasets)),
    ("pretraining_dataset", By(pretraining)),
    ("dataset_prepared_path", CACHING),
    ("dataset_processes", WORKERS),
    ("dataset_num_proc", WORKERS),
    (
        "dataset_exact_deduplication",
        Lost("`tune data check` names duplicates; they stay"),
    ),
    ("dataset_keep_in_memory", WORKERS),
    ("skip_prepare_dataset", CACHING),
    ("shuffle_merged_datasets", SHUFFLING),
    ("push_dataset_to_hub", HUB),
    ("streaming", STREAMING),
    ("val_set_size", By(validation_size)),
    ("sequence_len", Same("data.max_length")),
    ("excess_length_strategy", By(excess)),
    ("min_sample_len", Lost("short records stay")),
    ("sample_packing", Same("data.packing")),
    (
        "eval_sample_packing",
        Needless("validation rows are packed as training rows are"),
    ),
    ("sample_packing_eff_est", COMPUTING),
    ("total_num_tokens", COMPUTING),
    ("total_supervised_tokens", COMPUTING),
    ("sample_packing_group_size", COMPUTING),
    ("sample_packing_bin_size", COMPUTING),
    ("sample_packing_sequentially", SHUFFLING),
    ("curriculum_sampling", SHUFFLING),
    ("pad_to_sequence_len", PADDING),
    ("group_by_length", SHUFFLING),
    ("train_on_inputs", By(learn_prompts)),
    ("chat_template", By(chat_template)),
    ("chat_template_jinja", By(chat_template)),
    ("default_system_message", Same("data.system")),
    (
        "eot_tokens",
        Lost("the template says where an answer ends; `tune data show` shows it"),
    ),
    ("special_tokens", By(special_tokens)),
    ("tokens", NEW_TOKENS),
    ("added_tokens_overrides", NEW_TOKENS),
    ("resize_token_embeddings_to_32x", NEW_TOKENS),
    ("micro_batch_size", Same("train.batch_size")),
    ("batch_size", With),
    ("gradient_accumulation_steps", Same("train.grad_accumulation")),
    ("eval_batch_size", EVAL_BATCH),
    ("auto_find_batch_size", COMPUTING),
    ("num_epochs", EPOCHS),
    ("max_steps", MAX_STEPS),
    ("learning_rate", Same("train.learning_rate")),
    ("lr_scheduler", SCHEDULE),
    ("lr_scheduler_kwargs", With),
    ("cosine_min_lr_ratio", Same("train.min_lr_ratio")),
    ("cosine_constant_lr_ratio", Lost("the cosine goes to the end")),
    ("lr_groups", RATES),
    ("embedding_lr", RATES),
    ("embedding_lr_scale", RATES),
    ("warmup_steps", With),
    ("warmup_ratio", With),
    ("optimizer", OPTIMIZER),
    ("optim_args", RATES),
    ("optim_target_modules", RATES),
    ("torchdistx_path", COMPUTING),
    ("adam_beta1", With),
    ("adam_beta2", With),
    ("adam_epsilon", Same("train.eps")),
    ("weight_decay", Same("train.weight_decay")),
    ("max_grad_norm", Same("train.max_grad_norm")),
    ("neftune_noise_alpha", Same("train.neftune_alpha")),
    ("noisy_embedding_alpha", Same("train.neftune_alpha")),
    ("seed", Same("train.seed")),
    ("bf16", By(half)),
    ("bfloat16", By(half)),
    (
        "fp16",
        By(|moving, key, value| {
            if is_off(value) {
                moving.off(key)
            } else {
                float16(moving, key)
            }
        }),
    ),
    (
        "float16",
        By(|moving, key, value| {
            if is_off(value) {
                moving.off(key)
            } else {
                float16(moving, key)
            }
        }),
    ),
    ("fp8", COMPUTING),
    ("tf32", COMPUTING),
    ("gradient_checkpointing", COMPUTING),
    ("gradient_checkpointing_kwargs", COMPUTING),
    ("activation_offloading", COMPUTING),
    ("flash_attention", COMPUTING),
    ("flash_attn_cross_entropy", COMPUTING),
    ("flash_attn_rms_norm", COMPUTING),
    ("flash_attn_fuse_qkv", COMPUTING),
    ("flash_attn_fuse_mlp", COMPUTING),
    ("xformers_attention", COMPUTING),
    ("sdp_attention", COMPUTING),
    ("flex_attention", COMPUTING),
    ("eager_attention", COMPUTING),
    ("attn_implementation", COMPUTING),
    ("s2_attention", Lost("attention is over the whole row")),
    ("torch_compile", COMPUTING),
    ("torch_compile_backend", COMPUTING),
    ("plugins", By(plugins)),
    ("liger_rope", COMPUTING),
    ("liger_rms_norm", COMPUTING),
    ("liger_glu_activation", COMPUTING),
    ("liger_layer_norm", COMPUTING),
    ("liger_fused_linear_cross_entropy", COMPUTING),
    ("cut_cross_entropy", COMPUTING),
    ("unsloth_lora_mlp", COMPUTING),
    ("unsloth_lora_qkv", COMPUTING),
    ("unsloth_lora_o", COMPUTING),
    ("unsloth_cross_entropy_loss", COMPUTING),
    ("output_dir", Same("output.dir")),
    ("hub_model_id", HUB),
    ("hub_strategy", HUB),
    ("hf_use_auth_token", Needless("HF_TOKEN is taken from the environment")),
    ("save_safetensors", Needless("always so")),
    ("save_only_model", Needless("checkpoints can always be gone on from")),
    ("save_first_step", Needless("--dry-run shows whether it will work")),
    ("save_total_limit", By(super::transformers::keep_last)),
    ("evals_per_epoch", With),
    ("eval_steps", With),
    ("eval_strategy", With),
    ("saves_per_epoch", With),
    ("save_steps", With),
    ("save_strategy", With),
    (
        "eval_table_size",
        Needless("train.samples answers are shown at each evaluation"),
    ),
    ("eval_max_new_tokens", Same("train.sample_tokens")),
    ("eval_table_max_new_tokens", Same("train.sample_tokens")),
    ("do_causal_lm_eval", Lost("`tune eval` compares answers after training")),
    ("do_bench_eval", Lost("`tune eval` compares answers after training")),
    ("early_stopping_patience", Same("train.early_stopping")),
    ("load_best_model_at_end", BEST),
    ("metric_for_best_model", BEST),
    (
        "loss_watchdog_threshold",
        Needless("a loss that is no number stops the run"),
    ),
    (
        "loss_watchdog_patience",
        Needless("a loss that is no number stops the run"),
    ),
    ("resume_from_checkpoint", RESUME),
    ("auto_resume_from_checkpoints", RESUME),
    ("logging_steps", LOGGING),
    ("use_tensorboard", Same("output.tensorboard")),
    ("wandb_project", TRACKERS),
    ("wandb_entity", TRACKERS),
    ("wandb_watch", TRACKERS),
    ("wandb_name", TRACKERS),
    ("wandb_run_id", TRACKERS),
    ("wandb_mode", TRACKERS),
    ("wandb_log_model", TRACKERS),
    ("use_wandb", TRACKERS),
    ("mlflow_tracking_uri", TRACKERS),
    ("mlflow_experiment_name", TRACKERS),
    ("use_mlflow", TRACKERS),
    ("use_comet", TRACKERS),
    ("comet_project_name", TRACKERS),
    ("deepspeed", DEVICES),
    ("fsdp", DEVICES),
    ("fsdp_config", DEVICES),
    ("fsdp_version", DEVICES),
    ("tensor_parallel_size", DEVICES),
    ("context_parallel_size", DEVICES),
    ("sequence_parallel_degree", DEVICES),
    ("use_ray", DEVICES),
    ("world_size", DEVICES),
    ("local_rank", Needless("a run is on one device")),
    ("ddp_timeout", Needless("a run is on one device")),
    ("ddp_find_unused_parameters", Needless("a run is on one device")),
    ("device_map", LOADING),
    ("max_memory", LOADING),
    ("gpu_memory_limit", LOADING),
    ("debug", LOGGING),
];

const SFT_INSTEAD: &str = "train on the chosen answers: remove it and give `datasets` rows of messages";

/// Read by [`dataset`].
const DATASET: Table = &[
    ("datasets[].path", With),
    ("datasets[].type", With),
    ("datasets[].name", With),
    ("datasets[].split", With),
    ("datasets[].data_files", With),
    ("datasets[].ds_type", With),
    ("datasets[].field", With),
    ("datasets[].conversation", With),
    ("datasets[].chat_template", With),
    ("datasets[].field_messages", With),
    ("datasets[].message_field_role", With),
    ("datasets[].message_field_content", With),
    ("datasets[].message_property_mappings.role", With),
    ("datasets[].message_property_mappings.content", With),
    ("datasets[].roles_to_train", With),
    ("datasets[].train_on_eos", With),
];

fn finish(moving: &mut Move) {
    if !moving.is_on("adapter") {
        moving.refusals.push((
            "no `adapter`: Axolotl would train all weights, tune trains adapters".into(),
            "add `adapter: lora` (or qlora), lora_r and lora_alpha; a learning rate ten times higher is usual for LoRA"
                .into(),
        ));
    }
    check_base(moving, "base_model");
    bits(moving, "load_in_4bit", "load_in_8bit");
    if moving.text("adapter").as_deref() == Some("qlora") && !moving.values.contains_key("model.quantize") {
        moving.put("adapter", "model.quantize", "nf4".into());
    }
    linears(moving);
    steps(moving);
    finish_schedule(
        moving,
        &Schedule {
            name: "lr_scheduler",
            arguments: "lr_scheduler_kwargs",
            warmup_steps: "warmup_steps",
            warmup_ratio: "warmup_ratio",
        },
    );
    betas(moving, "adam_beta1", "adam_beta2");
    cadence(
        moving,
        &Cadence {
            strategy: "eval_strategy",
            steps: "eval_steps",
            per_epoch: "evals_per_epoch",
            path: "train.eval_every",
        },
    );
    cadence(
        moving,
        &Cadence {
            strategy: "save_strategy",
            steps: "save_steps",
            per_epoch: "saves_per_epoch",
            path: "train.save_every",
        },
    );
}

/// `batch_size` is what a step has together.
fn steps(moving: &mut Move) {
    let Some(together) = moving.number("batch_size") else {
        return;
    };
    let rows = moving.number("micro_batch_size").unwrap_or(1.0).max(1.0);
    if moving.get("gradient_accumulation_steps").is_some() {
        return moving.needless("batch_size", "gradient_accumulation_steps is there");
    }
    let windows = (together / rows).max(1.0) as i64;
    moving.change(
        "batch_size",
        "train.grad_accumulation",
        windows,
        format!("{together} rows a step, {rows} at once"),
    );
}

/// `lora_target_linear` adds all linears to what is named.
fn linears(moving: &mut Move) {
    if moving.is_on("lora_target_linear") {
        moving.change(
            "lora_target_linear",
            "lora.targets",
            "all-linear",
            "all linears of the blocks",
        );
        if moving.is_on("lora_target_modules") {
            moving.needless("lora_target_modules", "lora_target_linear is on");
        }
    } else if let Some(value) = moving.get("lora_target_modules").cloned() {
        moving.apply("lora_target_modules", &value, TARGETS);
    } else {
        unnamed_targets(moving);
    }
}

fn adapter(moving: &mut Move, key: &str, value: &Value) {
    match value.as_str() {
        Some("lora" | "qlora") => moving.needless(key, "LoRA is what tune trains"),
        Some(_) => moving.refuse(
            key,
            value,
            "tune trains LoRA adapters",
            "say `adapter: lora` or `adapter: qlora`",
        ),
        None if is_off(value) => moving.off(key),
        None => moving.mistyped(key, value, "lora or qlora"),
    }
}

fn excess(moving: &mut Move, key: &str, value: &Value) {
    match value.as_str() {
        Some("drop") => moving.take(key, "data.too_long", value),
        Some("truncate") => moving.take(key, "data.too_long", &"cut".into()),
        Some("raise") => moving.take(key, "data.too_long", &"refuse".into()),
        _ => moving.mistyped(key, value, "drop, truncate or raise"),
    }
}

fn plugins(moving: &mut Move, key: &str, value: &Value) {
    let known = ["liger", "cut_cross_entropy", "spectrum"];
    let others: Vec<_> = words(value)
        .into_iter()
        .filter(|plugin| !known.iter().any(|k| plugin.contains(k)))
        .collect();
    if others.is_empty() {
        moving.needless(key, "how it is computed: tune has kernels of its own");
    } else {
        moving.drop(key, format!("no plugins: {}", others.join(", ")));
    }
}

fn datasets(moving: &mut Move, key: &str, value: &Value) {
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        if let Some(item) = item.as_object() {
            let files = dataset(moving, &format!("{key}[{index}]"), item);
            moving.data.train.extend(files.into_iter().map(|file| (file, 1.0)));
        }
    }
    if !value.is_array() {
        moving.mistyped(key, value, "a list of data sets, each with `path`");
    }
}

fn test_datasets(moving: &mut Move, key: &str, value: &Value) {
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        if let Some(item) = item.as_object() {
            let formats = moving.data.formats.len();
            let files = dataset(moving, &format!("{key}[{index}]"), item);
            // Validation files are read in the format of the training files.
            moving.data.formats.truncate(formats.max(1));
            moving.data.validation.extend(files);
        }
    }
}

/// One item, or a list of them, of plain text.
fn pretraining(moving: &mut Move, key: &str, value: &Value) {
    let items = match value {
        Value::Array(items) => items.as_slice(),
        one => std::slice::from_ref(one),
    };
    for (index, item) in items.iter().enumerate() {
        let place = if value.is_array() {
            format!("{key}[{index}]")
        } else {
            key.to_string()
        };
        match item {
            Value::Object(item) => {
                let files = dataset(moving, &place, item);
                moving.data.train.extend(files.into_iter().map(|file| (file, 1.0)));
            }
            Value::String(id) => {
                let file = local_file(moving, id, None, None);
                moving.change(&place, "data.format", "text", "plain text, all of it learned");
                moving.data.train.push((file, 1.0));
                moving.data.formats.push(Some("text"));
            }
            other => moving.mistyped(&place, other, "a data set"),
        }
    }
}

/// Notes every key of a data set; the local files that stand for it.
fn dataset(moving: &mut Move, place: &str, item: &Map<String, Value>) -> Vec<String> {
    let text = |key: &str| item.get(key).and_then(Value::as_str);
    let at = |key: &str| format!("{place}.{key}");
    let files = item.get("data_files").map(words).unwrap_or_default();
    let files = match (files.is_empty(), text("path")) {
        (false, _) => {
            moving.note(
                &at("data_files"),
                files.join(", "),
                super::Fate::Taken(format!("data.train = {files:?}")),
            );
            if item.contains_key("path") {
                moving.needless(&at("path"), "data_files names the files");
            }
            files
        }
        (true, Some(path)) => {
            let local = local_file(moving, path, text("name"), text("split"));
            let fate = if local == path {
                super::Fate::Taken(format!("data.train = {local:?}"))
            } else {
                super::Fate::Changed {
                    to: format!("data.train = {local:?}"),
                    why: "tune reads files".into(),
                }
            };
            moving.note(&at("path"), path, fate);
            vec![local]
        }
        (true, None) => {
            moving.problems.push(format!(
                "`{place}.path` is not there, wanted a file or the name of a data set"
            ));
            Vec::new()
        }
    };
    let format = prompts(moving, place, item);
    moving.data.formats.push(format);
    for (key, value) in item {
        match key.as_str() {
            _ if value.is_null() => moving.off(&at(key)),
            "name" | "split" | "ds_type" | "revision" => moving.needless(&at(key), "says which file to write"),
            "trust_remote_code" => moving.needless(&at(key), "a file has no code"),
            "shards" | "shards_idx" | "preprocess_shards" | "skip" => {
                moving.drop(&at(key), "files are read whole");
            }
            "conversation" | "chat_template" | "chat_template_jinja" => chat_template(moving, &at(key), value),
            "roles" => moving.needless(&at(key), "roles have their usual names: human, gpt, user, assistant, …"),
            "roles_to_train" if words(value) == ["assistant"] => {
                moving.needless(&at(key), "answers are what is learned");
            }
            "roles_to_train" if words(value).is_empty() => moving.off(&at(key)),
            "roles_to_train" => {
                moving.drop(
                    &at(key),
                    "answers of the assistant are learned, or everything (data.learn)",
                );
                moving.ask(format!(
                    "look at data.learn: {} was learned there",
                    words(value).join(", ")
                ));
            }
            "train_on_eos" if value == "turn" => moving.needless(&at(key), "the end of each answer is learned"),
            "train_on_eos" => moving.drop(&at(key), "the end of each learned answer is learned"),
            "message_field_training" | "message_field_training_detail" => {
                moving.drop(
                    &at(key),
                    "a message is left out of what is learned by \"weight\": 0 in the row",
                );
            }
            "drop_system_message" | "field_thinking" | "template_thinking_key" | "split_thinking" => {
                moving.drop(&at(key), "messages are handed to the template as they are");
            }
            "field_tools" => moving.drop(&at(key), "tools are under \"tools\""),
            _ => {}
        }
    }
    files
}

/// What the rows look like: the keys `type`, `field` and `field_…`.
fn prompts(moving: &mut Move, place: &str, item: &Map<String, Value>) -> Option<&'static str> {
    let text = |key: &str| item.get(key).and_then(Value::as_str);
    let at = |key: &str| format!("{place}.{key}");
    let taken = |moving: &mut Move, key: &str, format: &'static str| {
        let found = moving.found(&at(key));
        moving.note(&at(key), found, super::Fate::Taken(format!("data.format = {format:?}")));
        Some(format)
    };
    if let Some(custom) = item.get("type").and_then(Value::as_object) {
        return own_prompt(moving, &at("type"), custom);
    }
    let kind = text("type").unwrap_or_default();
    let format = match kind.split(['.', ':']).next().unwrap_or_default() {
        "alpaca" | "alpaca_w_system" | "alpaca_chat" => {
            moving.ask(
                "Axolotl wrote prompts in Alpaca's words (### Instruction: …); tune writes them by the chat template of \
                 the base. For a base without one (not instruct), set model.chat_template",
            );
            taken(moving, "type", "alpaca")
        }
        "completion" | "pretrain" => {
            if let Some(key) = ["field", "text_column"]
                .into_iter()
                .find(|key| text(key).is_some_and(|f| f != "text"))
            {
                moving.ask(format!(
                    "rename \"{}\" in the rows to \"text\"",
                    text(key).unwrap_or_default()
                ));
            }
            for key in ["field", "text_column"]
                .into_iter()
                .filter(|key| item.contains_key(*key))
            {
                moving.needless(&at(key), "text is under \"text\"");
            }
            taken(moving, "type", "text")
        }
        "sharegpt" => taken(moving, "type", "sharegpt"),
        "chat_template" => return conversations(moving, place, item),
        "" => None,
        other => {
            moving.drop(
                &at("type"),
                format!("no format {other}: data.format = \"auto\" looks at the rows' keys"),
            );
            moving.ask(format!(
                "rows of type {other} may need to be rewritten, as {{\"prompt\": …, \"response\": …}} or messages: \
                 `tune data check CONFIG` says"
            ));
            None
        }
    };
    for key in ["field_human", "field_model", "field_messages"]
        .into_iter()
        .filter(|key| item.contains_key(*key))
    {
        moving.drop(&at(key), "sharegpt rows have conversations of from and value");
    }
    format
}

/// Messages, under whichever names.
fn conversations(moving: &mut Move, place: &str, item: &Map<String, Value>) -> Option<&'static str> {
    let at = |key: &str| format!("{place}.{key}");
    let text = |key: &str| item.get(key).and_then(Value::as_str);
    let mapped = |key: &str| {
        item.get("message_property_mappings")
            .and_then(|map| map.get(key))
            .and_then(Value::as_str)
    };
    let list = text("field_messages").unwrap_or("messages");
    let role = mapped("role").or(text("message_field_role")).unwrap_or("role");
    let content = mapped("content").or(text("message_field_content")).unwrap_or("content");
    let format = match (list, role, content) {
        ("messages", "role", "content") => Some("messages"),
        ("conversations", "from", "value") => Some("sharegpt"),
        _ => None,
    };
    let keys = [
        "type",
        "field_messages",
        "message_field_role",
        "message_field_content",
        "message_property_mappings",
    ];
    for key in keys
        .into_iter()
        .filter(|key| item.get(*key).is_some_and(|value| !value.is_null()))
    {
        let found = moving.found(&at(key));
        let fate = match format {
            Some(format) => super::Fate::Taken(format!("data.format = {format:?}")),
            None => {
                super::Fate::Dropped("rows are messages of role and content, or conversations of from and value".into())
            }
        };
        moving.note(&at(key), found, fate);
    }
    if format.is_none() {
        moving.ask(format!(
            "rename the rows' keys: \"{list}\" to \"messages\", in it \"{role}\" to \"role\" and \"{content}\" to \
             \"content\""
        ));
    }
    format.or(Some("messages"))
}

/// A prompt made of fields.
fn own_prompt(moving: &mut Move, place: &str, custom: &Map<String, Value>) -> Option<&'static str> {
    let at = |key: &str| format!("{place}.{key}");
    let text = |key: &str| custom.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let prompt = text("field_instruction").unwrap_or("instruction");
    let response = text("field_output").unwrap_or("output");
    moving.put(&at("field_instruction"), "data.prompt_key", prompt.into());
    moving.put(&at("field_output"), "data.response_key", response.into());
    for (key, value) in custom {
        match key.as_str() {
            _ if is_off(value) => moving.off(&at(key)),
            "field_instruction" => moving.take(&at(key), "data.prompt_key", value),
            "field_output" => moving.take(&at(key), "data.response_key", value),
            "system_prompt" => moving.take(&at(key), "data.system", value),
            "field_system" if value == "system" => moving.needless(&at(key), "\"system\" is where it is read"),
            "field_system" | "field_input" => {
                moving.drop(&at(key), "a row has a prompt, a response and perhaps \"system\"");
                moving.ask(format!(
                    "write what is in \"{}\" into the prompts of the rows",
                    super::short(value)
                ));
            }
            "format" | "no_input_format" | "system_format" => {
                moving.drop(&at(key), "prompts are written by the chat template");
                moving.ask(
                    "prompts had a format of their own: put those words into the prompts of the rows, or into a Jinja \
                     file for model.chat_template",
                );
            }
            _ => {}
        }
    }
    Some("prompt-response")
}
