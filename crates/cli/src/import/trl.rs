//! TRL: `trl sft --config` (checked against SFTConfig, ModelConfig and ScriptArguments of 2026), and the recipes of the
//! alignment handbook.
use super::common::*;
use super::transformers::{self, ARGUMENTS};
use super::{Fate, Move, Rival, Rule::*, Table, is_off, short};
use crate::args::Rival as Name;
use serde_json::Value;

pub const TRL: Rival = Rival {
    name: Name::Trl,
    title: "TRL",
    signs: &[
        "use_peft",
        "dataset_name",
        "dataset_mixture",
        "dataset_mixer",
        "dataset_train_split",
        "dataset_text_field",
        "torch_dtype",
        "dtype",
        "max_length",
        "assistant_only_loss",
        "completion_only_loss",
        "dataset_num_proc",
        "lora_task_type",
        "model_init_kwargs",
    ],
    base: "model_name_or_path",
    rules: &[RULES, DATASETS, ARGUMENTS],
    finish,
    defaults: &[
        transformers::DEFAULT_SCHEDULE,
        transformers::DEFAULT_WARMUP,
        transformers::DEFAULT_BATCH,
        transformers::DEFAULT_ACCUMULATION,
        ("train.learning_rate", "2e-5"),
        ("data.packing", "false"),
        ("data.validation", "0.0"),
        ("data.response_key", "\"completion\""),
        ("lora.dropout", "0.05"),
    ],
};

const SFT_INSTEAD: &str = "train on the chosen answers, by a config of `trl sft`";
const NOT_SFT: &str = "this is no config of `trl sft`: tune trains on answers, not on preferences or rewards";

const RULES: Table = &[
    ("model_name_or_path", Same("model.base")),
    ("model_revision", Same("model.revision")),
    ("model_code_revision", REMOTE_CODE),
    ("dtype", With),
    ("torch_dtype", With),
    ("model_init_kwargs", LOADING),
    ("trust_remote_code", REMOTE_CODE),
    ("attn_implementation", COMPUTING),
    ("use_flash_attention_2", COMPUTING),
    ("use_peft", With),
    ("lora_r", Same("lora.r")),
    ("lora_alpha", Same("lora.alpha")),
    ("lora_dropout", Same("lora.dropout")),
    ("lora_target_modules", TARGETS),
    ("lora_target_parameters", Lost("adapters are on linears")),
    ("lora_modules_to_save", TO_SAVE),
    ("lora_task_type", Needless("tune trains language models")),
    ("use_rslora", Same("lora.rslora")),
    ("use_dora", DORA),
    ("load_in_4bit", With),
    ("load_in_8bit", With),
    ("bnb_4bit_quant_type", By(quant_type)),
    ("use_bnb_nested_quant", Needless("maxima are always quantized too")),
    ("bnb_4bit_quant_storage", LOADING),
    ("dataset_name", By(dataset_name)),
    ("dataset_config", With),
    ("dataset_train_split", With),
    ("dataset_test_split", With),
    ("dataset_streaming", STREAMING),
    ("streaming", STREAMING),
    ("dataset_mixture", With),
    ("dataset_mixer", By(mixer)),
    ("dataset_splits", Needless("says which files to write")),
    ("datasets", By(mixture)),
    ("test_split_size", By(validation_size)),
    ("ignore_bias_buffers", LOADING),
    ("gradient_checkpointing_use_reentrant", COMPUTING),
    ("preprocessing_num_workers", WORKERS),
    ("dataset_num_proc", WORKERS),
    ("dataset_batch_size", WORKERS),
    ("dataset_text_field", By(text_field)),
    ("dataset_kwargs", LOADING),
    ("shuffle_dataset", SHUFFLING),
    ("chat_template", By(chat_template)),
    ("chat_template_path", By(chat_template)),
    (
        "eos_token",
        Lost("the chat template says where an answer ends; `tune data show` shows it"),
    ),
    ("pad_token", PADDING),
    ("max_length", Same("data.max_length")),
    ("max_seq_length", Same("data.max_length")),
    ("truncation_mode", Needless("data.too_long cuts the end")),
    ("packing", Same("data.packing")),
    ("packing_strategy", By(strategy)),
    ("padding_free", PADDING),
    ("pad_to_multiple_of", PADDING),
    (
        "eval_packing",
        Needless("validation rows are packed as training rows are"),
    ),
    ("assistant_only_loss", With),
    ("completion_only_loss", With),
    ("loss_type", By(loss_type)),
    ("activation_offloading", COMPUTING),
    ("env", Lost("the environment is set where tune is started")),
    ("beta", Never(NOT_SFT, SFT_INSTEAD)),
    ("max_prompt_length", Never(NOT_SFT, SFT_INSTEAD)),
    ("reward_model_path", Never(NOT_SFT, SFT_INSTEAD)),
    ("reward_funcs", Never(NOT_SFT, SFT_INSTEAD)),
    ("num_generations", Never(NOT_SFT, SFT_INSTEAD)),
    ("ref_model", Never(NOT_SFT, SFT_INSTEAD)),
];

