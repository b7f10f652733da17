//! A run or an adapter folder to what servers load, and the proof that it is the same model.
use crate::checkpoint::Progress;
use crate::evaluate::{spread, stop_tokens};
use crate::outputs::{Exported, Form, Outputs, Written, rounding_warning};
use crate::prepare::{load_model, open_base};
use crate::verify::{Measured, Probe};
use crate::watch::{Event, Watch};
use crate::{Result, TrainError, checkpoint, run_dir, serving, settings::Settings};
use serde::Serialize;
use std::path::{Path, PathBuf};
use tune_data::{Codec, Origin, Sample};
use tune_model::peft::{Adapter, AdapterConfig};
use tune_model::precision::Quantize;
use tune_model::{CausalLm, Checkpoint, ModelError, OpenOptions, Precision, gguf, mlx};

pub use crate::verify::Check;

pub struct ExportRequest<'a> {
    /// Run folder (its best adapter), one of its checkpoints, an adapter folder (ours or PEFT's), or a base alone.
    pub from: &'a Path,
    /// Base to use instead of the one the run or adapter names.
    pub base: Option<&'a str>,
    pub outputs: &'a Outputs,
    /// Reload what was written and compare; with nothing to write, the adapter that `from` already holds.
    pub verify: bool,
    /// Merge onto the base as it was before it was quantized for the run, instead of what the adapter was trained on.
    pub onto_original: bool,
    /// Who will serve the adapter; empty = what the run was set to.
    pub serve_target: &'a [String],
    /// Prompts or conversations the check runs on; `None` = the run's validation rows, or built-in texts.
    pub prompts: Option<&'a Path>,
    /// Where to leave token ids and logits for another program to check (`ids.N`, `logits.N`).
    pub logits: Option<&'a Path>,
    pub hub: OpenOptions,
    pub device: burn::tensor::Device,
}

#[derive(Debug, Clone, Serialize)]
pub struct ExportReport {
    /// As the user named it.
    pub base: String,
    /// Where it lies.
    pub base_path: PathBuf,
    pub written: Vec<Written>,
    /// All passed: one that did not is [`TrainError::Verify`].
    pub checks: Vec<Check>,
}

/// Texts compared on.
const PROBES: usize = 8;
/// An adapter read back is the same numbers.
const ADAPTER_BOUND: f64 = 1e-4;
/// Folding the scale into B rounds each of its values once.
const PORTABLE_BOUND: f64 = 1e-3;

/// Builds nothing twice and holds one model at a time: the adapted base answers first, then what was written.
pub fn export(request: &ExportRequest<'_>, watch: &mut dyn Watch) -> Result<ExportReport> {
    request.outputs.check()?;
    let source = Source::open(request)?;
    let Found { adapter, progress, .. } = &source.found;
    if adapter.pairs.is_empty() && request.outputs.wants_adapter() {
        return Err(TrainError::NoAdapter {
            from: request.from.to_path_buf(),
        });
    }
    let serve_target = source.serve_target(request);
    if request.outputs.adapter.is_some() {
        source.refuse_unservable(serve_target)?;
    }
    let exported = Exported {
        adapter,
        base: &source.base,
        progress: progress.as_ref(),
        onto: source.onto(request),
        stop: source.stop_texts(),
    };
    let mut announced = "";
    let profile = serving::profile(&adapter.config, serve_target);
    let written = request.outputs.write(&exported, profile, &mut |name, done, total| {
        if announced != name {
            announced = name;
            watch.on(Event::Phase { name, total });
        }
        watch.on(Event::Progress { done });
    })?;
    for Written { form, merge, .. } in &written {
        if let Some(warning) = merge
            .as_ref()
            .and_then(|merge| rounding_warning(*form, &merge.rounding))
        {
            watch.on(Event::Warning(&warning));
        }
    }
    let mut report = ExportReport {
        base: source.base.name.clone(),
        base_path: source.base.path().to_path_buf(),
        written,
        checks: Vec::new(),
    };
    if request.verify || request.logits.is_some() {
        report.checks = check(request, &source, &report.written, watch)?;
    }
    match report.checks.iter().all(|check| check.passed) {
        true => Ok(report),
        false => Err(TrainError::Verify { checks: report.checks }),
    }
}

