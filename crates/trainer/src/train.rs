//! The main path of a run, in the order it happens.
//!
//! On a GPU step 0 is the longest micro-batch without an update, so that what does not fit fails at the start. On a CPU it would
//! cost seconds of every start, and memory is planned from exact sizes.
use crate::checkpoint::{self, Best, Progress, Saved};
use crate::fit::Room;
use crate::identity::Identity;
use crate::metrics::{self, JsonLines};
use crate::optim::{AdamW, Options};
use crate::out_of_memory::Limits;
use crate::prepare::{Prepared, load_model, longest_micro_batch, prepare};
use crate::resume;
use crate::run_dir::{RunDir, RunState, Status};
use crate::schedule::LearningRate;
use crate::step::{StepOptions, StepResult, accumulate, step};
use crate::tensorboard::TensorBoard;
use crate::watch::{EvalMetrics, Event, StepMetrics, Watch};
use crate::{
    Result, TrainError, adapter_out, continued, files, memory, plan::Plan, receipt, serving, settings::Settings, svg,
};
use serde::Serialize;
use serde_json::json;
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;
use tune_data::{Batch, Loader};
use tune_model::causal_lm::sizes;
use tune_model::lora::Init;
use tune_model::ops::switch;
use tune_model::{CausalLm, DeviceKind, staging};

/// How a run is started.
#[derive(Clone)]
pub struct Start<'a> {
    pub settings: &'a Settings,
    /// A run folder or one of its checkpoints to go on from; the run goes on in that folder, whatever `output.dir` says.
    pub resume: Option<&'a Path>,
    /// Go on although data or settings changed, or start over in a run folder that exists.
    pub force: bool,
    /// Folder of the token cache.
    pub cache: Option<PathBuf>,
    pub hub: tune_model::OpenOptions,
    pub device: burn::tensor::Device,
    pub device_why: String,
    /// Bytes the run may take on the device; `None` = what is free.
    pub memory: Option<u64>,
    /// A dry run's device that need not be here.
    pub planned_for: Option<DeviceKind>,
    /// 0 = go on, 1 = save and stop after this step.
    pub stop: &'a AtomicU8,
    pub started: Instant,
}

impl<'a> Start<'a> {
    pub(crate) fn with(&self, settings: &'a Settings) -> Self {
        Self {
            settings,
            ..self.clone()
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    Finished,
    Stopped,
    EarlyStopped,
}

#[derive(Debug, Clone)]
pub struct Outcome {
    pub ended: Ended,
    /// Optimizer steps since the beginning of the run, earlier sessions included.
    pub steps: usize,
    /// Step and loss.
    pub best_eval: Option<(usize, f64)>,
    /// Loss before the first step.
    pub first_eval: Option<f64>,
    /// Loss of the last step; NaN if none was taken.
    pub last_loss: f64,
    pub dir: PathBuf,
    /// Of this session.
    pub seconds: f64,
    pub memory: MemoryUse,
}

/// The peak on the device as it was planned and as it was, weights and all, without what the process held before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryUse {
    pub planned: u64,
    pub measured: Option<u64>,
}

/// The plan alone: opens headers and data, reads no weights (`--dry-run`).
pub fn dry_run(start: &Start<'_>, watch: &mut dyn Watch) -> Result<Plan> {
    start.settings.validate()?;
    let settings = continued::resolve(start.settings)?;
    Ok(prepare(&start.with(&settings), None, watch)?.plan)
}

/// Errors leave the run folder with `state.json` saying so and the last good checkpoint in place.
pub fn train(start: &Start<'_>, watch: &mut dyn Watch) -> Result<Outcome> {
    // What is asked, and where it goes on.
    start.settings.validate()?;
    let settings = continued::resolve(start.settings)?;
    let start = &start.with(&settings);
    let resume = start
        .resume
        .map(|path| resume::locate(path, start.settings))
        .transpose()?;
    let saved = resume.as_ref().and_then(|resume| resume.saved.as_ref());
    if let (Some(resume), Some(saved), false) = (&resume, saved, start.force) {
        resume::check_settings(&resume.dir, saved, start.settings)?;
    }
    refuse_existing(start)?;

    // What it needs, and what will happen.
    let prepared = prepare(start, saved.map(|saved| saved.progress.kept_blocks), watch)?;
    let mut identity = None;
    if let (Some(resume), Some(saved)) = (&resume, saved) {
        resume::check_unfinished(&resume.dir, saved, prepared.plan.total_steps)?;
        let now = prepared.identity(start.settings)?;
        if !start.force {
            resume::refuse_changes(&resume.dir, &now, &saved.progress.identity)?;
        }
        identity = Some(now);
    }
    watch.on(Event::Plan(&prepared.plan));
    let warnings = resume
        .iter()
        .flat_map(|resume| &resume.warnings)
        .chain(&prepared.plan.warnings);
    warnings
        .chain(&prepared.corpus.cache_error)
        .for_each(|warning| watch.on(Event::Warning(warning)));

    // The run, and how it ended.
    let dir = match (&resume, saved) {
        (Some(resume), Some(_)) => RunDir::open(&resume.dir)?,
        (Some(resume), None) => RunDir::create(&resume.dir, true)?,
        (None, _) => RunDir::create(&start.settings.output.dir, start.force)?,
    };
    let mut progress = saved.map(|saved| saved.progress.clone()).unwrap_or_default();
    progress.planned_steps = prepared.plan.total_steps;
    progress.kept_blocks = prepared.plan.keep.blocks;
    let mut run = Run::open(start, &prepared, &dir, progress, identity)?;
    let ended = run.load(saved, watch).and_then(|mut trained| {
        let ended = run.steps(&mut trained, watch)?;
        run.log_memory()?;
        run.deliver()?;
        Ok(ended)
    });
    run.close(ended)
}

/// Before minutes go into reading data; [`RunDir::create`] has the last word.
fn refuse_existing(start: &Start<'_>) -> Result<()> {
    let dir = &start.settings.output.dir;
    let refused = start.resume.is_none() && !start.force && crate::run_dir::is_run(dir);
    if refused {
        Err(TrainError::RunExists { dir: dir.clone() })
    } else {
        Ok(())
    }
}

/// A run in progress: what is fixed, how far it is, and its logs.
struct Run<'a> {
    start: &'a Start<'a>,
    settings: &'a Settings,
    prepared: &'a Prepared,
    dir: &'a RunDir,
    progress: Progress,
    config: String,
    identity: OnceCell<Identity>,
    metrics: JsonLines,
    samples: JsonLines,
    board: Option<TensorBoard>,
    begun: Instant,
    /// Held on the device before the weights.
    memory_before: Option<u64>,
    /// The fastest the device was seen to multiply: in the plan's probe, or in a step that beat it, where other programs had
    /// slowed the probe.
    peak_flops: Option<f64>,
}

