//! What a run tells, as bars on a terminal and as plain lines every few seconds elsewhere.
use crate::printer::{Printer, Style, bytes, count, duration, plural, row};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::{Duration, Instant};
use tune_model::Keep;
use tune_trainer::plan::Plan;
use tune_trainer::watch::{EvalMetrics, Event, SampleAnswer, StepMetrics, Watch};

/// Between two plain lines where nothing can move.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// Longest part of a sample answer shown.
const SAMPLE_WIDTH: usize = 300;

/// Of the memory table.
const PARTS_A_LINE: usize = 3;

pub struct Console {
    printer: Printer,
    /// The phase under way.
    phase: Option<Phase>,
    /// The bar of optimizer steps, below every phase.
    steps: Option<ProgressBar>,
    /// When the last plain line of a step was printed.
    step_told: Option<Instant>,
}

struct Phase {
    name: String,
    total: usize,
    bar: ProgressBar,
    began: Instant,
    /// When the last plain line was printed.
    told: Option<Instant>,
}

/// Whether a plain line is due after one at `told`, or after silence since `began`.
fn due(told: Option<Instant>, began: Instant) -> bool {
    told.unwrap_or(began).elapsed() >= PLAIN_EVERY
}

impl Console {
    pub fn new(printer: &Printer) -> Self {
        Self {
            printer: printer.clone(),
            phase: None,
            steps: None,
            step_told: None,
        }
    }

    /// Takes the bars away, so that what follows starts on a clean line.
    pub fn finish(&mut self) {
        self.end_phase();
        if let Some(bar) = self.steps.take() {
            bar.finish_and_clear();
        }
    }

    fn moving(&self) -> bool {
        self.printer.live && !self.printer.quiet
    }

