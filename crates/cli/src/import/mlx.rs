//! mlx-lm: `mlx_lm.lora --config` (checked against mlx_lm/lora.py and tuner/ of 2026).
use super::common::*;
use super::{Fate, Move, Rival, Rule::*, Table, is_off, short};
use crate::args::Rival as Name;
use serde_json::Value;

pub const MLX: Rival = Rival {
    name: Name::Mlx,
    title: "mlx-lm",
    signs: &[
        "lora_parameters",
        "iters",
        "adapter_path",
        "steps_per_eval",
        "steps_per_report",
        "fine_tune_type",
        "val_batches",
        "num_layers",
        "lora_layers",
        "mask_prompt",
        "grad_checkpoint",
        "hf_dataset",
        "resume_adapter_file",
    ],
    base: "model",
    rules: &[RULES],
    finish,
    defaults: &[
        ("data.max_length", "2048"),
        ("data.packing", "false"),
        ("data.learn", "\"all\""),
        ("lora.r", "8"),
        ("train.batch_size", "4"),
        ("train.grad_accumulation", "1"),
        ("train.learning_rate", "1e-5"),
        ("train.schedule", "\"constant\""),
        ("train.warmup_ratio", "0.0"),
        ("train.max_grad_norm", "0.0"),
        ("train.seed", "0"),
        ("output.dir", "\"adapters\""),
    ],
};

const RULES: Table = &[
    ("model", Same("model.base")),
    ("train", By(train)),
    ("test", Lost("`tune eval` compares answers after training")),
    ("test_batches", Needless("of `test` alone")),
    ("fine_tune_type", By(fine_tune_type)),
    ("train_mode", By(training_mode)),
    ("training_mode", By(training_mode)),
    ("data", With),
    ("hf_dataset", By(hf_dataset)),
    ("mask_prompt", By(mask_prompt)),
    ("num_layers", By(num_layers)),
    ("lora_layers", By(num_layers)),
    ("lora_parameters.rank", Same("lora.r")),
    ("lora_parameters.scale", With),
    ("lora_parameters.alpha", Needless("mlx-lm reads `scale` alone")),
    ("lora_parameters.dropout", Same("lora.dropout")),
    ("lora_parameters.keys", With),
    ("iters", With),
    ("batch_size", Same("train.batch_size")),
    ("grad_accumulation_steps", Same("train.grad_accumulation")),
    ("learning_rate", With),
    ("lr_schedule.name", With),
    ("lr_schedule.arguments", With),
    ("lr_schedule.warmup", With),
    ("lr_schedule.warmup_init", With),
    ("optimizer", OPTIMIZER),
    ("optimizer_config", With),
    ("max_seq_length", Same("data.max_length")),
    ("seed", Same("train.seed")),
    ("val_batches", Needless("all of the validation rows are evaluated")),
    ("steps_per_eval", With),
    ("save_every", With),
    ("steps_per_report", LOGGING),
    ("adapter_path", Same("output.dir")),
    (
        "resume_adapter_file",
        Lost("lora.adapter takes adapters in PEFT's layout alone"),
    ),
    ("grad_checkpoint", COMPUTING),
    ("clear_cache_threshold", COMPUTING),
    ("wandb", TRACKERS),
    ("report_to", By(super::transformers::report_to)),
    ("project_name", TRACKERS),
    ("config", Needless("the name of this file")),
];

fn finish(moving: &mut Move) {
    check_base(moving, "model");
    if moving.get("num_layers").is_none() && moving.get("lora_layers").is_none() {
        last_blocks(moving, 16);
    }
    scale(moving);
    match moving.get("lora_parameters.keys").cloned() {
        Some(keys) => moving.apply("lora_parameters.keys", &keys, TARGETS),
        None => unnamed_targets(moving),
    }
    steps(moving);
    schedule(moving);
    adam(moving);
    data(moving);
}