/// What changes from step to step on the device.
struct Trained {
    model: CausalLm,
    adamw: AdamW,
    loader: Loader,
    limits: Limits,
}

impl<'a> Run<'a> {
    fn open(
        start: &'a Start<'a>,
        prepared: &'a Prepared,
        dir: &'a RunDir,
        progress: Progress,
        identity: Option<Identity>,
    ) -> Result<Self> {
        let mut settings = start.settings.clone();
        settings.output.dir = dir.path().to_path_buf();
        let config = dir.write_settings(&settings)?;
        checkpoint::remove_after(&dir.checkpoints(), progress.step)?;
        let metrics = JsonLines::open(&dir.join("metrics.jsonl"), progress.step)?;
        let samples = JsonLines::open(&dir.join("samples.jsonl"), progress.step)?;
        let board = match settings.output.tensorboard {
            true => Some(TensorBoard::open(
                &dir.join("tensorboard"),
                &metrics::rows(&dir.join("metrics.jsonl"))?,
            )?),
            false => None,
        };
        files::remove(&dir.join("receipt.json"))?;
        let run = Self {
            start,
            settings: start.settings,
            prepared,
            dir,
            progress,
            config,
            identity: identity.map(OnceCell::from).unwrap_or_default(),
            metrics,
            samples,
            board,
            begun: Instant::now(),
            memory_before: memory::used(&start.device),
            peak_flops: prepared.plan.speed.map(|speed| speed.peak_flops),
        };
        memory::reset_peak(&start.device);
        run.say(Status::Running, None)?;
        Ok(run)
    }