    fn bar(&self, total: usize, template: &str) -> ProgressBar {
        let target = if self.moving() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target((total > 0).then_some(total as u64), target);
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("━╸─"));
        bar
    }

    /// A line that bars do not overwrite.
    fn line(&self, text: &str) {
        let active = self
            .phase
            .as_ref()
            .map(|phase| &phase.bar)
            .filter(|_| self.moving())
            .or(self.steps.as_ref());
        match active.filter(|_| self.moving()) {
            Some(bar) => bar.suspend(|| self.printer.talk(text)),
            None => self.printer.talk(text),
        }
    }

    fn begin_phase(&mut self, name: &str, total: usize) {
        self.end_phase();
        // Two bars would fight for one line: that of the steps waits.
        if let Some(steps) = &self.steps {
            steps.set_draw_target(ProgressDrawTarget::hidden());
        }
        let template = if total > 0 {
            "  {msg:<22} {bar:30} {pos}/{len} {eta}"
        } else {
            "  {msg:<22} {spinner} {elapsed}"
        };
        let bar = self.bar(total, template);
        bar.set_message(name.to_string());
        if total == 0 {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        self.phase = Some(Phase {
            name: name.into(),
            total,
            bar,
            began: Instant::now(),
            told: None,
        });
    }

    /// What the phase under way is called from now on.
    pub fn rename(&mut self, name: &str) {
        if let Some(phase) = &mut self.phase {
            phase.name = name.into();
            phase.bar.set_message(name.to_string());
        }
    }

    fn progress(&mut self, done: usize) {
        let moving = self.moving();
        let Some(phase) = &mut self.phase else { return };
        phase.bar.set_position(done as u64);
        if !moving && due(phase.told, phase.began) {
            phase.told = Some(Instant::now());
            let of = if phase.total > 0 {
                format!(" of {}", phase.total)
            } else {
                String::new()
            };
            let took = duration(phase.began.elapsed().as_secs_f64());
            self.printer.talk(&format!("  {} {done}{of}, {took}", phase.name));
        }
    }

    fn end_phase(&mut self) {
        let Some(phase) = self.phase.take() else { return };
        phase.bar.finish_and_clear();
        let took = phase.began.elapsed();
        // What took no time, and was not spoken of, is not worth a line.
        if phase.told.is_some() || took >= Duration::from_secs(1) {
            let text = format!("{} {}", phase.name, duration(took.as_secs_f64()));
            self.printer.talk(&format!("  {}", self.printer.style.dim(&text)));
        }
        if let Some(steps) = self.steps.as_ref().filter(|_| self.moving()) {
            steps.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    fn started(&mut self, step: usize, total: usize, seconds: f64) {
        self.end_phase();
        self.line(&format!("  first step after {}\n", duration(seconds)));
        let bar = self.bar(total, "  {pos}/{len} {bar:16} {wide_msg}");
        bar.set_position(step.saturating_sub(1) as u64);
        self.steps = Some(bar);
        self.step_told = None;
    }

    fn step(&mut self, metrics: &StepMetrics, total: usize, left: f64) {
        self.end_phase();
        if let Some(bar) = &self.steps {
            bar.set_position(metrics.step as u64);
            bar.set_message(measures(&self.printer.style, metrics, left));
        }
        let first_or_last = self.step_told.is_none() || metrics.step == total;
        if !self.moving() && (first_or_last || due(self.step_told, Instant::now())) {
            self.step_told = Some(Instant::now());
            let text = measures(&self.printer.style, metrics, left);
            self.printer.talk(&format!("  step {}/{total}  {text}", metrics.step));
        }
    }

    fn evaluated(&mut self, eval: &EvalMetrics) {
        self.end_phase();
        let best = if eval.best {
            self.printer.style.green("  best so far")
        } else {
            String::new()
        };
        let numbers = format!("eval loss {:.4}  perplexity {:.3}", eval.eval_loss, eval.perplexity);
        self.line(&format!(
            "  step {}  epoch {:.2}  {numbers}{best}",
            eval.step, eval.epoch
        ));
    }

    fn sample(&mut self, sample: &SampleAnswer) {
        self.end_phase();
        let style = &self.printer.style;
        let mut text = row(style, "    asked", &shortened(&sample.prompt));
        text += &format!("\n{}", row(style, "    answers", &shortened(&sample.answer)));
        if !sample.reference.is_empty() {
            text += &format!(
                "\n{}",
                row(style, "    wanted", &style.dim(&shortened(&sample.reference)))
            );
        }
        self.line(&format!("{text}\n"));
    }
}

impl Watch for Console {
    fn on(&mut self, event: Event<'_>) {
        match event {
            Event::Phase { name, total } => self.begin_phase(name, total),
            Event::Progress { done } => self.progress(done),
            Event::Plan(plan) => {
                self.end_phase();
                self.line(&plan_table(&self.printer.style, plan));
            }
            Event::Started {
                step,
                total_steps,
                seconds_since_start,
            } => {
                self.started(step, total_steps, seconds_since_start);
            }
            Event::Step {
                metrics,
                total_steps,
                seconds_left,
            } => self.step(metrics, total_steps, seconds_left),
            Event::Eval(eval) => self.evaluated(eval),
            Event::Sample(sample) => self.sample(sample),
            Event::Saved { path, step } => {
                self.end_phase();
                let text = format!("step {step}  saved {}", path.display());
                self.line(&format!("  {}", self.printer.style.dim(&text)));
            }
            Event::Note(text) => self.line(&format!("  {text}")),
            Event::Warning(text) => match self.steps.as_ref().filter(|_| self.moving()) {
                Some(bar) => bar.suspend(|| self.printer.warning(text)),
                None => self.printer.warning(text),
            },
        }
    }
}

/// `loss 1.2340  3 min 05 s left  812 tok/s (331 learned)  71 % of floor  lr 2.0e-4  1.4 GB`
fn measures(style: &Style, m: &StepMetrics, left: f64) -> String {
    let loss = style.bold(&format!("loss {:.4}", m.loss));
    let speed = format!(
        "{} tok/s ({} learned)",
        count(m.tokens_per_second.round()),
        count(m.learned_tokens_per_second.round())
    );
    let floor = format!("{:.0} % of floor", m.floor_share * 100.0);
    let memory = bytes(m.peak_memory_bytes);
    format!(
        "{loss}  {} left  {speed}  {floor}  lr {:.1e}  {memory}",
        duration(left),
        m.lr
    )
}

/// The plan as a table of `name  value` rows.
pub fn plan_table(style: &Style, plan: &Plan) -> String {
    let share = |part: usize, whole: usize| 100.0 * part as f64 / whole.max(1) as f64;
    let number = |n: usize| count(n as f64);
    let changed = [(plan.cut, "cut"), (plan.split, "split"), (plan.dropped, "dropped")];
    let changed: String = changed
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, what)| format!(", {n} {what}"))
        .collect();
    let parts: Vec<_> = plan
        .memory
        .iter()
        .filter(|part| part.bytes > 0)
        .map(|part| format!("{} {}", part.name, bytes(part.bytes)))
        .collect();
    let rows = [
        ("device", plan.device_why.clone()),
        (
            "base",
            format!(
                "{} ({}, {} parameters)",
                plan.base,
                plan.family,
                number(plan.total_params)
            ),
        ),
        (
            "adapter",
            format!(
                "{} trainable parameters ({:.2} %) in {}",
                number(plan.trainable_params),
                share(plan.trainable_params, plan.total_params),
                plural(plan.adapted_modules, "module")
            ),
        ),
        (
            "data",
            format!(
                "{} to train on, {} to evaluate on{changed}\n{}, {:.0} % full",
                plural(plan.train_records, "record"),
                number(plan.validation_records),
                plural(plan.rows, "row"),
                plan.fill * 100.0
            ),
        ),
        (
            "tokens",
            format!(
                "{} an epoch, {} learned ({:.0} %)",
                number(plan.tokens_per_epoch),
                number(plan.learned_per_epoch),
                share(plan.learned_per_epoch, plan.tokens_per_epoch)
            ),
        ),
        (
            "steps",
            format!(
                "{} ({:.4} epochs of {}), {} tokens each",
                plan.total_steps,
                Trimmed(plan.epochs),
                plan.steps_per_epoch,
                count(plan.tokens_per_step.round())
            ),
        ),
        (
            "memory",
            format!(
                "{}{}; {}\n{}",
                bytes(plan.planned_memory()),
                plan.usable_memory
                    .map(|usable| format!(" of {}", bytes(usable)))
                    .unwrap_or_default(),
                blocks(plan.keep, plan.blocks, plan.host_memory, plan.recorded),
                parts
                    .chunks(PARTS_A_LINE)
                    .map(|line| line.join(", "))
                    .collect::<Vec<_>>()
                    .join(",\n")
            ),
        ),
        (
            "length",
            plan.longest_that_fits
                .map(|longest| match longest == plan.context {
                    true => format!("{} tokens fit, all that the model sees", grouped(longest)),
                    false => format!("longest sequence that fits: {} tokens", grouped(longest)),
                })
                .unwrap_or_default(),
        ),
        (
            "time",
            plan.speed
                .map(|speed| {
                    format!(
                        "about {} ({}FLOP a token, this machine {}FLOP/s)",
                        duration(speed.expected_seconds),
                        spaced(plan.floor_flops_per_token),
                        spaced(speed.peak_flops)
                    )
                })
                .unwrap_or_default(),
        ),
    ];
    rows.iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| row(style, name, value))
        .collect::<Vec<_>>()
        .join("\n")
}

