//! Every setting of a run, with its default and its limits. The file format, environment and flags are the
//! program's business (`cli`).
use crate::{Result, TrainError, error::Problem, serving};
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::path::PathBuf;
use tune_data::{DataSpec, FormatChoice, Learn, OnEmpty, Source, TooLong};
use tune_model::lora::{Init, LoraSpec};
use tune_model::precision::{Dtype, Quantize};

/// Serializes to the resolved `config.toml` of a run, which can be run again. Every key is always present, so that
/// unknown keys can be found by comparison with `Settings::default()` serialized: "none" is an empty string or list.
/// Three have no sensible default and must be given: `model.base`, `data.train`, `output.dir`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `auto`, or what the program calls a device (`cpu`, `cuda:0`).
    pub device: String,
    pub model: Model,
    pub data: Data,
    pub lora: Lora,
    pub train: Train,
    pub output: Output,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Model {
    /// Folder, hub id, or `.gguf` file.
    pub base: String,
    /// Branch, tag or commit of a hub id; empty = `main`.
    pub revision: String,
    /// Jinja file that replaces the model's own chat template; empty = the model's.
    pub chat_template: PathBuf,
    /// Never touch the network: folder, file, or what the hub cache holds.
    pub offline: bool,
    /// The base's weights and activations; adapters and sums are f32 in any case.
    pub dtype: Dtype,
    /// The linears of the blocks held in 4 or 8 bits (QLoRA).
    pub quantize: Quantize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    /// Paths, or `{ path = "...", weight = 2.0 }`.
    pub train: Vec<TrainFile>,
    /// A share of train (0 = none), a file, or several files.
    pub validation: Validation,
    pub format: FormatChoice,
    pub prompt_key: String,
    pub response_key: String,
    /// Tokens a row holds at most.
    pub max_length: usize,
    pub packing: bool,
    pub too_long: TooLong,
    pub on_empty: OnEmpty,
    pub learn: Learn,
    /// Put before every conversation that has no system message of its own; empty = none.
    pub system: String,
    /// Keep tokenized data on disk for the next start.
    pub cache: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TrainFile {
    Path(PathBuf),
    Weighted(Source),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Validation {
    Share(f64),
    File(PathBuf),
    Files(Vec<PathBuf>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lora {
    /// Adapter folder to go on from, which brings rank, alpha, patterns, targets and layers; empty = a fresh adapter.
    pub adapter: PathBuf,
    pub r: usize,
    pub alpha: f64,
    pub dropout: f64,
    /// Scale `alpha / sqrt(r)` instead of `alpha / r`.
    pub rslora: bool,
    /// Magnitudes trained beside A and B.
    pub dora: bool,
    /// What A and B are before the first step.
    pub init: Init,
    pub targets: Targets,
    /// Block indices; empty = all.
    pub layers: Vec<usize>,
    /// `[pattern, rank]` pairs; the first whose pattern matches a module's path wins (a list, because the order counts).
    pub rank_pattern: Vec<(String, usize)>,
    /// `[pattern, alpha]` pairs, as above.
    pub alpha_pattern: Vec<(String, f64)>,
}

/// `"all-linear"`, one regex string, or a list of names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    One(String),
    Names(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    Constant,
    Linear,
    Cosine,
    WarmupStableDecay,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Train {
    pub epochs: f64,
    /// 0 = by epochs; otherwise wins over `epochs`.
    pub max_steps: usize,
    /// Rows a micro-batch.
    pub batch_size: usize,
    /// Micro-batches a step; a window ends with its epoch, so that the last one may be shorter.
    pub grad_accumulation: usize,
    pub learning_rate: f64,
    pub schedule: Schedule,
    pub warmup_ratio: f64,
    /// Share of steps spent decaying in `warmup-stable-decay`.
    pub decay_ratio: f64,
    /// Learning rate at the end, as a share of `learning_rate`.
    pub min_lr_ratio: f64,
    pub betas: [f64; 2],
    pub eps: f64,
    pub weight_decay: f64,
    /// LoRA+: B learns `loraplus_ratio` times faster than A; 1 = plain.
    pub loraplus_ratio: f64,
    /// Global norm; 0 = off.
    pub max_grad_norm: f64,
    /// NEFTune alpha; 0 = off.
    pub neftune_alpha: f64,
    /// Steps between evaluations, besides the first and the last; 0 = never evaluate.
    pub eval_every: usize,
    /// Steps between checkpoints; 0 = only the best and the last.
    pub save_every: usize,
    /// Checkpoints kept besides the best.
    pub keep_last: usize,
    /// Stop after this many evaluations without improvement; 0 = never.
    pub early_stopping: usize,
    /// Answers sampled at each evaluation; 0 = none.
    pub samples: usize,
    pub sample_tokens: usize,
    /// `auto`, or how many blocks keep their activations (0 = all recomputed).
    pub keep_blocks: KeepBlocks,
    pub seed: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum KeepBlocks {
    Count(usize),
    Word(String),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Output {
    pub dir: PathBuf,
    /// Who will serve the adapter: `peft`, `vllm`, `sglang`, `llama.cpp`, `ollama`, `mistral.rs`, `mlx`. What one of them cannot load is
    /// refused at the start; what one of them would misread is folded away when `adapter/` is written ([`crate::serving`]).
    pub serve_target: Vec<String>,
    pub tensorboard: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            device: "auto".into(),
            model: Model::default(),
            data: Data::default(),
            lora: Lora::default(),
            train: Train::default(),
            output: Output::default(),
        }
    }
}

impl Default for Data {
    fn default() -> Self {
        Self {
            train: Vec::new(),
            validation: Validation::Share(0.05),
            format: FormatChoice::Auto,
            prompt_key: "prompt".into(),
            response_key: "response".into(),
            max_length: 1024,
            packing: true,
            too_long: TooLong::Cut,
            on_empty: OnEmpty::Error,
            learn: Learn::Assistant,
            system: String::new(),
            cache: true,
        }
    }
}

impl Default for Lora {
    fn default() -> Self {
        Self {
            adapter: PathBuf::new(),
            r: 16,
            alpha: 32.0,
            dropout: 0.0,
            rslora: false,
            dora: false,
            init: Init::Kaiming,
            targets: Targets::One("all-linear".into()),
            layers: Vec::new(),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
        }
    }
}

impl Default for Train {
    fn default() -> Self {
        Self {
            epochs: 3.0,
            max_steps: 0,
            batch_size: 1,
            grad_accumulation: 8,
            learning_rate: 2e-4,
            schedule: Schedule::Cosine,
            warmup_ratio: 0.03,
            decay_ratio: 0.1,
            min_lr_ratio: 0.0,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            loraplus_ratio: 1.0,
            max_grad_norm: 1.0,
            neftune_alpha: 0.0,
            eval_every: 50,
            save_every: 50,
            keep_last: 2,
            early_stopping: 0,
            samples: 3,
            sample_tokens: 64,
            keep_blocks: KeepBlocks::Word("auto".into()),
            seed: 42,
        }
    }
}

impl Default for Output {
    fn default() -> Self {
        Self {
            dir: PathBuf::new(),
            serve_target: vec!["peft".into()],
            tensorboard: true,
        }
    }
}

impl Settings {
    /// All contradictions and values out of range in one error; otherwise the warnings worth showing.
    pub fn validate(&self) -> Result<Vec<String>> {
        let mut check = Checker::default();
        self.check_data(&mut check);
        self.check_lora(&mut check);
        self.check_train(&mut check);
        check.want(
            !self.model.base.is_empty(),
            "model.base",
            "nothing",
            "a folder, a hub id or a .gguf file",
        );
        check.want(
            !self.output.dir.as_os_str().is_empty(),
            "output.dir",
            "nothing",
            "a folder for the run",
        );
        let lora = &self.lora;
        let rank = lora.rank_pattern.iter().map(|(_, r)| *r).fold(lora.r, usize::max);
        // What is left behind has what it began with beside what it became.
        let rank = if lora.init == Init::Pissa { 2 * rank } else { rank };
        let targets = match &lora.targets {
            Targets::Names(names) => names.as_slice(),
            Targets::One(_) => &[],
        };
        let warnings = serving::check(rank, lora.dora, targets, &self.output.serve_target, &mut check.problems);
        if check.problems.is_empty() {
            Ok(warnings)
        } else {
            Err(TrainError::Settings {
                problems: check.problems,
            })
        }
    }

    fn check_data(&self, check: &mut Checker) {
        let data = &self.data;
        check.want(!data.train.is_empty(), "data.train", "no files", "at least one file");
        for file in &data.train {
            if let TrainFile::Weighted(source) = file {
                check.want(
                    source.weight > 0.0,
                    "data.train",
                    format!("weight {}", source.weight),
                    "a weight above 0",
                );
            }
        }
        if let Validation::Share(share) = data.validation {
            check.want(
                (0.0..1.0).contains(&share),
                "data.validation",
                share,
                "a share from 0 to below 1, or files",
            );
        }
        check.want(data.max_length >= 2, "data.max_length", data.max_length, "at least 2");
    }

    fn check_lora(&self, check: &mut Checker) {
        let lora = &self.lora;
        check.rank("lora.r", lora.r);
        check.positive("lora.alpha", lora.alpha);
        check.share("lora.dropout", lora.dropout);
        check.want(
            !lora.dora || lora.dropout == 0.0,
            "lora.dropout",
            lora.dropout,
            "0 with lora.dora: it would fall on what the base computes too",
        );
        if lora.init == Init::Pissa {
            check.want(!lora.dora, "lora.dora", "true", "false with lora.init = \"pissa\"");
            check.want(
                self.model.quantize == Quantize::None,
                "model.quantize",
                format!("{:?}", self.model.quantize.name().unwrap_or_default()),
                "\"none\" with lora.init = \"pissa\": what is left of a weight is no longer what was quantized",
            );
        }
        for (_, r) in &lora.rank_pattern {
            check.rank("lora.rank_pattern", *r);
        }
        for (_, alpha) in &lora.alpha_pattern {
            check.positive("lora.alpha_pattern", *alpha);
        }
        let empty = match &lora.targets {
            Targets::One(one) => one.is_empty(),
            Targets::Names(names) => names.is_empty(),
        };
        check.want(!empty, "lora.targets", "nothing", "\"all-linear\", names, or one regex");
    }

    fn check_train(&self, check: &mut Checker) {
        let train = &self.train;
        if train.max_steps == 0 {
            check.positive("train.epochs", train.epochs);
        }
        check.want(
            train.batch_size >= 1,
            "train.batch_size",
            train.batch_size,
            "at least 1",
        );
        check.want(
            (1..=1_000_000).contains(&train.grad_accumulation),
            "train.grad_accumulation",
            train.grad_accumulation,
            "1 to 1000000",
        );
        check.positive("train.learning_rate", train.learning_rate);
        check.share("train.warmup_ratio", train.warmup_ratio);
        check.share("train.decay_ratio", train.decay_ratio);
        if train.schedule == Schedule::WarmupStableDecay {
            let sum = train.warmup_ratio + train.decay_ratio;
            check.want(
                sum <= 1.0,
                "train.decay_ratio",
                format!("{sum} with warmup_ratio"),
                "together at most 1",
            );
        }
        check.want(
            (0.0..=1.0).contains(&train.min_lr_ratio),
            "train.min_lr_ratio",
            train.min_lr_ratio,
            "from 0 to 1",
        );
        for beta in train.betas {
            check.share("train.betas", beta);
        }
        check.positive("train.eps", train.eps);
        check.not_negative("train.weight_decay", train.weight_decay);
        check.positive("train.loraplus_ratio", train.loraplus_ratio);
        check.not_negative("train.max_grad_norm", train.max_grad_norm);
        check.not_negative("train.neftune_alpha", train.neftune_alpha);
        check.want(
            train.keep_last >= 1,
            "train.keep_last",
            train.keep_last,
            "at least 1, to resume from",
        );
        let stops_blind = train.early_stopping > 0 && (train.eval_every == 0 || !self.has_validation());
        check.want(
            !stops_blind,
            "train.early_stopping",
            train.early_stopping,
            "eval_every above 0 and validation data",
        );
        let samples_nothing = train.samples > 0 && train.sample_tokens == 0;
        check.want(
            !samples_nothing,
            "train.sample_tokens",
            0,
            "at least 1 while samples are wanted",
        );
        if let KeepBlocks::Word(word) = &train.keep_blocks {
            check.want(
                word == "auto",
                "train.keep_blocks",
                format!("{word:?}"),
                "\"auto\" or a number of blocks",
            );
        }
        check.want(
            i64::try_from(train.seed).is_ok(),
            "train.seed",
            train.seed,
            "at most 2^63 - 1, as TOML has it",
        );
    }

    /// Whether anything is held back to evaluate on.
    pub fn has_validation(&self) -> bool {
        match &self.data.validation {
            Validation::Share(share) => *share > 0.0,
            Validation::File(_) => true,
            Validation::Files(files) => !files.is_empty(),
        }
    }

    pub fn data_spec(&self) -> DataSpec {
        let data = &self.data;
        let source = |file: &TrainFile| match file {
            TrainFile::Path(path) => Source {
                path: path.clone(),
                weight: 1.0,
            },
            TrainFile::Weighted(source) => source.clone(),
        };
        DataSpec {
            train: data.train.iter().map(source).collect(),
            validation: match &data.validation {
                Validation::Share(share) if *share > 0.0 => tune_data::Validation::Share(*share),
                Validation::Share(_) => tune_data::Validation::None,
                Validation::File(file) => tune_data::Validation::Files(vec![file.clone()]),
                Validation::Files(files) if files.is_empty() => tune_data::Validation::None,
                Validation::Files(files) => tune_data::Validation::Files(files.clone()),
            },
            format: data.format,
            prompt_key: data.prompt_key.clone(),
            response_key: data.response_key.clone(),
            max_length: data.max_length,
            packing: data.packing,
            too_long: data.too_long,
            on_empty: data.on_empty,
            learn: data.learn,
            system: (!data.system.is_empty()).then(|| data.system.clone()),
            seed: self.train.seed,
        }
    }

    pub fn lora_spec(&self) -> LoraSpec {
        let lora = &self.lora;
        LoraSpec {
            r: lora.r,
            alpha: lora.alpha,
            dropout: lora.dropout,
            rslora: lora.rslora,
            dora: lora.dora,
            init: lora.init,
            targets: match &lora.targets {
                Targets::One(one) if one == "all-linear" => tune_model::lora::Targets::AllLinear,
                Targets::One(regex) => tune_model::lora::Targets::Regex(regex.clone()),
                Targets::Names(names) => tune_model::lora::Targets::Names(names.clone()),
            },
            layers: (!lora.layers.is_empty()).then(|| lora.layers.clone()),
            rank_pattern: lora.rank_pattern.clone(),
            alpha_pattern: lora.alpha_pattern.clone(),
            seed: self.train.seed,
        }
    }

    /// `hub` with what the settings say about the base.
    pub fn open_options(&self, hub: &tune_model::OpenOptions) -> tune_model::OpenOptions {
        let revision = (!self.model.revision.is_empty()).then(|| self.model.revision.clone());
        tune_model::OpenOptions {
            revision: revision.or_else(|| hub.revision.clone()),
            offline: hub.offline || self.model.offline,
            ..hub.clone()
        }
    }
}

/// Collects every problem instead of stopping at the first.
#[derive(Default)]
struct Checker {
    problems: Vec<Problem>,
}

impl Checker {
    fn want(&mut self, holds: bool, key: &str, found: impl Display, wanted: &str) {
        if !holds {
            self.problems.push(Problem {
                key: key.into(),
                found: found.to_string(),
                wanted: wanted.into(),
            });
        }
    }

    fn rank(&mut self, key: &str, r: usize) {
        self.want((1..=65_536).contains(&r), key, r, "1 to 65536");
    }

    fn positive(&mut self, key: &str, value: f64) {
        self.want(value > 0.0 && value.is_finite(), key, value, "a number above 0");
    }

    fn not_negative(&mut self, key: &str, value: f64) {
        self.want(value >= 0.0 && value.is_finite(), key, value, "a number from 0");
    }

    fn share(&mut self, key: &str, value: f64) {
        self.want((0.0..1.0).contains(&value), key, value, "from 0 to below 1");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> Settings {
        let mut settings = Settings::default();
        settings.model.base = "org/model".into();
        settings.data.train = vec![TrainFile::Path("train.jsonl".into())];
        settings.output.dir = "runs/test".into();
        settings
    }

    #[test]
    fn survives_toml_and_back() {
        let mut settings = valid();
        settings.lora.rank_pattern = vec![("q_proj".into(), 8), ("layers\\.0\\..*".into(), 4)];
        settings.lora.alpha_pattern = vec![("q_proj".into(), 8.0)];
        settings.data.train.push(TrainFile::Weighted(Source {
            path: "more.jsonl".into(),
            weight: 0.5,
        }));
        settings.data.validation = Validation::Files(vec!["a.jsonl".into(), "b.jsonl".into()]);
        settings.train.keep_blocks = KeepBlocks::Count(3);
        let text = toml::to_string(&settings).unwrap();
        assert_eq!(toml::from_str::<Settings>(&text).unwrap(), settings, "{text}");
    }

    #[test]
    fn default_values_are_valid_and_serialize_every_key() {
        assert!(valid().validate().unwrap().is_empty());
        let text = toml::to_string(&Settings::default()).unwrap();
        for key in ["revision", "chat_template", "system", "layers", "rank_pattern", "dir"] {
            assert!(text.contains(key), "{key} is missing");
        }
    }

    #[test]
    fn names_every_problem_at_once() {
        let mut settings = Settings::default();
        settings.train.learning_rate = -1.0;
        settings.lora.r = 0;
        let Err(TrainError::Settings { problems }) = settings.validate() else {
            panic!("accepted")
        };
        let keys: Vec<_> = problems.iter().map(|p| p.key.as_str()).collect();
        for key in [
            "model.base",
            "data.train",
            "output.dir",
            "train.learning_rate",
            "lora.r",
        ] {
            assert!(keys.contains(&key), "{key} not in {keys:?}");
        }
    }
}
