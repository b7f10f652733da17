//! LLaMA-Factory (checked against src/llamafactory/hparams of 2026).
use super::common::*;
use super::transformers::{self, ARGUMENTS};
use super::{Fate, Move, Rival, Rule::*, Table, is_off};
use crate::args::Rival as Name;
use serde_json::Value;
use std::path::Path;

pub const LLAMA_FACTORY: Rival = Rival {
    name: Name::Llamafactory,
    title: "LLaMA-Factory",
    signs: &[
        "stage",
        "finetuning_type",
        "lora_rank",
        "lora_target",
        "cutoff_len",
        "template",
        "dataset_dir",
        "do_train",
        "quantization_bit",
        "val_size",
        "neat_packing",
    ],
    base: "model_name_or_path",
    rules: &[RULES, ARGUMENTS],
    finish,
    defaults: &[
        transformers::DEFAULT_SCHEDULE,
        transformers::DEFAULT_WARMUP,
        transformers::DEFAULT_BATCH,
        transformers::DEFAULT_ACCUMULATION,
        ("train.learning_rate", "5e-5"),
        ("data.max_length", "2048"),
        ("data.packing", "false"),
        ("data.validation", "0.0"),
        ("lora.r", "8"),
    ],
};

const SFT_INSTEAD: &str = "train on the answers that are wanted, by `stage: sft`";

const RULES: Table = &[
    ("model_name_or_path", Same("model.base")),
    ("model_revision", Same("model.revision")),
    ("adapter_name_or_path", Same("lora.adapter")),
    ("adapter_folder", Lost("name the folder whole, in lora.adapter")),
    (
        "create_new_adapter",
        Lost("merge the old one by `tune export OLD --merged DIR` and take DIR as model.base"),
    ),
    ("cache_dir", Needless("the hub's cache is where HF_HOME says")),
    ("use_fast_tokenizer", LOADING),
    ("split_special_tokens", LOADING),
    ("low_cpu_mem_usage", LOADING),
    ("trust_remote_code", REMOTE_CODE),
    ("hf_hub_token", Needless("HF_TOKEN is taken from the environment")),
    ("ms_hub_token", HUB),
    ("resize_vocab", NEW_TOKENS),
    ("add_tokens", NEW_TOKENS),
    ("add_special_tokens", NEW_TOKENS),
    ("new_special_tokens_config", NEW_TOKENS),
    ("rope_scaling", Lost("positions are as the base's config.json says")),
    ("flash_attn", COMPUTING),
    ("shift_attn", Lost("attention is over the whole row")),
    ("mixture_of_depths", Lost("the model stays as it is")),
    ("use_unsloth", COMPUTING),
    ("use_unsloth_gc", COMPUTING),
    ("enable_liger_kernel", COMPUTING),
    ("disable_gradient_checkpointing", COMPUTING),
    ("use_reentrant_gc", COMPUTING),
    ("upcast_layernorm", COMPUTING),
    ("upcast_lmhead_output", COMPUTING),
    ("use_kv_cache", COMPUTING),
    ("use_v1_kernels", COMPUTING),
    ("pure_bf16", By(half)),
    ("quantization_bit", By(quantization)),
    ("quantization_method", By(method)),
    ("quantization_type", By(quantization_type)),
    ("double_quantization", Needless("maxima are always quantized too")),
    ("quantization_device_map", LOADING),
    ("fp8", COMPUTING),
    ("stage", By(stage)),
    ("do_train", By(do_train)),
    ("do_predict", With),
    (
        "predict_with_generate",
        Lost("`tune generate --prompts` answers prompts"),
    ),
    ("finetuning_type", By(finetuning_type)),
    ("lora_rank", Same("lora.r")),
    ("lora_alpha", Same("lora.alpha")),
    ("lora_dropout", Same("lora.dropout")),
    ("lora_target", TARGETS),
    ("additional_target", TO_SAVE),
    ("loraplus_lr_ratio", Same("train.loraplus_ratio")),
    ("loraplus_lr_embedding", Needless("embeddings have no adapter")),
    ("use_rslora", Same("lora.rslora")),
    ("use_dora", DORA),
    ("pissa_init", START),
    ("pissa_iter", START),
    ("pissa_convert", Needless("what is exported is always a plain adapter")),
    ("use_galore", RATES),
    ("use_apollo", RATES),
    ("use_badam", RATES),
    ("badam_mode", RATES),
    ("badam_switch_mode", RATES),
    ("badam_switch_interval", RATES),
    ("badam_verbose", RATES),
    ("use_adam_mini", RATES),
    ("use_muon", RATES),
    ("use_dft_loss", LOSS),
    (
        "use_llama_pro",
        Never(
            "tune adds no blocks",
            "remove it to train an adapter on the blocks there are",
        ),
    ),
    ("pref_beta", Needless("of preferences alone")),
    ("pref_loss", Needless("of preferences alone")),
    ("pref_ftx", Needless("of preferences alone")),
    ("freeze_vision_tower", VISION),
    ("freeze_multi_modal_projector", VISION),
    ("image_max_pixels", VISION),
    ("video_max_pixels", VISION),
    ("media_dir", VISION),
    ("dataset", By(dataset)),
    ("eval_dataset", By(eval_dataset)),
    ("dataset_dir", With),
    ("template", By(template)),
    (
        "enable_thinking",
        Lost("the chat template says what is done about thinking"),
    ),
    ("default_system", Same("data.system")),
    ("tool_format", Lost("the chat template writes tools")),
    ("cutoff_len", Same("data.max_length")),
    ("train_on_prompt", By(learn_prompts)),
    ("mask_history", By(mask_history)),
    ("streaming", STREAMING),
    ("buffer_size", STREAMING),
    (
        "mix_strategy",
        Lost("files are joined; data.train takes a weight for each"),
    ),
    ("interleave_probs", Lost("data.train takes a weight for each file")),
    ("overwrite_cache", CACHING),
    ("tokenized_path", CACHING),
    ("preprocessing_batch_size", WORKERS),
    ("preprocessing_num_workers", WORKERS),
    ("max_samples", COUNT),
    ("val_size", By(validation_size)),
    ("eval_on_each_dataset", Lost("there is one validation loss")),
    ("packing", Same("data.packing")),
    ("neat_packing", By(neat_packing)),
    ("ignore_pad_token_for_loss", PADDING),
    ("disable_shuffling", Lost("rows come in an order that train.seed gives")),
    ("early_stopping_steps", Same("train.early_stopping")),
    ("compute_accuracy", LOGGING),
    ("plot_loss", LOGGING),
    ("include_effective_tokens_per_second", LOGGING),
    ("use_swanlab", TRACKERS),
    ("swanlab_project", TRACKERS),
    ("swanlab_run_name", TRACKERS),
    ("ray_run_name", DEVICES),
    ("ray_storage_path", DEVICES),
    ("ray_num_workers", DEVICES),
    ("resources_per_worker", DEVICES),
    ("placement_strategy", DEVICES),
    ("use_kt", DEVICES),
    ("export_dir", Needless("`tune export` writes what can be")),
];