    /// Weights, adapter, optimizer and data order, as they were at `self.progress`.
    fn load(&self, saved: Option<&Saved>, watch: &mut dyn Watch) -> Result<Trained> {
        let settings = self.settings;
        let mut lora = settings.lora_spec();
        let parted = lora.init == Init::Pissa;
        if saved.is_some() {
            // The checkpoint has what it began with.
            lora.init = Init::Kaiming;
        }
        let mut model = load_model(
            &self.prepared.base,
            Some(&lora),
            &self.start.device,
            self.prepared.precision,
            watch,
        )?;
        if self.prepared.plan.recorded.is_some() {
            model.record_steps();
        }
        let train = &settings.train;
        let mut loader = Loader::new(self.prepared.packed.rows.len(), train.batch_size, train.seed);
        let options = Options::of(train);
        let limits = self.limits()?;
        let Some(saved) = saved else {
            let from = &settings.lora.adapter;
            if !from.as_os_str().is_empty() {
                continued::attach(&mut model, from)?;
            }
            let adamw = AdamW::new(options, &model.adapters());
            return Ok(Trained {
                model,
                adamw,
                loader,
                limits,
            });
        };
        match parted {
            true => model.attach_joined(&saved.adapter)?,
            false => model.attach(&saved.adapter)?,
        }
        let moments = saved.moments(&model.adapters(), &self.start.device)?;
        let adamw = AdamW::resumed(options, saved.progress.step, &moments);
        loader.seek(saved.progress.cursor);
        watch.on(Event::Note(&format!("going on after step {}", saved.progress.step)));
        Ok(Trained {
            model,
            adamw,
            loader,
            limits,
        })
    }

    fn limits(&self) -> Result<Limits> {
        let Prepared {
            base, precision, plan, ..
        } = self.prepared;
        let sizes = sizes(base, Some(&self.settings.lora_spec()), *precision)?;
        let room = Room {
            sizes: &sizes,
            kind: DeviceKind::of(&self.start.device),
            bytes: u64::MAX,
        };
        Ok(Limits::new(plan.keep, room.least(), &self.start.device))
    }

    fn options(&self, rate: f64) -> StepOptions {
        let train = &self.settings.train;
        StepOptions {
            step: self.progress.step + 1,
            rate,
            max_grad_norm: train.max_grad_norm,
            seed: train.seed,
            dropout: self.settings.lora.dropout,
            neftune_alpha: train.neftune_alpha,
        }
    }

    /// Step 0: gradients of the longest micro-batch, made and forgotten. What it took is held against the plan.
    fn probe(&self, trained: &mut Trained, watch: &mut dyn Watch) -> Result<()> {
        let (packed, corpus) = (&self.prepared.packed, &self.prepared.corpus);
        let rows = longest_micro_batch(packed, self.settings.train.batch_size);
        let window = [Batch::new(&rows, &corpus.train)?];
        accumulate(&trained.model, &window, &self.options(0.0), &mut trained.limits)?;
        tell(&mut trained.limits, watch);
        let MemoryUse { planned, measured } = self.memory_use();
        if let Some(measured) = measured.filter(|measured| *measured as f64 > planned as f64 * (1.0 + PLAN_TOLERANCE)) {
            watch.on(Event::Note(&format!(
                "the longest micro-batch took {:.2} GB where {:.2} were planned: should memory run out, set train.keep_blocks",
                measured as f64 / 1e9,
                planned as f64 / 1e9
            )));
        }
        Ok(())
    }

    fn steps(&mut self, trained: &mut Trained, watch: &mut dyn Watch) -> Result<Ended> {
        let train = &self.settings.train;
        let total_steps = self.prepared.plan.total_steps;
        let rate = LearningRate::new(train, total_steps);
        let evaluates = train.eval_every > 0 && !self.prepared.evaluator.is_empty();
        if DeviceKind::of(&self.start.device) == DeviceKind::Cuda {
            self.probe(trained, watch)?;
        }
        if evaluates && self.progress.first_eval.is_none() {
            self.evaluate(trained, watch)?;
        }
        self.announce(watch)?;
        let (first_step, begun) = (self.progress.step, Instant::now());
        while self.progress.step < total_steps {
            let step_begun = Instant::now();
            let window = self
                .prepared
                .next_window(&mut trained.loader, train.grad_accumulation)?;
            let lr = rate.at(self.progress.step);
            let options = self.options(lr);
            let Trained {
                model, adamw, limits, ..
            } = &mut *trained;
            let result = step(model, adamw, &window, &options, limits)?;
            tell(limits, watch);
            let metrics = self.count(&result, lr, &trained.loader, step_begun.elapsed().as_secs_f64());
            self.log(&metrics)?;
            let per_step = begun.elapsed().as_secs_f64() / (metrics.step - first_step) as f64;
            let seconds_left = per_step * (total_steps - metrics.step) as f64;
            watch.on(Event::Step {
                metrics: &metrics,
                total_steps,
                seconds_left,
            });

            let last = metrics.step >= total_steps;
            let due = |every: usize| every > 0 && metrics.step.is_multiple_of(every);
            let improved = evaluates && (last || due(train.eval_every)) && self.evaluate(trained, watch)?;
            let stopped = self.start.stop.load(Ordering::Relaxed) != 0 && !last;
            let tired = train.early_stopping > 0 && self.progress.evals_without_improvement >= train.early_stopping;
            if last || improved || stopped || tired || due(train.save_every) {
                self.save(trained, watch)?;
            }
            if tired && !last {
                return Ok(Ended::EarlyStopped);
            }
            if stopped {
                return Ok(Ended::Stopped);
            }
        }
        Ok(Ended::Finished)
    }

