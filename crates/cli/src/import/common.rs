//! What several rivals have in common: data files, targets, schedules, steps.
use super::{Fate, Move, Rule, is_off, plain, short};
use serde_json::Value;
use std::path::Path;

pub const COMPUTING: Rule =
    Rule::Needless("how it is computed: tune picks kernels, and what stays in memory, by itself");
pub const LOADING: Rule = Rule::Needless("how Python loads things");
pub const PADDING: Rule = Rule::Needless("tune has no padding");
pub const CACHING: Rule = Rule::Needless("tokenized data is kept by data.cache");
pub const WORKERS: Rule = Rule::Needless("all cores are used");
pub const LOGGING: Rule = Rule::Needless("every step is in metrics.jsonl and in TensorBoard's files");
pub const BEST: Rule = Rule::Needless("the best checkpoint, by validation loss, is always kept");
pub const SHUFFLING: Rule = Rule::Needless("rows come in an order that train.seed gives");
pub const EVAL_BATCH: Rule = Rule::Needless("no answer depends on it");
pub const OVERWRITE: Rule = Rule::Needless("a run folder that exists is replaced by `tune train --force` alone");
pub const TRACKERS: Rule = Rule::Lost("no such tracker: the run's folder has TensorBoard files and metrics.jsonl");
pub const HUB: Rule = Rule::Lost("nothing is uploaded: `tune export` writes what can be");
pub const REMOTE_CODE: Rule =
    Rule::Lost("no code of a model is run: `tune train --dry-run` says whether its family is known");
pub const STREAMING: Rule = Rule::Lost("files are read whole, from this machine");
pub const VISION: Rule = Rule::Lost("text alone: no images, video or sound");
pub const IMAGES: &str = "this trains on images, tune on text alone";
pub const TEXT_INSTEAD: &str = "take a language model, rows of text, and remove this key";
pub const NEW_TOKENS: Rule =
    Rule::Lost("the base's tokenizer stays as it is: use tokens it has, or write the markers as plain text");
pub const DORA: Rule = Rule::By(dora);
pub const START: Rule = Rule::By(start);
pub const RESUME: Rule = Rule::Lost("`tune train --resume` goes on with runs of tune alone");
pub const COUNT: Rule = Rule::Lost("files are read whole: cut the file, or give it a weight below 1 in data.train");
pub const LOSS: Rule = Rule::Lost("the loss is the cross-entropy of what is learned");
pub const RATES: Rule = Rule::Lost("all adapters learn at train.learning_rate (B faster by train.loraplus_ratio)");
pub const DEVICES: Rule = Rule::By(devices);
pub const TO_SAVE: Rule = Rule::By(modules_to_save);
pub const SCHEDULE: Rule = Rule::By(schedule);
pub const OPTIMIZER: Rule = Rule::By(optimizer);
pub const TARGETS: Rule = Rule::By(targets);
pub const MAX_STEPS: Rule = Rule::By(|moving, key, value| above_zero(moving, key, "train.max_steps", value));
pub const EPOCHS: Rule = Rule::By(|moving, key, value| above_zero(moving, key, "train.epochs", value));

/// What is gathered for [data] until all of it is known.
#[derive(Default)]
pub struct Data {
    pub train: Vec<(String, f64)>,
    pub validation: Vec<String>,
    /// Of each training file; none where it is not known.
    pub formats: Vec<Option<&'static str>>,
}

const FILE_TYPES: [&str; 7] = ["jsonl", "ndjson", "json", "csv", "parquet", "txt", "md"];

fn is_file(name: &str) -> bool {
    let name = name.strip_suffix(".gz").unwrap_or(name);
    let extension = Path::new(name).extension().and_then(|e| e.to_str()).unwrap_or_default();
    FILE_TYPES.contains(&extension)
}

