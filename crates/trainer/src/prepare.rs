//! From settings to everything a run needs but the weights: base, tokenizer, data, rows, plan.
use crate::evaluate::{Evaluator, stop_tokens};
use crate::plan::{Plan, Sources, plan};
use crate::train::Start;
use crate::watch::{Event, Watch};
use crate::{Result, TrainError, identity::Identity, settings::Settings};
use burn::tensor::Device;
use std::cmp::Reverse;
use std::sync::Mutex;
use tune_data::corpus::Progress;
use tune_data::{Batch, Codec, Corpus, Loader, Packed, Row, pack};
use tune_model::causal_lm::{Sizes, sizes};
use tune_model::lora::LoraSpec;
use tune_model::{CausalLm, Checkpoint, DeviceKind, OpenOptions, Precision};

pub struct Prepared {
    pub base: Checkpoint,
    pub codec: Codec,
    pub corpus: Corpus,
    pub packed: Packed,
    pub evaluator: Evaluator,
    pub precision: Precision,
    pub plan: Plan,
}

/// Reads headers and data, no weights. `kept_before`: blocks kept by the run that goes on.
pub fn prepare(start: &Start<'_>, kept_before: Option<usize>, watch: &mut dyn Watch) -> Result<Prepared> {
    let settings = start.settings;
    let mut warnings = settings.validate()?;
    let (base, codec) = open_base(settings, &start.hub)?;
    let lora = settings.lora_spec();
    let kind = start.planned_for.unwrap_or_else(|| DeviceKind::of(&start.device));
    let precision = Precision::resolve_for(settings.model.dtype, settings.model.quantize, kind)?;
    let sizes = sizes(&base, Some(&lora), precision)?;
    if base.is_quantized() && !precision.linears.is_quantized() {
        warnings.push(
            "the base is stored in 4 or 8 bits and held in full: model.quantize = \"nf4\" or \"int8\" keeps it as it is".into(),
        );
    }

    let corpus = load_data(start, &codec, watch)?;
    let data = &settings.data;
    let packed = pack::pack(&corpus.train, data.max_length, data.packing, data.too_long)?;
    check_fit(&base, &sizes, &corpus, &packed)?;
    let longest = longest_micro_batch(&packed, settings.train.batch_size)
        .iter()
        .map(|row| row.len())
        .sum();
    let evaluator = Evaluator::new(settings, &corpus.validation, stop_tokens(&base, &codec), longest)?;
    let plan = plan(Sources {
        settings,
        base: &base,
        sizes: &sizes,
        corpus: &corpus,
        packed: &packed,
        validation_tokens: evaluator.tokens(),
        device: &start.device,
        precision,
        device_why: &start.device_why,
        kind,
        budget: start.memory,
        kept_before,
        warnings,
    })?;
    Ok(Prepared {
        base,
        codec,
        corpus,
        packed,
        evaluator,
        precision,
        plan,
    })
}

impl Prepared {
    /// Hashes the base.
    pub fn identity(&self, settings: &Settings) -> Result<Identity> {
        Ok(Identity::new(
            settings,
            self.precision,
            &self.corpus,
            self.base.fingerprint()?,
        ))
    }

    /// The micro-batches of the next step. A window ends with its epoch, so that each epoch sees each row once.
    pub fn next_window(&self, loader: &mut Loader, accumulation: usize) -> Result<Vec<Batch>> {
        let mut window = Vec::with_capacity(accumulation);
        while window.len() < accumulation {
            let micro = loader.next_batch();
            let rows: Vec<_> = micro.rows.iter().map(|row| &self.packed.rows[*row]).collect();
            window.push(Batch::new(&rows, &self.corpus.train)?);
            if micro.last_of_epoch {
                break;
            }
        }
        Ok(window)
    }
}

/// The rows that make the most tokens together.
pub fn longest_micro_batch(packed: &Packed, batch_size: usize) -> Vec<&Row> {
    let mut rows: Vec<_> = packed.rows.iter().collect();
    rows.sort_by_key(|row| Reverse(row.len()));
    rows.truncate(batch_size);
    rows
}

/// The base and its tokenizer, with the chat template the settings name in place of the base's own.
pub fn open_base(settings: &Settings, hub: &OpenOptions) -> Result<(Checkpoint, Codec)> {
    let mut base = Checkpoint::open(&settings.model.base, &settings.open_options(hub))?;
    let template = &settings.model.chat_template;
    if !template.as_os_str().is_empty() {
        base.text.chat_template = Some(fs_err::read_to_string(template).map_err(TrainError::read(template))?);
    }
    let codec = codec(&base)?;
    Ok((base, codec))
}

/// The weights onto `device`, with progress.
pub fn load_model(
    base: &Checkpoint,
    lora: Option<&LoraSpec>,
    device: &Device,
    precision: Precision,
    watch: &mut dyn Watch,
) -> Result<CausalLm> {
    let mut announced = false;
    Ok(CausalLm::load(base, lora, device, precision, &mut |done, total| {
        if !announced {
            announced = true;
            watch.on(Event::Phase {
                name: "loading weights",
                total,
            });
        }
        watch.on(Event::Progress { done });
    })?)
}

pub fn codec(base: &Checkpoint) -> Result<Codec> {
    let text = &base.text;
    Ok(Codec::new(
        &text.tokenizer_json,
        text.tokenizer_config.as_ref(),
        text.chat_template.as_deref(),
    )?)
}

fn load_data(start: &Start<'_>, codec: &Codec, watch: &mut dyn Watch) -> Result<Corpus> {
    let settings = start.settings;
    let cache = start.cache.as_deref().filter(|_| settings.data.cache);
    // The tokenizer reports from all its threads.
    let watch = Mutex::new((watch, false));
    let progress = |progress: Progress| {
        let Ok(mut guard) = watch.lock() else { return };
        let (watch, tokenizing) = &mut *guard;
        match progress {
            Progress::Reading { file } => watch.on(Event::Phase {
                name: &format!("reading {file}"),
                total: 0,
            }),
            Progress::Tokenizing { done, total } => {
                if !*tokenizing {
                    *tokenizing = true;
                    watch.on(Event::Phase {
                        name: "tokenizing",
                        total,
                    });
                }
                watch.on(Event::Progress { done });
            }
            Progress::Cached => watch.on(Event::Note("tokens read from the cache")),
        }
    };
    Ok(tune_data::corpus::load(&settings.data_spec(), codec, cache, &progress)?)
}

/// Whether the model can see what the data holds: token ids and segment lengths.
fn check_fit(base: &Checkpoint, sizes: &Sizes, corpus: &Corpus, packed: &Packed) -> Result<()> {
    let tokens = corpus
        .train
        .iter()
        .chain(&corpus.validation)
        .flat_map(|sample| &sample.tokens);
    let highest = tokens.copied().max().unwrap_or(0) as usize;
    if highest >= sizes.shape.vocab {
        return Err(TrainError::TokenizerMisfit {
            token: highest,
            vocab: sizes.shape.vocab,
            base: base.name.clone(),
        });
    }
    let longest = packed
        .rows
        .iter()
        .flat_map(|row| &row.pieces)
        .map(|piece| piece.len())
        .max()
        .unwrap_or(0);
    if longest > sizes.shape.context {
        return Err(TrainError::LongerThanContext {
            longest,
            context: sizes.shape.context,
            base: base.name.clone(),
        });
    }
    Ok(())
}