    fn memory_use(&self) -> MemoryUse {
        let peak = memory::peak_on(&self.start.device);
        MemoryUse {
            planned: self.prepared.plan.planned_memory(),
            measured: peak
                .zip(self.memory_before)
                .map(|(peak, before)| peak.saturating_sub(before)),
        }
    }

    fn log_memory(&mut self) -> Result<()> {
        let memory = self.memory_use();
        self.metrics.write(&json!({
            "event": "memory",
            "step": self.progress.step,
            "planned_bytes": memory.planned,
            "measured_bytes": memory.measured,
        }))
    }

    fn announce(&mut self, watch: &mut dyn Watch) -> Result<()> {
        let (step, seconds) = (self.progress.step, self.start.started.elapsed().as_secs_f64());
        self.metrics
            .write(&json!({ "event": "start", "step": step, "seconds_to_first_step": seconds }))?;
        let total_steps = self.prepared.plan.total_steps;
        watch.on(Event::Started {
            step,
            total_steps,
            seconds_since_start: seconds,
        });
        Ok(())
    }

    /// Adds a step to the progress and tells what it was.
    fn count(&mut self, result: &StepResult, lr: f64, loader: &Loader, seconds: f64) -> StepMetrics {
        let progress = &mut self.progress;
        progress.step += 1;
        progress.cursor = loader.cursor();
        progress.tokens += result.tokens as u64;
        progress.learned_tokens += result.learned as u64;
        progress.last_loss = result.loss;
        let tokens_per_second = result.tokens as f64 / seconds;
        let flops = self.prepared.plan.floor_flops_per_token * tokens_per_second;
        self.peak_flops = self.peak_flops.map(|peak| peak.max(flops));
        StepMetrics {
            step: self.progress.step,
            epoch: self.epoch(),
            loss: result.loss,
            lr,
            grad_norm: result.grad_norm,
            tokens: self.progress.tokens,
            learned_tokens: self.progress.learned_tokens,
            tokens_per_second,
            learned_tokens_per_second: result.learned as f64 / seconds,
            floor_share: self.peak_flops.map_or(0.0, |peak| flops / peak),
            peak_memory_bytes: memory::peak_on(&self.start.device).unwrap_or(0),
        }
    }

    fn epoch(&self) -> f64 {
        let cursor = self.progress.cursor;
        cursor.epoch as f64 + cursor.position as f64 / self.prepared.packed.rows.len() as f64
    }

    /// Loss on the data held back, and sample answers; true if no trained step was better. Before the first step it
    /// tells where the base stands, which is never the best.
    fn evaluate(&mut self, trained: &Trained, watch: &mut dyn Watch) -> Result<bool> {
        let (step, model) = (self.progress.step, &trained.model);
        let loss = self.prepared.evaluator.loss(model, watch)?;
        let eval_loss = loss.sum / loss.learned as f64;
        if !eval_loss.is_finite() {
            return Err(TrainError::NotFinite {
                what: "validation loss",
                value: eval_loss,
                step,
                rows: Vec::new(),
            });
        }
        let improved = step > 0 && self.progress.best.is_none_or(|best| eval_loss < best.eval_loss);
        match (step, improved) {
            (0, _) => self.progress.first_eval = Some(eval_loss),
            (_, true) => {
                self.progress.best = Some(Best { step, eval_loss });
                self.progress.evals_without_improvement = 0;
            }
            (_, false) => self.progress.evals_without_improvement += 1,
        }
        let metrics = EvalMetrics {
            step,
            epoch: self.epoch(),
            eval_loss,
            perplexity: eval_loss.exp(),
            best: improved,
        };
        self.log(&metrics)?;
        watch.on(Event::Eval(&metrics));
        for sample in self.prepared.evaluator.answers(model, &self.prepared.codec, step)? {
            self.samples.write(&sample)?;
            watch.on(Event::Sample(&sample));
        }
        Ok(improved)
    }

