//! A model ready to answer: base, adapter, tokenizer, and where an answer ends. Shared by `generate` and `chat`.
use crate::args::{Model, Sampling};
use crate::errors::Failure;
use crate::printer::{Printer, count, duration};
use crate::watch::Console;
use crate::{device, environment};
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tune_data::Codec;
use tune_model::generate::GenerateOptions;
use tune_model::peft::Adapter;
use tune_model::{CausalLm, Checkpoint, ModelError, Precision};
use tune_trainer::watch::{Event, Watch};

pub struct Answering {
    pub model: CausalLm,
    pub codec: Codec,
    /// Tokens that end an answer.
    pub stop: Vec<u32>,
}

impl Answering {
    pub fn load(args: &Model, printer: &Printer) -> anyhow::Result<Self> {
        let began = Instant::now();
        let chosen = device::checked(&args.device, printer)?;
        let precision = Precision::resolve(args.dtype.into(), args.quantize.into(), &chosen.device)?;
        let adapter = args.adapter.as_deref().map(read_adapter).transpose()?;
        let base = base_of(args, adapter.as_ref())?;
        let base = open(
            &base,
            args.revision.as_deref().or(adapter_revision(args, adapter.as_ref())),
            printer,
        )?;
        let codec = codec(&base, args.chat_template.as_deref())?;
        let mut console = Console::new(printer);
        let loaded = CausalLm::load(&base, None, &chosen.device, precision, &mut |done, total| {
            if done <= 1 {
                console.on(Event::Phase {
                    name: "loading weights",
                    total,
                });
            }
            console.on(Event::Progress { done });
        });
        console.finish();
        let mut model = loaded?;
        if let Some(adapter) = &adapter {
            model.attach(adapter)?;
        }
        let with = match (&args.adapter, &adapter) {
            (Some(dir), Some(adapter)) => {
                format!(" with {} ({} modules)", dir.display(), adapter.pairs.len())
            }
            _ => String::new(),
        };
        printer.talk(&format!(
            "{}{with}, ready in {}",
            base.name,
            duration(began.elapsed().as_secs_f64())
        ));
        let stop = stop_tokens(&base, &codec);
        Ok(Self { model, codec, stop })
    }

    pub fn options(&self, sampling: &Sampling, logprobs: usize) -> GenerateOptions {
        GenerateOptions {
            max_new_tokens: sampling.max_new_tokens,
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            repetition_penalty: sampling.repetition_penalty,
            seed: sampling.seed,
            stop: self.stop.clone(),
            logprobs,
        }
    }

    /// Refuses a prompt that leaves no room for an answer, before any other is answered.
    pub fn fits(&self, prompt: &[u32], place: &str) -> anyhow::Result<()> {
        let context = self.model.context();
        if prompt.len() < context {
            return Ok(());
        }
        let error = ModelError::TooLong {
            tokens: prompt.len() + 1,
            context,
        };
        Err(error).with_context(|| format!("{place} is too long to be answered"))
    }
}

/// `58 tokens in 2.1 s (27.6 tokens/s)`.
pub fn speed(tokens: usize, began: Instant) -> String {
    let seconds = began.elapsed().as_secs_f64();
    format!(
        "{tokens} tokens in {} ({} tokens/s)",
        duration(seconds),
        count(tokens as f64 / seconds.max(1e-9))
    )
}

/// Opens a base with the hub as the environment says.
pub fn open(base: &str, revision: Option<&str>, printer: &Printer) -> tune_model::Result<Checkpoint> {
    Checkpoint::open(base, &environment::hub(revision, false, printer.live && !printer.quiet))
}

/// The base's tokenizer, with `template` in place of its own chat template.
pub fn codec(base: &Checkpoint, template: Option<&Path>) -> anyhow::Result<Codec> {
    let given = template
        .map(fs_err::read_to_string)
        .transpose()
        .context("cannot read the chat template")?;
    let template = given.as_deref().or(base.text.chat_template.as_deref());
    let (tokenizer, config) = (&base.text.tokenizer_json, base.text.tokenizer_config.as_ref());
    Codec::new(tokenizer, config, template).with_context(|| format!("cannot read texts as {} does", base.name))
}

/// An adapter folder, or a run folder or checkpoint that holds one.
fn read_adapter(dir: &Path) -> anyhow::Result<Adapter> {
    let folder = adapter_folder(dir).ok_or_else(|| {
        Failure::error(
            format!(
                "{} holds no adapter: there is no adapter_config.json in it, nor in its adapter/",
                dir.display()
            ),
            "name a run folder, or an adapter folder in PEFT layout",
        )
    })?;
    Ok(Adapter::read(&folder)?)
}

pub fn adapter_folder(dir: &Path) -> Option<PathBuf> {
    [dir.to_path_buf(), dir.join("adapter")]
        .into_iter()
        .find(|folder| folder.join("adapter_config.json").is_file())
}

fn base_of(args: &Model, adapter: Option<&Adapter>) -> anyhow::Result<String> {
    let named = adapter.and_then(|adapter| adapter.config.base_model_name_or_path.clone());
    args.base
        .clone()
        .or(named)
        .filter(|base| !base.is_empty())
        .ok_or_else(|| Failure::error("the adapter does not name its base model", "name it with --base"))
}

/// The adapter's own revision counts only for the base it names.
fn adapter_revision<'a>(args: &Model, adapter: Option<&'a Adapter>) -> Option<&'a str> {
    adapter
        .filter(|_| args.base.is_none())
        .and_then(|adapter| adapter.config.revision.as_deref())
}

/// The end of a turn, the end of text, and what `generation_config.json` adds.
pub fn stop_tokens(base: &Checkpoint, codec: &Codec) -> Vec<u32> {
    let listed = base
        .generation_config
        .as_ref()
        .and_then(|config| config.get("eos_token_id"));
    let listed = listed
        .map(|ids| ids.as_array().cloned().unwrap_or_else(|| vec![ids.clone()]))
        .unwrap_or_default();
    let listed = listed
        .iter()
        .filter_map(|id| id.as_u64())
        .filter_map(|id| u32::try_from(id).ok());
    let mut stop: Vec<u32> = codec
        .eos()
        .into_iter()
        .chain(codec.end_of_turn())
        .chain(listed)
        .collect();
    stop.sort_unstable();
    stop.dedup();
    stop
}