fn finish(moving: &mut Move) {
    check_base(moving, "model_name_or_path");
    if moving.is_on("do_predict") && !moving.is_on("do_train") {
        let value = Value::Bool(true);
        moving.refuse(
            "do_predict",
            &value,
            "this answers prompts, it trains nothing",
            "`tune generate --prompts FILE`",
        );
    } else if moving.get("do_predict").is_some() {
        moving.drop("do_predict", "`tune generate --prompts` answers prompts");
    }
    if moving.get("lora_alpha").is_none() {
        let r = moving.number("lora_rank").unwrap_or(8.0);
        moving.default("lora.alpha", &format!("{:?}", 2.0 * r), "LLaMA-Factory");
    }
    if moving.text("stage").as_deref() == Some("pt") && !moving.values.contains_key("data.packing") {
        moving.put("stage", "data.packing", true.into());
    }
    if moving.get("dataset_dir").is_some() {
        moving.needless("dataset_dir", "files are named whole");
    }
    transformers::finish(moving);
}

fn stage(moving: &mut Move, key: &str, value: &Value) {
    match value.as_str() {
        Some("sft") => moving.needless(key, "training on answers is what tune does"),
        Some("pt") => moving.change(key, "data.format", "text", "plain text, all of it learned"),
        _ => moving.refuse(
            key,
            value,
            "tune trains on answers, not on preferences or rewards",
            SFT_INSTEAD,
        ),
    }
}

fn do_train(moving: &mut Move, key: &str, value: &Value) {
    match value {
        Value::Bool(true) => moving.needless(key, "`tune train` trains"),
        _ => moving.refuse(
            key,
            value,
            "this trains nothing",
            "`tune eval` and `tune generate` use an adapter",
        ),
    }
}

fn finetuning_type(moving: &mut Move, key: &str, value: &Value) {
    match value.as_str() {
        Some("lora") => moving.needless(key, "LoRA is what tune trains"),
        _ => moving.refuse(
            key,
            value,
            "tune trains LoRA adapters alone",
            "say `finetuning_type: lora`; a learning rate ten times higher than for all weights is usual",
        ),
    }
}

fn quantization(moving: &mut Move, key: &str, value: &Value) {
    match moving.number(key) {
        Some(4.0) => moving.take(key, "model.quantize", &"nf4".into()),
        Some(8.0) => moving.take(key, "model.quantize", &"int8".into()),
        Some(_) => moving.change(key, "model.quantize", "nf4", "4 or 8 bits"),
        None => moving.mistyped(key, value, "4 or 8"),
    }
}

fn method(moving: &mut Move, key: &str, value: &Value) {
    match value.as_str() {
        Some("bnb" | "bitsandbytes") => moving.needless(key, "codes and maxima are bitsandbytes' own"),
        _ => moving.drop(key, "NF4 and int8 as bitsandbytes has them"),
    }
}

fn quantization_type(moving: &mut Move, key: &str, value: &Value) {
    match value.as_str() {
        Some("nf4") => moving.needless(key, "4 bits are NF4"),
        _ => moving.drop(key, "4 bits are NF4"),
    }
}