/// An adapter, where it was found, and what is known about it.
struct Found {
    adapter: Adapter,
    /// Those of the run; for an adapter folder, defaults with its base.
    settings: Settings,
    /// Adapter folder that is there already.
    folder: Option<PathBuf>,
    progress: Option<Progress>,
}

impl Found {
    fn at(from: &Path) -> Result<Self> {
        if run_dir::is_run(from) {
            Self::run(from)
        } else if checkpoint::is_checkpoint(from) {
            Self::checkpoint(from)
        } else if from.join("adapter_config.json").exists() {
            Self::adapter(from)
        } else if from.is_file() || from.join("config.json").exists() {
            Ok(Self::base(from))
        } else {
            let wanted = "config.toml, trainer.json, adapter_config.json, config.json";
            Err(TrainError::NotARun {
                path: from.to_path_buf(),
                wanted,
            })
        }
    }

    fn run(run: &Path) -> Result<Self> {
        let settings = run_dir::read_settings(run)?;
        let folder = run.join("adapter");
        let (adapter, progress) = match checkpoint::best_adapter(&run.join("checkpoints"))? {
            Some((adapter, progress)) => (adapter, Some(progress)),
            None => (Adapter::read(&folder)?, None),
        };
        Ok(Self {
            adapter,
            settings,
            folder: folder.exists().then_some(folder),
            progress,
        })
    }

    fn checkpoint(from: &Path) -> Result<Self> {
        let path = from.canonicalize().map_err(TrainError::read(from))?;
        let settings = run_dir::read_settings(path.ancestors().nth(2).unwrap_or(from))?;
        let saved = checkpoint::load(from)?;
        let folder = Some(from.join("adapter"));
        Ok(Self {
            adapter: saved.adapter,
            settings,
            folder,
            progress: Some(saved.progress),
        })
    }

    /// A base alone, to write it in another form.
    fn base(from: &Path) -> Self {
        let mut settings = Settings::default();
        settings.model.base = from.display().to_string();
        settings.output.serve_target.clear();
        Self {
            adapter: Adapter {
                config: AdapterConfig::default(),
                pairs: Default::default(),
            },
            settings,
            folder: None,
            progress: None,
        }
    }

    fn adapter(folder: &Path) -> Result<Self> {
        let adapter = Adapter::read(folder)?;
        let mut settings = Settings::default();
        settings.model.base = adapter.config.base_model_name_or_path.clone().unwrap_or_default();
        settings.model.revision = adapter.config.revision.clone().unwrap_or_default();
        settings.model.quantize = adapter.config.quantize;
        settings.output.serve_target.clear();
        // The template it was trained with goes where it goes.
        let template = folder.join("chat_template.jinja");
        if template.exists() {
            settings.model.chat_template = template;
        }
        Ok(Self {
            adapter,
            settings,
            folder: Some(folder.to_path_buf()),
            progress: None,
        })
    }
}

/// What is exported, and onto which base.
struct Source {
    found: Found,
    base: Checkpoint,
    codec: Codec,
}

impl Source {
    fn open(request: &ExportRequest<'_>) -> Result<Self> {
        let mut found = Found::at(request.from)?;
        let model = &mut found.settings.model;
        if let Some(base) = request.base {
            model.base = base.to_string();
            model.revision.clear();
        }
        if model.base.is_empty() {
            return Err(TrainError::NoBase {
                from: request.from.to_path_buf(),
            });
        }
        let (base, codec) = open_base(&found.settings, &request.hub)?;
        found.adapter.config.base_model_name_or_path = Some(base.name.clone());
        found.adapter.config.revision = base.revision.clone();
        Ok(Self { found, base, codec })
    }

    /// What the base was held in while training.
    fn held(&self) -> Quantize {
        self.found.settings.model.quantize
    }

    fn onto(&self, request: &ExportRequest<'_>) -> Quantize {
        match request.onto_original {
            true => Quantize::None,
            false => self.held(),
        }
    }