/// The local file that stands for a data set: itself, or where it has to be put first.
pub fn local_file(moving: &mut Move, id: &str, subset: Option<&str>, split: Option<&str>) -> String {
    let remote = id.contains("://");
    if !remote && is_file(id) {
        return id.into();
    }
    let leaf = id.trim_end_matches('/').rsplit('/').next().unwrap_or(id);
    let split = split.unwrap_or("train");
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '-'
        }
    };
    let mut name: String = leaf.chars().map(plain).collect();
    for more in subset.into_iter().chain(Some(split).filter(|split| *split != "train")) {
        name += &format!("-{}", more.chars().map(plain).collect::<String>());
    }
    if remote {
        moving.ask(format!("fetch {id} to data/{name}"));
        return format!("data/{name}");
    }
    let file = format!("data/{name}.jsonl");
    let quoted = |text: &str| format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"));
    let subset = subset.map(|subset| format!(", {}", quoted(subset))).unwrap_or_default();
    let code = format!(
        "from datasets import load_dataset; load_dataset({}{subset}, split={}).to_json({})",
        quoted(id),
        quoted(split),
        quoted(&file)
    );
    moving.ask(format!(
        "{id} is no file: tune reads files. Write it to {file}:\n  python -c \"{code}\""
    ));
    file
}

/// Sets data.train, data.format and data.validation of what was gathered.
pub fn finish_data(moving: &mut Move) {
    let Data {
        train,
        validation,
        formats,
    } = std::mem::take(&mut moving.data);
    if train.is_empty() {
        moving.ask("the config names no training data: set data.train");
        moving
            .values
            .insert("data.train".into(), vec!["data/train.jsonl"].into());
        moving.origins.insert("data.train".into(), "a guess".into());
    } else {
        let file = |(path, weight): &(String, f64)| match *weight {
            1.0 => toml::Value::from(path.as_str()),
            weight => toml::Value::Table(toml::Table::from_iter([
                ("path".to_string(), path.as_str().into()),
                ("weight".to_string(), weight.into()),
            ])),
        };
        let files: Vec<_> = train.iter().map(file).collect();
        moving.values.insert("data.train".into(), files.into());
    }
    match validation.as_slice() {
        [] => {}
        [one] => drop(moving.values.insert("data.validation".into(), one.as_str().into())),
        many => drop(moving.values.insert("data.validation".into(), many.to_vec().into())),
    }
    let same = formats
        .first()
        .copied()
        .flatten()
        .filter(|first| formats.iter().all(|f| *f == Some(*first)));
    match same {
        Some(format) => drop(moving.values.insert("data.format".into(), format.into())),
        None if formats.iter().any(Option::is_some) => {
            moving.ask("the data files have several formats: data.format = \"auto\" looks at each row's keys");
        }
        None => {}
    }
}

/// A share to hold back, or a count of rows.
pub fn validation_size(moving: &mut Move, key: &str, value: &Value) {
    match moving.number(key) {
        Some(share) if (0.0..1.0).contains(&share) => moving.take(key, "data.validation", value),
        Some(rows) if rows >= 1.0 => {
            moving.change(key, "data.validation", 0.05, "a share, while this counts rows");
            moving.ask(format!(
                "set data.validation to {rows} / the number of rows, or to a file with them"
            ));
        }
        _ => moving.mistyped(key, value, "a share from 0 to below 1, or a number of rows"),
    }
}

/// Whose text is learned, by a key that says whether prompts are.
pub fn learn_prompts(moving: &mut Move, key: &str, value: &Value) {
    match value.as_bool() {
        Some(on) => moving.change(
            key,
            "data.learn",
            if on { "all" } else { "assistant" },
            if on {
                "prompts are learned too"
            } else {
                "answers alone are learned"
            },
        ),
        None => moving.mistyped(key, value, "true or false"),
    }
}

/// -1 and 0 are other words for none.
fn above_zero(moving: &mut Move, key: &str, path: &str, value: &Value) {
    match moving.number(key) {
        Some(number) if number <= 0.0 => moving.off(key),
        _ => moving.take(key, path, value),
    }
}

fn devices(moving: &mut Move, key: &str, value: &Value) {
    if is_off(value) {
        return moving.off(key);
    }
    moving.drop(key, "a run is on one device");
    moving.ask(
        "the config is for several devices: if N of them shared a step, multiply train.grad_accumulation by N to \
         keep the rows of a step",
    );
}

fn modules_to_save(moving: &mut Move, key: &str, value: &Value) {
    if is_off(value) {
        return moving.off(key);
    }
    moving.drop(
        key,
        "adapters alone are trained, no whole matrices; servers take no other adapters either",
    );
    moving.ask(format!(
        "{} were trained whole there: if that was for new tokens, use tokens that the base has",
        short(value)
    ));
}

/// Leaf names of what lies outside the blocks, over the families.
const OUTSIDE_BLOCKS: [&str; 6] = ["lm_head", "embed_tokens", "embed_out", "wte", "wpe", "output"];