/// Where mlx-lm counts micro-batches, tune counts steps of `grad_accumulation_steps` of them.
fn steps(moving: &mut Move) {
    let window = moving.number("grad_accumulation_steps").unwrap_or(1.0).max(1.0);
    let places = [
        ("iters", "train.max_steps", 1000.0),
        ("steps_per_eval", "train.eval_every", 200.0),
        ("save_every", "train.save_every", 100.0),
    ];
    for (key, path, default) in places {
        match (moving.get(key).cloned(), moving.number(key)) {
            (None, _) => moving.default(path, &format!("{}", (default / window).ceil() as i64), "mlx-lm"),
            (Some(value), Some(_)) if window == 1.0 => moving.take(key, path, &value),
            (Some(_), Some(iters)) => {
                let why = format!("steps, each of {window} iterations");
                moving.change(key, path, (iters / window).ceil() as i64, why);
            }
            (Some(value), None) => moving.mistyped(key, &value, "a number of iterations"),
        }
    }
}

/// `scale` is `alpha / rank`.
fn scale(moving: &mut Move) {
    let rank = moving.number("lora_parameters.rank").unwrap_or(8.0);
    let key = "lora_parameters.scale";
    match (moving.get(key).cloned(), moving.number(key)) {
        (_, Some(scale)) => {
            moving.change(
                key,
                "lora.alpha",
                scale * rank,
                format!("scale is alpha / rank: {scale} x {rank}"),
            );
            if scale > 8.0 {
                moving.ask(format!(
                    "look at lora.alpha: a scale of {scale} is high; 1 to 2 (alpha = 2 r) is usual"
                ));
            }
        }
        (Some(value), None) => moving.mistyped(key, &value, "a number"),
        (None, None) => {
            moving.default("lora.alpha", &format!("{:?}", 20.0 * rank), "mlx-lm, scale 20");
            moving.ask("look at lora.alpha: mlx-lm's default scale of 20 is high; 1 to 2 (alpha = 2 r) is usual");
        }
    }
}

fn num_layers(moving: &mut Move, key: &str, value: &Value) {
    match moving.number(key) {
        Some(count) if count < 0.0 => moving.needless(key, "all blocks"),
        Some(count) => {
            if last_blocks(moving, count as usize) {
                let layers = moving
                    .values
                    .get("lora.layers")
                    .map(ToString::to_string)
                    .unwrap_or_default();
                let why = format!("the last {count} blocks");
                let found = short(value);
                moving.note(
                    key,
                    found,
                    Fate::Changed {
                        to: format!("lora.layers = {layers}"),
                        why,
                    },
                );
            } else {
                moving.drop(key, "how many blocks the base has is not known here");
            }
        }
        None => moving.mistyped(key, value, "a number of blocks, or -1 for all"),
    }
}

/// Sets the last `count` blocks where the base lies here, and asks for it otherwise.
fn last_blocks(moving: &mut Move, count: usize) -> bool {
    let base = moving.text("model").unwrap_or_default();
    let text = fs_err::read_to_string(std::path::Path::new(&base).join("config.json"));
    let config = text.ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
    match config.and_then(|config| config["num_hidden_layers"].as_u64()) {
        Some(blocks) => {
            let first = (blocks as usize).saturating_sub(count);
            let layers: Vec<_> = (first..blocks as usize)
                .map(|layer| toml::Value::from(layer as i64))
                .collect();
            // All of them is none named.
            moving.put(
                "num_layers",
                "lora.layers",
                if first == 0 { Vec::new() } else { layers }.into(),
            )
        }
        None => {
            moving.ask(format!(
                "mlx-lm puts adapters on the last {count} blocks alone: lora.layers = [] is all of them; to have the \
                 same, write the numbers of the last {count}"
            ));
            false
        }
    }
}

fn train(moving: &mut Move, key: &str, value: &Value) {
    match value.as_bool() {
        Some(true) => moving.needless(key, "`tune train` trains"),
        Some(false) => moving.refuse(
            key,
            value,
            "this trains nothing",
            "`tune eval` and `tune generate` use an adapter",
        ),
        None => moving.mistyped(key, value, "true or false"),
    }
}

fn fine_tune_type(moving: &mut Move, key: &str, value: &Value) {
    match value.as_str() {
        Some("lora") => moving.needless(key, "LoRA is what tune trains"),
        Some("dora") => moving.apply(key, value, DORA),
        _ => moving.refuse(
            key,
            value,
            "tune trains LoRA adapters alone",
            "say `fine_tune_type: lora`; a learning rate ten times higher than for all weights is usual",
        ),
    }
}