/// `10 of 32 blocks kept, 12 recomputed, 10 offloaded to 2.1 GB of host memory`
pub fn blocks(keep: Keep, blocks: usize, host_memory: u64, recorded: Option<u64>) -> String {
    let (kept, offloaded) = (keep.blocks, keep.offloaded);
    let recomputed = blocks.saturating_sub(kept + offloaded);
    let mut text = format!("{kept} of {blocks} blocks kept");
    if recomputed > 0 {
        text += &format!(", {recomputed} recomputed");
    }
    if offloaded > 0 {
        text += &format!(", {offloaded} offloaded to {} of host memory", bytes(host_memory));
    }
    if let Some(held) = recorded {
        text += &format!("; steps are recorded, in {} more", bytes(held));
    }
    text
}

/// `78,000`
pub fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let groups: Vec<_> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| String::from_utf8_lossy(group).into_owned())
        .collect();
    groups.join(",")
}

/// A number with at most the given decimals, none where they are zero.
struct Trimmed(f64);

impl std::fmt::Display for Trimmed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = format!("{:.2}", self.0);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// `538 M` so that a unit may follow: `538 MFLOP`, `12 FLOP`.
fn spaced(value: f64) -> String {
    let text = count(value);
    if text.contains(' ') { text } else { format!("{text} ") }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SAMPLE_WIDTH) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tune_model::memory::Part;
    use tune_trainer::plan::Speed;

    #[test]
    fn the_plan_reads_as_a_table() {
        let memory = [("weights", 538_000_000), ("activations", 600_000_000)];
        let plan = Plan {
            device: "flex".into(),
            device_why: "flex, pure-Rust CPU, 2 cores (auto: the only backend in this build)".into(),
            base: "org/name".into(),
            family: "llama".into(),
            total_params: 134_515_008,
            trainable_params: 4_884_480,
            adapted_modules: 210,
            train_records: 323,
            validation_records: 17,
            rows: 26,
            fill: 0.98,
            cut: 2,
            split: 0,
            dropped: 0,
            tokens_per_epoch: 25_700,
            learned_per_epoch: 10_500,
            steps_per_epoch: 4,
            total_steps: 12,
            epochs: 3.0,
            tokens_per_step: 6_425.4,
            memory: memory
                .map(|(name, bytes)| Part {
                    name: name.into(),
                    bytes,
                })
                .to_vec(),
            usable_memory: Some(20_000_000_000),
            keep: Keep {
                blocks: 25,
                offloaded: 0,
            },
            blocks: 30,
            host_memory: 0,
            recorded: None,
            longest_that_fits: Some(78_123),
            context: 131_072,
            floor_flops_per_token: 5.6e8,
            speed: Some(Speed {
                peak_flops: 1.0e11,
                expected_seconds: 431.0,
            }),
            warnings: vec![],
        };
        let table = plan_table(&Style { on: false }, &plan);
        let expected = "  \
  device      flex, pure-Rust CPU, 2 cores (auto: the only backend in this build)
  base        org/name (llama, 135 M parameters)
  adapter     4.9 M trainable parameters (3.63 %) in 210 modules
  data        323 records to train on, 17 to evaluate on, 2 cut
              26 rows, 98 % full
  tokens      25.7 k an epoch, 10.5 k learned (41 %)
  steps       12 (3 epochs of 4), 6.4 k tokens each
  memory      1.1 GB of 20.0 GB; 25 of 30 blocks kept, 5 recomputed
              weights 538 MB, activations 600 MB
  length      longest sequence that fits: 78,123 tokens
  time        about 7 min 11 s (560 MFLOP a token, this machine 100 GFLOP/s)";
        assert_eq!(
            table,
            expected.trim_start_matches(' ').replacen("device", "  device", 1)
        );
    }
}