/// Read by [`mixture`].
const DATASETS: Table = &[
    ("dataset_mixture.datasets[].id", With),
    ("dataset_mixture.datasets[].config", With),
    ("dataset_mixture.datasets[].split", With),
    ("dataset_mixture.datasets[].columns", With),
    ("dataset_mixture.datasets[].weight", With),
    ("dataset_mixture.test_split_size", With),
    ("dataset_mixture.seed", With),
    ("datasets[].path", With),
    ("datasets[].name", With),
    ("datasets[].split", With),
    ("datasets[].data_files", With),
    ("datasets[].columns", With),
];

fn finish(moving: &mut Move) {
    if moving.is_on("use_peft") {
        moving.needless("use_peft", "LoRA is what tune trains");
    } else {
        let found = moving
            .get("use_peft")
            .map_or("no `use_peft`".into(), |value| format!("`use_peft: {}`", short(value)));
        moving.refusals.push((
            format!("{found}: TRL would train all weights, tune trains adapters"),
            "say `use_peft: true`, and a learning rate of 1e-4 to 2e-4, as is usual for LoRA".into(),
        ));
    }
    check_base(moving, "model_name_or_path");
    for key in ["dtype", "torch_dtype"] {
        if let Some(value) = moving.get(key).cloned() {
            match moving.is_on("bf16") || moving.is_on("fp16") {
                true => moving.needless(key, "bf16 or fp16 says it"),
                false => half(moving, key, &value),
            }
        }
    }
    bits(moving, "load_in_4bit", "load_in_8bit");
    if !moving.is_on("lora_target_modules") {
        unnamed_targets(moving);
    }
    if let Some(list) = moving.get("dataset_mixture.datasets").cloned() {
        mixture(moving, "dataset_mixture.datasets", &list);
    }
    if let Some(value) = moving.get("dataset_mixture.test_split_size").cloned() {
        validation_size(moving, "dataset_mixture.test_split_size", &value);
    }
    if moving.get("dataset_mixture.seed").is_some() {
        moving.needless("dataset_mixture.seed", "train.seed decides all");
    }
    learned(moving);
    splits(moving);
    transformers::finish(moving);
}

/// TRL learns whole conversations unless told otherwise, but only the completion of prompt/completion rows.
fn learned(moving: &mut Move) {
    let assistant = moving.is_on("assistant_only_loss");
    for key in ["assistant_only_loss", "completion_only_loss"] {
        match moving.get(key) {
            Some(value) if is_off(value) && (assistant || key == "assistant_only_loss") => moving.off(key),
            Some(value) => {
                let learn = if is_off(value) { "all" } else { "assistant" };
                moving.change(
                    key,
                    "data.learn",
                    learn,
                    if learn == "all" { "prompts too" } else { "answers alone" },
                );
            }
            None => {}
        }
    }
    if !moving.values.contains_key("data.learn") {
        moving.default("data.learn", "\"all\"", "TRL for messages and text");
        moving.ask(
            "TRL learns prompts too unless told otherwise, except of prompt/completion rows: for those, or if answers \
             alone should be learned, set data.learn = \"assistant\"",
        );
    }
}

/// Held-back rows of the hub, where the config evaluates.
fn splits(moving: &mut Move) {
    let evaluates = ["eval_strategy", "evaluation_strategy"]
        .iter()
        .any(|key| moving.is_on(key));
    let name = moving.text("dataset_name");
    if let (Some(name), true, true) = (name, evaluates, moving.data.validation.is_empty()) {
        let split = moving.text("dataset_test_split").unwrap_or("test".into());
        let file = local_file(moving, &name, moving.text("dataset_config").as_deref(), Some(&split));
        if file != name {
            moving.data.validation.push(file);
        }
    }
    for key in ["dataset_config", "dataset_train_split", "dataset_test_split"] {
        if moving.get(key).is_some() {
            moving.needless(key, "says which files to write");
        }
    }
}

fn dataset_name(moving: &mut Move, key: &str, value: &Value) {
    let Some(id) = value.as_str() else {
        return moving.mistyped(key, value, "the name of a data set");
    };
    let (subset, split) = (moving.text("dataset_config"), moving.text("dataset_train_split"));
    add(moving, key, id, subset.as_deref(), split.as_deref(), 1.0);
}

/// Notes where the training data of `key` went.
fn add(moving: &mut Move, key: &str, id: &str, subset: Option<&str>, split: Option<&str>, weight: f64) {
    let file = local_file(moving, id, subset, split);
    let to = format!("data.train = {file:?}");
    let fate = if file == id {
        Fate::Taken(to)
    } else {
        let why = "tune reads files".to_string();
        Fate::Changed { to, why }
    };
    moving.note(key, id, fate);
    moving.data.train.push((file, weight));
}