    fn log(&mut self, row: &impl Serialize) -> Result<()> {
        self.metrics.write(row)?;
        if let Some(board) = &mut self.board {
            board.add(&json!(row));
        }
        Ok(())
    }

    fn save(&mut self, trained: &Trained, watch: &mut dyn Watch) -> Result<()> {
        self.progress.identity = self.identity()?.clone();
        self.leave_receipt()?;
        let tensors = trained.model.adapters();
        let adapter = adapter_out::collect(&tensors, self.settings, &self.prepared.base);
        let dir = self.dir.checkpoints();
        let path = checkpoint::save(&dir, &self.progress, &adapter, &tensors, &trained.adamw.moments())?;
        checkpoint::prune(&dir, self.settings.train.keep_last, self.progress.best)?;
        self.say(Status::Running, None)?;
        if let Some(board) = &mut self.board {
            board.flush();
        }
        watch.on(Event::Saved {
            path: &path,
            step: self.progress.step,
        });
        Ok(())
    }

    /// What the run is made of. The base is hashed once and not before it is needed: that costs seconds for a large one.
    fn identity(&self) -> Result<&Identity> {
        if let Some(identity) = self.identity.get() {
            return Ok(identity);
        }
        let identity = self.prepared.identity(self.settings)?;
        Ok(self.identity.get_or_init(|| identity))
    }

    fn leave_receipt(&self) -> Result<()> {
        let path = self.dir.join("receipt.json");
        if path.exists() {
            return Ok(());
        }
        let Prepared {
            base,
            corpus,
            plan,
            precision,
            ..
        } = self.prepared;
        let base_hash = &self.identity()?.base;
        receipt::write(&path, base, base_hash, corpus, &self.config, &plan.device, *precision)
    }

    /// The best adapter and the curve; what there is of them, however the run ended.
    fn deliver(&self) -> Result<()> {
        let rows = metrics::rows(&self.dir.join("metrics.jsonl"))?;
        let title = format!("{} on {}", self.dir.path().display(), self.prepared.base.name);
        let curve = svg::loss_curve(
            &title,
            &metrics::series(&rows, "loss"),
            &metrics::series(&rows, "eval_loss"),
        );
        staging::write_file(&self.dir.join("loss.svg"), curve.as_bytes())?;
        let Some((adapter, progress)) = checkpoint::best_adapter(&self.dir.checkpoints())? else {
            return Ok(());
        };
        let profile = serving::profile(&adapter.config, &self.settings.output.serve_target);
        adapter_out::write(
            &adapter,
            &self.prepared.base,
            Some(&progress),
            &self.dir.join("adapter"),
            profile,
            true,
        )
    }

    fn say(&self, state: Status, reason: Option<String>) -> Result<()> {
        let (step, total_steps) = (self.progress.step, self.prepared.plan.total_steps);
        self.dir.set_state(&RunState {
            state,
            step,
            total_steps,
            reason,
        })
    }

    /// The last word in `state.json`, whether it went well or not.
    fn close(self, ended: Result<Ended>) -> Result<Outcome> {
        let ended = match ended {
            Ok(ended) => ended,
            Err(error) => {
                // The error that ended the run is the one to show; these may well fail for the same reason.
                let _ = self.deliver();
                let _ = self.say(Status::Failed, Some(with_causes(&error)));
                return Err(error);
            }
        };
        match ended {
            Ended::Finished => self.say(Status::Finished, None)?,
            Ended::EarlyStopped => self.say(Status::Finished, Some("validation loss no longer fell".into()))?,
            Ended::Stopped => self.say(Status::Stopped, Some("asked to stop".into()))?,
        }
        Ok(Outcome {
            ended,
            steps: self.progress.step,
            best_eval: self.progress.best.map(|best| (best.step, best.eval_loss)),
            first_eval: self.progress.first_eval,
            last_loss: if self.progress.step == 0 {
                f64::NAN
            } else {
                self.progress.last_loss
            },
            dir: self.dir.path().to_path_buf(),
            seconds: self.begun.elapsed().as_secs_f64(),
            memory: self.memory_use(),
        })
    }
}

/// What memory made the run change, and which kernels failed.
fn tell(limits: &mut Limits, watch: &mut dyn Watch) {
    let off = switch::news().into_iter();
    let off = off.map(|(name, why)| format!("kernel {name} is off from here on: {why}"));
    for note in limits.take_notes().into_iter().chain(off) {
        watch.on(Event::Note(&note));
    }
}

/// How far step 0 may take more than was planned before that is said.
const PLAN_TOLERANCE: f64 = 0.07;

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