fn template(moving: &mut Move, key: &str, value: &Value) {
    match value.as_str() {
        Some("default" | "empty") | None => moving.needless(key, "the base's own template is used"),
        Some(_) => chat_template(moving, key, value),
    }
}

fn mask_history(moving: &mut Move, key: &str, value: &Value) {
    if is_off(value) {
        return moving.off(key);
    }
    moving.change(key, "data.learn", "last-turn", "the last answer alone");
}

fn neat_packing(moving: &mut Move, key: &str, value: &Value) {
    if is_off(value) {
        return moving.off(key);
    }
    moving.change(key, "data.packing", true, "records of a row never see each other");
}

fn dataset(moving: &mut Move, key: &str, value: &Value) {
    let names = words(value);
    if names.is_empty() {
        return moving.mistyped(key, value, "names of data sets");
    }
    let files: Vec<_> = names.iter().map(|name| file(moving, name, true)).collect();
    noted(moving, key, "data.train", &names, &files);
    moving.data.train.extend(files.into_iter().map(|file| (file, 1.0)));
}

fn eval_dataset(moving: &mut Move, key: &str, value: &Value) {
    let names = words(value);
    if names.is_empty() {
        return moving.off(key);
    }
    let files: Vec<_> = names.iter().map(|name| file(moving, name, false)).collect();
    noted(moving, key, "data.validation", &names, &files);
    moving.data.validation.extend(files);
}

fn noted(moving: &mut Move, key: &str, path: &str, names: &[String], files: &[String]) {
    let to = format!("{path} = {files:?}");
    let why = "names of dataset_info.json as files".to_string();
    moving.note(key, names.join(", "), Fate::Changed { to, why });
}

/// What dataset_info.json says of a name, or a guess where there is none.
fn file(moving: &mut Move, name: &str, train: bool) -> String {
    let folder = moving.text("dataset_dir").unwrap_or("data".into());
    let Some(info) = info(moving, &folder, name) else {
        let file = format!("{folder}/{name}.json");
        moving.ask(format!(
            "there is no {folder}/dataset_info.json that knows {name}: see whether it is {file}, and correct data.train"
        ));
        if train {
            moving.data.formats.push(None);
        }
        return file;
    };
    if info["ranking"] == true || !info["columns"]["kto_tag"].is_null() {
        let value = name.into();
        moving.refuse("dataset", &value, "these are preferences, not answers", SFT_INSTEAD);
    }
    if ["images", "videos", "audios"]
        .iter()
        .any(|kind| !info["columns"][*kind].is_null())
    {
        moving.ask(format!("{name} has images, video or sound: tune reads its text alone"));
    }
    if train {
        let format = format(moving, name, &info);
        moving.data.formats.push(format);
    }
    match (info["file_name"].as_str(), info["hf_hub_url"].as_str()) {
        (Some(file), _) => format!("{folder}/{file}"),
        (None, Some(id)) => local_file(moving, id, info["subset"].as_str(), info["split"].as_str()),
        (None, None) => format!("{folder}/{name}.json"),
    }
}

fn info(moving: &Move, folder: &str, name: &str) -> Option<Value> {
    let places = [Path::new(folder).to_path_buf(), moving.folder.join(folder)];
    let text = places
        .iter()
        .find_map(|place| fs_err::read_to_string(place.join("dataset_info.json")).ok())?;
    let all: Value = serde_json::from_str(&text).ok()?;
    all.get(name).cloned()
}

fn format(moving: &mut Move, name: &str, info: &Value) -> Option<&'static str> {
    let column = |key: &str| info["columns"][key].as_str();
    let tag = |key: &str, default: &'static str| info["tags"][key].as_str().unwrap_or(default).to_string();
    if moving.text("stage").as_deref() == Some("pt") {
        if let Some(other) = column("prompt").filter(|column| *column != "text") {
            moving.ask(format!("rename \"{other}\" in the rows of {name} to \"text\""));
        }
        return Some("text");
    }
    if info["formatting"] == "sharegpt" || info["formatting"] == "openai" {
        let list = column("messages").unwrap_or("conversations").to_string();
        let (role, content) = (tag("role_tag", "from"), tag("content_tag", "value"));
        return match (list.as_str(), role.as_str(), content.as_str()) {
            ("conversations", "from", "value") => Some("sharegpt"),
            ("messages", "role", "content") => Some("messages"),
            _ => {
                moving.ask(format!(
                    "rename keys in the rows of {name}: \"{list}\" to \"messages\", in it \"{role}\" to \"role\" and \
                     \"{content}\" to \"content\""
                ));
                Some("messages")
            }
        };
    }
    match (column("prompt"), column("response"), column("query")) {
        (None | Some("instruction"), None | Some("output"), None | Some("input")) => Some("alpaca"),
        (prompt, response, query) => {
            moving.put("dataset", "data.prompt_key", prompt.unwrap_or("instruction").into());
            moving.put("dataset", "data.response_key", response.unwrap_or("output").into());
            if let Some(query) = query {
                moving.ask(format!(
                    "write what is in \"{query}\" of {name} into the prompts of the rows"
                ));
            }
            Some("prompt-response")
        }
    }
}