/// A list of names, names with commas between, a regex, or a word for all.
fn targets(moving: &mut Move, key: &str, value: &Value) {
    let names: Vec<String> = match value {
        Value::String(all) if ["all", "all-linear", "all_linear"].contains(&all.as_str()) => {
            return moving.change(key, "lora.targets", "all-linear", "all linears of the blocks");
        }
        Value::String(text) if text.trim().is_empty() => return moving.off(key),
        Value::String(text) if text.chars().all(|c| c.is_alphanumeric() || "_,. ".contains(c)) => {
            text.split(',').map(|name| name.trim().to_string()).collect()
        }
        Value::String(_) => return moving.take(key, "lora.targets", value),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).map(str::to_string).collect()
        }
        _ => return moving.mistyped(key, value, "a list of names"),
    };
    let outside = |name: &String| OUTSIDE_BLOCKS.contains(&name.rsplit('.').next().unwrap_or(name));
    let kept: Vec<String> = names.iter().filter(|name| !outside(name)).cloned().collect();
    if names.is_empty() {
        moving.off(key);
    } else if kept.is_empty() {
        moving.refuse(
            key,
            value,
            "no adapters on embeddings or the head",
            "name linears of the blocks",
        );
    } else if kept.len() < names.len() {
        let gone: Vec<_> = names.into_iter().filter(outside).collect();
        let why = format!("no adapter on {}: servers cannot load it", gone.join(", "));
        moving.change(key, "lora.targets", kept, why);
    } else {
        moving.take(key, "lora.targets", &kept.into());
    }
}

/// PEFT picks by family, which for most is these two.
pub fn unnamed_targets(moving: &mut Move) {
    moving
        .values
        .insert("lora.targets".into(), vec!["q_proj", "v_proj"].into());
    moving.origins.insert("lora.targets".into(), "default of PEFT".into());
    moving.defaults.push("lora.targets = [\"q_proj\", \"v_proj\"]".into());
    moving.ask(
        "no targets were named, and PEFT then takes a few by family (q_proj and v_proj for Llama and its like): \
         lora.targets = \"all-linear\" usually learns better",
    );
}

fn dora(moving: &mut Move, key: &str, value: &Value) {
    if value == &Value::Bool(false) {
        return moving.off(key);
    }
    moving.change(
        key,
        "lora.dora",
        true,
        "no server loads DoRA adapters: export it merged",
    );
    moving.put(key, "output.serve_target", vec!["peft"].into());
}

fn start(moving: &mut Move, key: &str, value: &Value) {
    let named = value.as_str().is_some_and(|name| name.starts_with("pissa"));
    match value {
        Value::Bool(false) => moving.off(key),
        Value::Bool(true) if key == "pissa_init" => moving.change(key, "lora.init", "pissa", "as there"),
        _ if named => moving.change(key, "lora.init", "pissa", "by a randomized decomposition"),
        _ => moving.drop(
            key,
            "A starts random and B at zero, as by default in PEFT, or lora.init = \"pissa\"",
        ),
    }
}

fn optimizer(moving: &mut Move, key: &str, value: &Value) {
    let name = short(value);
    if name.contains("adamw") && !name.contains("mini") || name == "adam" {
        let why = "AdamW with moments in f32, which are small for adapters";
        return moving.needless(key, why);
    }
    moving.drop(key, "AdamW is the one optimizer");
    moving.ask(format!(
        "{name} may have wanted another learning rate than AdamW: 1e-4 to 2e-4 is usual for LoRA"
    ));
}

fn schedule(moving: &mut Move, key: &str, value: &Value) {
    let Some(name) = value.as_str() else {
        return moving.mistyped(key, value, "the name of a schedule");
    };
    match name {
        "cosine" | "linear" => moving.take(key, "train.schedule", value),
        "constant" | "constant_with_warmup" => moving.take(key, "train.schedule", &"constant".into()),
        "cosine_with_min_lr" => moving.change(key, "train.schedule", "cosine", "with train.min_lr_ratio"),
        "warmup_stable_decay" => moving.take(key, "train.schedule", &"warmup-stable-decay".into()),
        other => {
            moving.change(key, "train.schedule", "cosine", format!("no schedule {other}"));
            moving.ask(format!("look at the learning rate: {other} became cosine"));
        }
    }
}