    /// The adapted base, held as in training or in full.
    fn adapted(&self, held: Quantize, request: &ExportRequest<'_>, watch: &mut dyn Watch) -> Result<CausalLm> {
        let precision = Precision {
            linears: held.stored(),
            ..Precision::F32
        };
        let mut model = load_model(&self.base, None, &request.device, precision, watch)?;
        model.attach(&self.found.adapter)?;
        watch.on(Event::Phase {
            name: "comparing",
            total: 0,
        });
        Ok(model)
    }

    fn serve_target<'a>(&'a self, request: &'a ExportRequest<'_>) -> &'a [String] {
        if request.serve_target.is_empty() {
            &self.found.settings.output.serve_target
        } else {
            request.serve_target
        }
    }

    fn refuse_unservable(&self, serve_target: &[String]) -> Result<()> {
        let rank = self.found.adapter.pairs.values().map(|pair| pair.r).max().unwrap_or(0);
        let mut problems = Vec::new();
        serving::check(
            rank,
            self.found.adapter.config.use_dora,
            &self.found.adapter.config.target_modules,
            serve_target,
            &mut problems,
        );
        if problems.is_empty() {
            Ok(())
        } else {
            Err(TrainError::Settings { problems })
        }
    }

    fn stop_texts(&self) -> Vec<String> {
        let stop = stop_tokens(&self.base, &self.codec);
        stop.iter().map(|token| self.codec.decode(&[*token], false)).collect()
    }

    /// The adapters that were written, read back by what their readers make of them, and how near each must be; where nothing
    /// was written, the adapter that was there.
    fn adapters(&self, written: &[Written]) -> Result<Vec<(&'static str, Adapter, f64)>> {
        let of = |pairs| Adapter {
            config: self.found.adapter.config.clone(),
            pairs,
        };
        let mut adapters = Vec::new();
        for Written { form, path, .. } in written {
            let (adapter, bound) = match form {
                Form::Peft => (Adapter::read(path)?, ADAPTER_BOUND),
                Form::Portable => (Adapter::read(path)?, PORTABLE_BOUND),
                Form::GgufLora => (of(gguf::lora::read(path, &self.base)?), PORTABLE_BOUND),
                Form::Mlx => (of(mlx::read(path)?), PORTABLE_BOUND),
                Form::Merged | Form::Gguf | Form::Modelfile => continue,
            };
            adapters.push((form.name(), adapter, bound));
        }
        if let (Some(folder), true) = (&self.found.folder, written.is_empty()) {
            adapters.push(("adapter", Adapter::read(folder)?, PORTABLE_BOUND));
        }
        Ok(adapters)
    }

    /// Texts to compare on.
    fn probes(&self, request: &ExportRequest<'_>, watch: &mut dyn Watch) -> Result<Vec<Probe>> {
        let samples = match request.prompts {
            Some(path) => self.samples_of(path)?,
            None => self.held_out(watch)?,
        };
        let fits = |sample: &&Sample| sample.tokens.len() >= 2;
        let usable: Vec<_> = samples.iter().filter(fits).collect();
        let probes: Vec<_> = spread(&usable, PROBES).filter_map(|sample| Probe::of(sample)).collect();
        match probes.is_empty() {
            true => Err(TrainError::NoPrompts {
                prompts: request.prompts.unwrap_or(request.from).to_path_buf(),
            }),
            false => Ok(probes),
        }
    }

    /// Conversations with their answers; prompts alone where there are none.
    fn samples_of(&self, path: &Path) -> Result<Vec<Sample>> {
        let spec = self.found.settings.data_spec();
        if let Ok((_, records)) = tune_data::corpus::records(path, &spec) {
            let samples = records
                .iter()
                .map(|record| self.codec.encode_record(record, spec.learn));
            return Ok(samples.collect::<tune_data::Result<_>>()?);
        }
        let prompts = tune_data::corpus::prompts(path, &spec)?;
        let sample = |(origin, messages): (Origin, Vec<_>)| {
            let tokens = self.codec.encode_prompt(&messages)?;
            Ok(Sample::new(tokens, Vec::new(), origin))
        };
        Ok(prompts.into_iter().map(sample).collect::<tune_data::Result<_>>()?)
    }

    fn held_out(&self, watch: &mut dyn Watch) -> Result<Vec<Sample>> {
        if !self.found.settings.data.train.is_empty() && self.found.settings.has_validation() {
            match tune_data::corpus::load(&self.found.settings.data_spec(), &self.codec, None, &|_| ()) {
                Ok(corpus) if !corpus.validation.is_empty() => return Ok(corpus.validation),
                Ok(_) => {}
                Err(error) => {
                    watch.on(Event::Note(&format!(
                        "the run's data cannot be read ({error}); comparing on built-in texts"
                    )));
                }
            }
        }
        let sample = |(line, text): (usize, &str)| {
            let origin = Origin {
                file: "built-in".into(),
                line: line + 1,
            };
            Ok(Sample::new(self.codec.encode(text, true)?, Vec::new(), origin))
        };
        Ok(TEXTS
            .into_iter()
            .enumerate()
            .map(sample)
            .collect::<tune_data::Result<_>>()?)
    }
}

