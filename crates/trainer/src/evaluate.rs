//! Loss on the data held back, and answers to its prompts.
use crate::watch::{Event, SampleAnswer, Watch};
use crate::{Result, settings::Settings, tensors};
use serde_json::Value;
use tune_data::{Batch, Codec, Sample, pack};
use tune_model::generate::{GenerateOptions, generate};
use tune_model::{CausalLm, Checkpoint, Input, Loss};

/// One validation sample as question and answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// All tokens before the first learned one.
    pub prompt: Vec<u32>,
    /// The first learned run.
    pub reference: Vec<u32>,
}

impl Probe {
    /// `None` where nothing is learned or nothing comes before it.
    pub fn of(sample: &Sample) -> Option<Self> {
        let start = sample.learn.iter().position(|learned| *learned)?;
        let length = sample.learn[start..].iter().take_while(|learned| **learned).count();
        let (prompt, rest) = sample.tokens.split_at(start);
        (!prompt.is_empty()).then(|| Self {
            prompt: prompt.to_vec(),
            reference: rest[..length].to_vec(),
        })
    }
}

/// Never more at once than training has, so that evaluating does not raise the peak; one prompt and its answer may have twice as
/// many tokens, of which less is held than of training's.
pub struct Evaluator {
    batches: Vec<Input>,
    probes: Vec<Probe>,
    options: GenerateOptions,
    /// Tokens of training's longest micro-batch.
    tokens_at_once: usize,
}

impl Evaluator {
    pub fn new(settings: &Settings, validation: &[Sample], stop: Vec<u32>, tokens_at_once: usize) -> Result<Self> {
        let (data, train) = (&settings.data, &settings.train);
        let mut batches = Vec::new();
        if !validation.is_empty() {
            let rows = pack::pack(validation, data.max_length, data.packing, data.too_long)?.rows;
            for rows in chunks(&rows, |row| row.len(), tokens_at_once) {
                batches.push(tensors::input(&Batch::new(
                    &rows.iter().collect::<Vec<_>>(),
                    validation,
                )?));
            }
        }
        let probes = spread(validation, train.samples).filter_map(Probe::of).collect();
        Ok(Self {
            batches,
            probes,
            options: GenerateOptions {
                stop,
                ..GenerateOptions::greedy(train.sample_tokens)
            },
            tokens_at_once,
        })
    }

    /// Whether there is anything to evaluate on.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub fn tokens(&self) -> usize {
        self.batches.iter().map(|input| input.tokens.len()).sum()
    }

    pub fn loss(&self, model: &CausalLm, watch: &mut dyn Watch) -> Result<Loss> {
        watch.on(Event::Phase {
            name: "evaluating",
            total: self.batches.len(),
        });
        let mut total = Loss::default();
        for (done, input) in self.batches.iter().enumerate() {
            let loss = model.loss(input)?;
            total = total + loss;
            watch.on(Event::Progress { done: done + 1 });
        }
        Ok(total)
    }

    /// A prompt's, and those of its answer.
    fn tokens_of(&self, probe: &Probe) -> usize {
        probe.prompt.len() + self.options.max_new_tokens
    }

    fn fitting(&self, context: usize) -> Vec<&Probe> {
        let most = context.min(2 * self.tokens_at_once);
        self.probes
            .iter()
            .filter(|probe| self.tokens_of(probe) <= most)
            .collect()
    }

    /// Greedy answers to the same few prompts each time.
    pub fn answers(&self, model: &CausalLm, codec: &Codec, step: usize) -> Result<Vec<SampleAnswer>> {
        if self.probes.is_empty() {
            return Ok(Vec::new());
        }
        let fitting = self.fitting(model.context());
        let mut answers = Vec::with_capacity(fitting.len());
        for probes in chunks(&fitting, |probe| self.tokens_of(probe), self.tokens_at_once) {
            let prompts: Vec<_> = probes.iter().map(|probe| probe.prompt.clone()).collect();
            answers.extend(generate(model, &prompts, &self.options, &mut |_, _| true)?);
        }
        let text = |tokens: &[u32]| codec.decode(tokens, true);
        let pairs = fitting.iter().zip(&answers);
        Ok(pairs
            .map(|(probe, answer)| SampleAnswer {
                step,
                prompt: text(&probe.prompt),
                answer: text(&answer.tokens),
                reference: text(&probe.reference),
            })
            .collect())
    }
}