/// Where the schedule, its arguments and the warm-up stand.
pub struct Schedule {
    pub name: &'static str,
    pub arguments: &'static str,
    pub warmup_steps: &'static str,
    pub warmup_ratio: &'static str,
}

/// Warm-up and end of the schedule as shares of the steps.
pub fn finish_schedule(moving: &mut Move, keys: &Schedule) {
    let arguments = moving
        .get(keys.arguments)
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    for (argument, value) in arguments {
        let key = format!("{}.{argument}", keys.arguments);
        let number = value.as_f64().or_else(|| value.as_str()?.parse().ok());
        let peak = moving.values.get("train.learning_rate").and_then(toml::Value::as_float);
        match (argument.as_str(), number, peak) {
            ("min_lr_rate", Some(_), _) => moving.take(&key, "train.min_lr_ratio", &value),
            ("min_lr", Some(low), Some(peak)) if peak > 0.0 => {
                moving.change(
                    &key,
                    "train.min_lr_ratio",
                    low / peak,
                    "as a share of train.learning_rate",
                );
            }
            ("num_decay_steps", Some(steps), _) => {
                steps_as_share(moving, &key, "train.decay_ratio", steps);
            }
            _ => moving.drop(&key, "no such part of a schedule"),
        }
    }
    // Without warm-up by its definition in transformers.
    let constant = moving.text(keys.name).as_deref() == Some("constant");
    let steps = moving.number(keys.warmup_steps).filter(|steps| *steps > 0.0);
    let ratio = moving.get(keys.warmup_ratio).cloned();
    match (steps, ratio) {
        _ if constant => {
            moving.values.insert("train.warmup_ratio".into(), 0.0.into());
            moving.origins.insert("train.warmup_ratio".into(), keys.name.into());
            for key in [keys.warmup_steps, keys.warmup_ratio] {
                if moving.get(key).is_some() {
                    moving.needless(key, "schedule `constant` has no warm-up");
                }
            }
        }
        (Some(steps), other) => {
            if steps < 1.0 {
                moving.change(keys.warmup_steps, "train.warmup_ratio", steps, "below 1 it is a share");
            } else {
                steps_as_share(moving, keys.warmup_steps, "train.warmup_ratio", steps);
            }
            if other.is_some() {
                moving.needless(keys.warmup_ratio, format!("{} wins over it", keys.warmup_steps));
            }
        }
        (None, Some(ratio)) => moving.take(keys.warmup_ratio, "train.warmup_ratio", &ratio),
        (None, None) if moving.number(keys.warmup_steps) == Some(0.0) => {
            moving.change(keys.warmup_steps, "train.warmup_ratio", 0.0, "no warm-up");
        }
        (None, None) => {
            if let Some(value) = moving.get(keys.warmup_steps).cloned() {
                moving.mistyped(keys.warmup_steps, &value, "a number of steps");
            }
        }
    }
}

/// Known where the number of steps is; otherwise left to the person, who can read it off the plan.
pub fn steps_as_share(moving: &mut Move, key: &str, path: &'static str, steps: f64) {
    let total = moving
        .values
        .get("train.max_steps")
        .and_then(toml::Value::as_integer)
        .unwrap_or(0);
    if total > 0 {
        let share = share_of(steps, total as f64);
        moving.change(key, path, share, format!("{steps} of {total} steps"));
    } else {
        let default = moving
            .options
            .leaf(path)
            .map(|leaf| leaf.default.clone())
            .unwrap_or(0.0.into());
        moving.change(
            key,
            path,
            default,
            "a share, and how many steps there are the data says",
        );
        moving.ask(format!(
            "`tune train --dry-run` says how many steps there are: set {path} to {steps} / steps"
        ));
    }
}

/// The shortest decimal share of `total` that is rounded up to `steps` again.
fn share_of(steps: f64, total: f64) -> f64 {
    let shares = (2..9).map(|digits| {
        let power = 10_f64.powi(digits);
        (steps / total * power).floor() / power
    });
    shares
        .into_iter()
        .find(|share| (share * total).ceil() == steps)
        .unwrap_or((steps - 0.5) / total)
}

/// Where it stands how often something happens.
pub struct Cadence {
    pub strategy: &'static str,
    pub steps: &'static str,
    pub per_epoch: &'static str,
    pub path: &'static str,
}