fn training_mode(moving: &mut Move, key: &str, value: &Value) {
    match value.as_str() {
        Some("normal" | "sft") => moving.needless(key, "training on answers is what tune does"),
        _ => moving.refuse(
            key,
            value,
            "tune trains on answers, not on preferences or rewards",
            "train on the chosen answers: remove it and give rows of messages",
        ),
    }
}

fn mask_prompt(moving: &mut Move, key: &str, value: &Value) {
    match value.as_bool() {
        Some(true) => moving.change(key, "data.learn", "last-turn", "the last answer alone"),
        Some(false) => moving.change(key, "data.learn", "all", "prompts too"),
        None => moving.mistyped(key, value, "true or false"),
    }
}

fn schedule(moving: &mut Move) {
    let Some(name) = moving.text("lr_schedule.name") else {
        if let Some(rate) = moving.get("learning_rate").cloned() {
            moving.take("learning_rate", "train.learning_rate", &rate);
        }
        return;
    };
    if moving.get("learning_rate").is_some() {
        moving.needless("learning_rate", "lr_schedule says it");
    }
    let arguments = moving
        .get("lr_schedule.arguments")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let numbers: Vec<f64> = arguments.iter().filter_map(Value::as_f64).collect();
    let ours = match name.as_str() {
        "cosine_decay" => "cosine",
        "linear_schedule" => "linear",
        other => {
            moving.ask(format!("look at the learning rate: the schedule {other} became cosine"));
            "cosine"
        }
    };
    moving.change("lr_schedule.name", "train.schedule", ours, "over all steps");
    let [peak, rest @ ..] = numbers.as_slice() else {
        let value = moving.get("lr_schedule.arguments").cloned().unwrap_or_default();
        return moving.mistyped(
            "lr_schedule.arguments",
            &value,
            "a list that begins with a learning rate",
        );
    };
    moving.change(
        "lr_schedule.arguments",
        "train.learning_rate",
        *peak,
        "the first of them; the last is where it ends",
    );
    let (steps, end) = match (ours, rest) {
        ("linear", [end, steps, ..]) => (*steps, *end),
        (_, [steps, end, ..]) => (*steps, *end),
        (_, [steps]) => (*steps, 0.0),
        (_, []) => (0.0, 0.0),
    };
    if end > 0.0 && *peak > 0.0 {
        moving.put(
            "lr_schedule.arguments",
            "train.min_lr_ratio",
            (end / peak).min(1.0).into(),
        );
    }
    let iters = moving.number("iters").unwrap_or(1000.0);
    if steps > 0.0 && steps < iters {
        moving.ask(format!(
            "the learning rate fell over {steps} of {iters} iterations there, and falls over all steps here"
        ));
    }
    let window = moving.number("grad_accumulation_steps").unwrap_or(1.0).max(1.0);
    match moving.number("lr_schedule.warmup") {
        Some(warmup) if warmup > 0.0 => {
            steps_as_share(
                moving,
                "lr_schedule.warmup",
                "train.warmup_ratio",
                (warmup / window).ceil(),
            );
        }
        Some(_) => moving.off("lr_schedule.warmup"),
        None => {}
    }
    if moving.get("lr_schedule.warmup_init").is_some() {
        moving.needless("lr_schedule.warmup_init", "the warm-up rises from 0");
    }
}

/// Settings of the optimizer that is used; those of others say nothing.
fn adam(moving: &mut Move) {
    let name = moving.text("optimizer").unwrap_or("adam".into()).to_ascii_lowercase();
    for (optimizer, settings) in moving
        .get("optimizer_config")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default()
    {
        let at = |key: &str| format!("optimizer_config.{optimizer}.{key}");
        if is_off(&settings) {
            moving.off(&format!("optimizer_config.{optimizer}"));
        } else if optimizer != name || !name.starts_with("adam") {
            moving.needless(&format!("optimizer_config.{optimizer}"), "of another optimizer");
        } else {
            for (key, value) in settings.as_object().into_iter().flatten() {
                match key.as_str() {
                    "betas" => moving.take(&at(key), "train.betas", value),
                    "eps" => moving.take(&at(key), "train.eps", value),
                    "weight_decay" => moving.take(&at(key), "train.weight_decay", value),
                    "bias_correction" if is_off(value) => moving.drop(&at(key), "AdamW corrects its bias"),
                    "bias_correction" => moving.needless(&at(key), "AdamW corrects its bias"),
                    _ => {}
                }
            }
        }
    }
    if name == "adamw" {
        moving.default("train.weight_decay", "0.01", "mlx-lm's adamw");
    }
}