/// `id` (or `path`) with its subset, split, columns and weight.
fn mixture(moving: &mut Move, key: &str, value: &Value) {
    let Some(items) = value.as_array() else {
        return moving.mistyped(key, value, "a list of data sets");
    };
    for (index, item) in items.iter().enumerate() {
        let at = |name: &str| format!("{key}[{index}].{name}");
        let text = |name: &str| item.get(name).and_then(Value::as_str);
        let name = if item.get("id").is_some() { "id" } else { "path" };
        let weight = item.get("weight").and_then(Value::as_f64).unwrap_or(1.0);
        let files = item.get("data_files").map(words).unwrap_or_default();
        match (files.first(), text(name)) {
            (Some(_), _) => {
                moving.note(
                    &at("data_files"),
                    files.join(", "),
                    Fate::Taken(format!("data.train = {files:?}")),
                );
                moving.data.train.extend(files.into_iter().map(|file| (file, weight)));
                if item.get(name).is_some() {
                    moving.needless(&at(name), "data_files names the files");
                }
            }
            (None, Some(id)) => {
                add(
                    moving,
                    &at(name),
                    id,
                    text("config").or(text("name")).filter(|c| *c != "default"),
                    text("split"),
                    weight,
                );
            }
            (None, None) => moving
                .problems
                .push(format!("`{}` is not there, wanted a data set", at(name))),
        }
        for (name, value) in item.as_object().into_iter().flatten() {
            match name.as_str() {
                "config" | "name" | "split" | "data_dir" => moving.needless(&at(name), "says which file to write"),
                "weight" => {
                    let shown = format!("data.train = [{{ weight = {} }}]", shown(value));
                    moving.note(&at(name), short(value), Fate::Taken(shown));
                }
                "columns" => columns(moving, &at(name), value),
                _ => {}
            }
        }
    }
}

/// Rows are known by their keys.
fn columns(moving: &mut Move, key: &str, value: &Value) {
    let names = words(value);
    let format = match names.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["messages"] => Some("messages"),
        ["text"] => Some("text"),
        _ => None,
    };
    match format {
        Some(format) => {
            moving.note(key, names.join(", "), Fate::Taken(format!("data.format = {format:?}")));
            moving.data.formats.push(Some(format));
        }
        None => moving.needless(key, "rows are known by their keys"),
    }
}

/// The handbook's older form: name to share; what is split off for tests validates.
fn mixer(moving: &mut Move, key: &str, value: &Value) {
    let splits = moving.get("dataset_splits").map(words).unwrap_or_default();
    let splits = if splits.is_empty() {
        vec!["train".to_string()]
    } else {
        splits
    };
    let mut files = Vec::new();
    for (id, weight) in value.as_object().into_iter().flatten() {
        for split in &splits {
            let file = local_file(moving, id, None, Some(split));
            files.push(file.clone());
            match split.starts_with("test") {
                true => moving.data.validation.push(file),
                false => moving.data.train.push((file, weight.as_f64().unwrap_or(1.0))),
            }
        }
    }
    let to = format!("data.train and data.validation = {files:?}");
    let why = "tune reads files".to_string();
    moving.note(key, short(value), Fate::Changed { to, why });
    if !value.is_object() {
        moving.mistyped(key, value, "names of data sets, each with a share");
    }
}

fn text_field(moving: &mut Move, key: &str, value: &Value) {
    if value != "text" {
        moving.ask(format!(
            "if the rows are plain text, rename \"{}\" in them to \"text\"",
            short(value)
        ));
    }
    moving.needless(key, "text is under \"text\"");
}

fn strategy(moving: &mut Move, key: &str, value: &Value) {
    match value.as_str() {
        Some("bfd") => moving.needless(key, "best fit is how tune packs"),
        Some("bfd_split" | "bfd-split" | "bfd-requeue") => {
            moving.change(
                key,
                "data.too_long",
                "split",
                "what is longer than a row goes on in the next",
            );
        }
        Some("wrapped") => moving.change(key, "data.too_long", "split", "best fit, with long records split"),
        _ => moving.mistyped(key, value, "bfd, bfd_split or wrapped"),
    }
}

fn quant_type(moving: &mut Move, key: &str, value: &Value) {
    match value.as_str() {
        Some("nf4") => moving.needless(key, "4 bits are NF4"),
        _ => moving.drop(key, "4 bits are NF4"),
    }
}

fn loss_type(moving: &mut Move, key: &str, value: &Value) {
    match value.as_str() {
        Some("nll" | "chunked_nll") => moving.needless(key, "the same loss, in chunks"),
        Some("dft") => moving.drop(key, "the loss is the cross-entropy of what is learned"),
        _ => moving.refuse(key, value, NOT_SFT, SFT_INSTEAD),
    }
}