/// Every so many steps.
pub fn cadence(moving: &mut Move, keys: &Cadence) {
    let strategy = moving.text(keys.strategy);
    let none = matches!(strategy.as_deref(), Some("no")) || moving.get(keys.strategy) == Some(&Value::Bool(false));
    if none {
        let value = "no".to_string();
        moving.change(keys.strategy, keys.path, 0, format!("{value}: 0 is never"));
        for key in [keys.steps, keys.per_epoch] {
            if moving.get(key).is_some() {
                moving.needless(key, format!("{} is \"no\"", keys.strategy));
            }
        }
        return;
    }
    let by_epoch = |moving: &mut Move, key: &str, times: f64| {
        moving.drop(
            key,
            format!("{} counts steps, and how many an epoch has the data says", keys.path),
        );
        let divisor = if times == 1.0 {
            String::new()
        } else {
            format!(" / {times}")
        };
        moving.ask(format!(
            "`tune train --dry-run` says how many steps an epoch has: set {} to that{divisor}",
            keys.path
        ));
    };
    if strategy.as_deref() == Some("epoch") {
        by_epoch(moving, keys.strategy, 1.0);
    } else if strategy.is_some() {
        moving.needless(keys.strategy, format!("{} counts steps anyway", keys.path));
    }
    match moving.number(keys.per_epoch) {
        Some(0.0) => moving.change(keys.per_epoch, keys.path, 0, "never"),
        Some(times) => by_epoch(moving, keys.per_epoch, times),
        None => {}
    }
    let total = moving
        .values
        .get("train.max_steps")
        .and_then(toml::Value::as_integer)
        .unwrap_or(0) as f64;
    match (moving.number(keys.steps), moving.get(keys.steps).cloned()) {
        (Some(share), _) if share > 0.0 && share < 1.0 && total > 0.0 => {
            let steps = (share * total).ceil() as i64;
            moving.change(keys.steps, keys.path, steps, format!("a share of {total} steps"));
        }
        (Some(share), _) if share > 0.0 && share < 1.0 => {
            moving.drop(keys.steps, "a share of steps, and how many there are the data says");
            moving.ask(format!(
                "`tune train --dry-run` says how many steps there are: set {} to {share} of them",
                keys.path
            ));
        }
        (Some(_), Some(_)) if strategy.as_deref() == Some("epoch") => {
            moving.needless(keys.steps, format!("{} is \"epoch\"", keys.strategy));
        }
        (_, Some(steps)) => moving.take(keys.steps, keys.path, &steps),
        (_, None) => {}
    }
}

/// Both of AdamW's betas, from a key each.
pub fn betas(moving: &mut Move, first: &str, second: &str) {
    if moving.get(first).is_none() && moving.get(second).is_none() {
        return;
    }
    let beta = |moving: &Move, key: &str, default: f64| moving.number(key).unwrap_or(default);
    let pair = [beta(moving, first, 0.9), beta(moving, second, 0.999)];
    for key in [first, second] {
        match moving.get(key).cloned() {
            Some(value) if moving.number(key).is_none() => moving.mistyped(key, &value, "a number"),
            Some(_) => {
                let pair = toml::Value::from(pair.to_vec());
                let shown = format!("train.betas = {pair}");
                moving.put(key, "train.betas", pair);
                let found = moving.found(key);
                moving.note(key, found, Fate::Taken(shown));
            }
            None => {}
        }
    }
}

/// 4 or 8 bits of bitsandbytes.
pub fn bits(moving: &mut Move, four: &str, eight: &str) {
    for (key, form) in [(four, "nf4"), (eight, "int8")] {
        match moving.get(key).cloned() {
            Some(Value::Bool(true)) => moving.take(key, "model.quantize", &form.into()),
            Some(value) if !is_off(&value) => moving.mistyped(key, &value, "true or false"),
            _ => {}
        }
    }
}

/// The floating point the base is computed in: bf16 where it is asked for.
pub fn half(moving: &mut Move, key: &str, value: &Value) {
    match value.as_str().map(|name| name.trim_start_matches("torch.")) {
        Some("auto") => moving.take(key, "model.dtype", value),
        Some("bfloat16" | "bf16") => moving.take(key, "model.dtype", &"bf16".into()),
        Some("float32" | "fp32" | "no") => moving.take(key, "model.dtype", &"f32".into()),
        Some("float16" | "fp16" | "half") => float16(moving, key),
        _ if value == &Value::Bool(true) => moving.take(key, "model.dtype", &"bf16".into()),
        _ if is_off(value) => moving.off(key),
        _ => moving.mistyped(key, value, "true, false or auto"),
    }
}