/// A folder with train.jsonl and valid.jsonl, or a name of the hub.
fn data(moving: &mut Move) {
    let folder = match moving.get("data").cloned() {
        Some(Value::String(folder)) if moving.is_on("hf_dataset") => {
            return moving.needless("data", format!("hf_dataset is there, not {folder}"));
        }
        Some(Value::String(folder)) => folder,
        Some(other) => return moving.mistyped("data", &other, "a folder"),
        None if moving.is_on("hf_dataset") => return,
        None => "data".into(),
    };
    let local = folder.starts_with(['/', '.', '~']) || folder.matches('/').count() != 1 || folder.ends_with('/');
    let (train, valid) = if local {
        let folder = folder.trim_end_matches('/');
        (format!("{folder}/train.jsonl"), format!("{folder}/valid.jsonl"))
    } else {
        (
            local_file(moving, &folder, None, None),
            local_file(moving, &folder, None, Some("valid")),
        )
    };
    let to = format!("data.train = {train:?} and data.validation = {valid:?}");
    let why = "the files in it".to_string();
    if moving.get("data").is_some() {
        moving.note("data", folder, Fate::Changed { to, why });
    }
    moving.data.train.push((train, 1.0));
    moving.data.validation.push(valid);
    prompt_keys(moving, "prompt", "completion");
}

/// mlx-lm knows rows by prompt and completion.
fn prompt_keys(moving: &mut Move, prompt: &str, completion: &str) {
    moving.put("data", "data.prompt_key", prompt.into());
    moving.put("data", "data.response_key", completion.into());
}

/// One data set of the hub, or several.
fn hf_dataset(moving: &mut Move, key: &str, value: &Value) {
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
        let at = |name: &str| format!("{place}.{name}");
        let text = |name: &str| item.get(name).and_then(Value::as_str);
        let name = if item.get("path").is_some() { "path" } else { "name" };
        let Some(id) = text(name) else {
            moving
                .problems
                .push(format!("`{}` is not there, wanted a data set of the hub", at("path")));
            continue;
        };
        let train = local_file(moving, id, None, text("train_split").or(Some("train[:80%]")));
        let valid = local_file(moving, id, None, text("valid_split").or(Some("train[-10%:]")));
        let to = format!("data.train = {train:?} and data.validation = {valid:?}");
        moving.note(
            &at(name),
            id,
            Fate::Changed {
                to,
                why: "tune reads files".into(),
            },
        );
        moving.data.train.push((train, 1.0));
        moving.data.validation.push(valid);
        let (prompt, completion) = (text("prompt_feature"), text("completion_feature"));
        prompt_keys(moving, prompt.unwrap_or("prompt"), completion.unwrap_or("completion"));
        for (name, value) in item.as_object().into_iter().flatten() {
            match name.as_str() {
                "train_split" | "valid_split" | "config" => moving.needless(&at(name), "says which files to write"),
                "test_split" => moving.drop(&at(name), "`tune eval` compares answers after training"),
                "prompt_feature" => moving.take(&at(name), "data.prompt_key", value),
                "completion_feature" => moving.take(&at(name), "data.response_key", value),
                "chat_feature" | "text_feature" if value == "messages" || value == "text" => {
                    moving.needless(&at(name), "where it is read");
                }
                "chat_feature" | "text_feature" => {
                    let wanted = if name == "chat_feature" { "messages" } else { "text" };
                    moving.drop(&at(name), "rows have messages, or text");
                    moving.ask(format!("rename \"{}\" in the rows to \"{wanted}\"", short(value)));
                }
                _ => {}
            }
        }
    }
}