/// Tokens that end an answer: the tokenizer's, the template's and those of `generation_config.json`.
pub fn stop_tokens(base: &Checkpoint, codec: &Codec) -> Vec<u32> {
    let listed = [base.generation_config.as_ref(), Some(&base.config)]
        .into_iter()
        .flatten()
        .flat_map(|config| match config.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).collect(),
            Some(id) => id.as_u64().into_iter().collect(),
            None => Vec::new(),
        });
    let mut stop: Vec<u32> = listed.filter_map(|id| u32::try_from(id).ok()).collect();
    stop.extend(codec.eos());
    stop.extend(codec.end_of_turn());
    stop.sort_unstable();
    stop.dedup();
    stop
}

/// `items` in runs of at most `room` tokens, an item that has more by itself.
fn chunks<T>(items: &[T], tokens: impl Fn(&T) -> usize, room: usize) -> Vec<&[T]> {
    let mut chunks = Vec::new();
    let (mut start, mut held) = (0, 0);
    for (i, item) in items.iter().enumerate() {
        if i > start && held + tokens(item) > room {
            chunks.push(&items[start..i]);
            (start, held) = (i, 0);
        }
        held += tokens(item);
    }
    if start < items.len() {
        chunks.push(&items[start..]);
    }
    chunks
}

/// At most `wanted` items, evenly spread.
pub fn spread<T>(items: &[T], wanted: usize) -> impl Iterator<Item = &T> {
    let count = wanted.min(items.len());
    (0..count).map(move |i| &items[i * items.len() / count])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_the_first_question_and_its_answer() {
        let origin = tune_data::Origin {
            file: "a".into(),
            line: 1,
        };
        let learn = [false, false, true, true, false, true].to_vec();
        let sample = Sample {
            tokens: vec![1, 2, 3, 4, 5, 6],
            learn,
            origin,
        };
        assert_eq!(
            Probe::of(&sample),
            Some(Probe {
                prompt: vec![1, 2],
                reference: vec![3, 4]
            })
        );
        let silent = Sample {
            learn: vec![false; 6],
            ..sample
        };
        assert_eq!(Probe::of(&silent), None);
    }

    #[test]
    fn no_chunk_holds_more_than_there_is_room_for() {
        let lengths = [3, 3, 4, 9, 1, 5, 5, 1];
        let sums: Vec<usize> = chunks(&lengths, |n| *n, 7).iter().map(|c| c.iter().sum()).collect();
        assert_eq!(sums, [6, 4, 9, 6, 6]);
        assert!(chunks(&[0usize; 0], |n| *n, 7).is_empty());
    }

    /// A prompt far longer than anything trained on would take more memory than training does.
    #[test]
    fn a_prompt_that_would_raise_the_peak_is_left_out() {
        let evaluator = |tokens_at_once| Evaluator {
            batches: Vec::new(),
            probes: [30, 90]
                .map(|tokens| Probe {
                    prompt: vec![1; tokens],
                    reference: vec![2],
                })
                .into(),
            options: GenerateOptions::greedy(10),
            tokens_at_once,
        };
        let asked = |tokens_at_once, context| evaluator(tokens_at_once).fitting(context).len();
        assert_eq!(
            (asked(50, 1000), asked(49, 1000), asked(20, 1000), asked(19, 1000)),
            (2, 1, 1, 0)
        );
        assert_eq!((asked(500, 100), asked(500, 99)), (2, 1));
    }

    #[test]
    fn probes_are_spread_over_all() {
        let items: Vec<_> = (0..10).collect();
        assert_eq!(spread(&items, 3).copied().collect::<Vec<_>>(), [0, 3, 6]);
        assert_eq!(spread(&items[..2], 5).count(), 2);
        assert_eq!(spread(&items[..0], 5).count(), 0);
    }
}