/// f16 is never trained in.
pub fn float16(moving: &mut Move, key: &str) {
    if ["bf16", "bfloat16"].iter().any(|bf16| moving.is_on(bf16)) {
        return moving.needless(key, "bf16 is on as well");
    }
    moving.change(
        key,
        "model.dtype",
        "auto",
        "bf16 or f32: no training in f16, which overflows",
    );
}

/// Tokens named beside the tokenizer: padding is not needed, the others are the base's.
pub fn special_tokens(moving: &mut Move, key: &str, value: &Value) {
    let Some(map) = value.as_object() else {
        return moving.mistyped(key, value, "names of tokens");
    };
    for (name, token) in map.clone() {
        let key = format!("{key}.{name}");
        if is_off(&token) {
            moving.off(&key);
        } else if name == "pad_token" {
            moving.needless(&key, "tune has no padding");
        } else {
            moving.drop(&key, "the base's tokenizer stays as it is");
            moving
                .ask("other special tokens were set there: `tune data show CONFIG` shows with which token answers end");
        }
    }
}

/// A template by its name, as file, or written out.
pub fn chat_template(moving: &mut Move, key: &str, value: &Value) {
    let Some(text) = value.as_str() else {
        return moving.mistyped(key, value, "the name of a template, or one");
    };
    if text.contains("{%") || text.contains("{{") {
        let Some(file) = moving.template_file.clone() else {
            moving.drop(key, "a template is a file");
            return moving.ask(format!(
                "put the text of {key} into a file and name it in model.chat_template"
            ));
        };
        moving.template = Some(text.into());
        let file = file.display().to_string();
        return moving.change(
            key,
            "model.chat_template",
            file,
            "a template is a file, written beside the config",
        );
    }
    if text.ends_with(".jinja") || text.ends_with(".jinja2") || text.ends_with(".j2") {
        return moving.take(key, "model.chat_template", value);
    }
    if ["tokenizer_default", "jinja"].contains(&text) {
        return moving.needless(key, "the base's own template is used, or model.chat_template");
    }
    moving.drop(key, "the base's own template is used, or model.chat_template");
    moving.ask(format!(
        "prompts were written by the template {text}: if the base's own is another (`tune data show CONFIG` shows \
         it), set model.chat_template to a Jinja file"
    ));
}

/// A base that only another program can read.
pub fn check_base(moving: &mut Move, key: &str) {
    let base = moving.text(key).unwrap_or_default();
    let lower = base.to_ascii_lowercase();
    let quantized = [
        "-bnb-4bit",
        "-bnb-8bit",
        "-gptq",
        "-awq",
        "-aqlm",
        "-hqq",
        "-4bit",
        "-8bit",
        "-fp8",
    ];
    if lower.starts_with("mlx-community/") || lower == "mlx_model" {
        moving.ask(format!(
            "{base} is in MLX's own format: set model.base to the model it was made of (model.quantize = \"nf4\" holds \
             it in 4 bits)"
        ));
    } else if quantized.iter().any(|form| lower.contains(form)) {
        moving.ask(format!(
            "{base} is quantized already: set model.base to the model it was made of, and model.quantize holds it in \
             4 or 8 bits"
        ));
    }
}

/// Values as text, of a list or with commas between.
pub fn words(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => text
            .split(',')
            .map(|word| word.trim().to_string())
            .filter(|w| !w.is_empty())
            .collect(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).map(str::to_string).collect(),
        _ => Vec::new(),
    }
}

/// A value as TOML writes it, for notes.
pub fn shown(value: &Value) -> String {
    plain(value).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_up_to_the_same_steps() {
        assert_eq!(share_of(10.0, 200.0), 0.05);
        assert_eq!(share_of(5.0, 60.0), 0.08);
        for (steps, total) in [(1.0, 3.0), (7.0, 9.0), (100.0, 1032.0), (10.0, 60.0), (999.0, 1000.0)] {
            assert_eq!((share_of(steps, total) * total).ceil(), steps, "{steps} of {total}");
        }
    }

    #[test]
    fn files_are_told_from_names() {
        assert!(is_file("data.jsonl") && is_file("a/b.json.gz"));
        assert!(!is_file("tatsu-lab/alpaca") && !is_file("org/data-v1.5"));
    }
}