/// Reads back what was `written` and compares it with the adapted base.
fn check(
    request: &ExportRequest<'_>,
    source: &Source,
    written: &[Written],
    watch: &mut dyn Watch,
) -> Result<Vec<Check>> {
    let probes = source.probes(request, watch)?;
    let stop = stop_tokens(&source.base, &source.codec);
    let mut checks = Vec::new();

    let mut model = source.adapted(source.held(), request, watch)?;
    let reference = Measured::of(&model, &probes, &stop)?;
    if let Some(path) = request.logits {
        reference.write(&probes, path)?;
    }
    if !request.verify {
        return Ok(checks);
    }
    let blocks = model.layers();
    for (what, read_back, bound) in source.adapters(written)? {
        model.attach(&read_back)?;
        checks.push(reference.check(what, &Measured::of(&model, &probes, &stop)?, bound));
    }
    drop(model);
    let replaced = source.onto(request) != source.held();
    let mut original = None;
    for Written { form, path, .. } in written.iter().filter(|written| written.merge.is_some()) {
        if replaced && original.is_none() {
            let model = source.adapted(Quantize::None, request, watch)?;
            original = Some(Measured::of(&model, &probes, &stop)?);
        }
        let offline = OpenOptions {
            offline: true,
            ..OpenOptions::default()
        };
        let merged = match Checkpoint::open(&path.display().to_string(), &offline) {
            Err(ModelError::Unsupported { problems, .. }) if *form == Form::Gguf => {
                watch.on(Event::Warning(&format!(
                    "{} was not read back: {}",
                    path.display(),
                    problems.join(", ")
                )));
                continue;
            }
            merged => merged?,
        };
        let stored = match form {
            Form::Gguf => request.outputs.gguf_type(&source.base),
            _ => merged.export_dtype(),
        };
        let model = load_model(&merged, None, &request.device, Precision::F32, watch)?;
        watch.on(Event::Phase {
            name: "comparing",
            total: 0,
        });
        let bound = reference.merged_bound(stored, blocks);
        let merged = Measured::of(&model, &probes, &stop)?;
        checks.push(
            original
                .as_ref()
                .unwrap_or(&reference)
                .check(form.name(), &merged, bound),
        );
        if replaced {
            // What leaving the base it was trained on costs is told, not judged.
            checks.push(reference.check("trained", &merged, f64::INFINITY));
        }
    }
    Ok(checks)
}

/// For an adapter that comes without data.
const TEXTS: [&str; PROBES] = [
    "The capital of France is",
    "Write a short poem about the sea.",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "Water boils at 100 degrees Celsius at sea level, because",
    "Dear customer, thank you for your message. We are sorry to hear that",
    "1, 1, 2, 3, 5, 8, 13, 21,",
    "Q: How do I reset my password?\nA:",
    "Once upon a time, in a village by the river, there lived",
];
