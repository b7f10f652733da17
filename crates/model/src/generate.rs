//! Decoding with a KV cache: greedy, temperature, top-k, top-p, repetition penalty; seeded; batched.
use crate::backprop::plain_pass;
use crate::causal_lm::{CausalLm, Input};
use crate::nn::{Cache, Pass};
use crate::{ModelError, Result, sampler};
use burn::tensor::{Int, Tensor, TensorData};
use std::cell::RefCell;

#[derive(Debug, Clone)]
pub struct GenerateOptions {
    pub max_new_tokens: usize,
    /// 0 = greedy.
    pub temperature: f64,
    /// 0 = off.
    pub top_k: usize,
    /// 1 = off.
    pub top_p: f64,
    /// 1 = off; as in transformers (divides positive logits, multiplies negative ones, prompt included).
    pub repetition_penalty: f64,
    pub seed: u64,
    pub stop: Vec<u32>,
    /// Log-probabilities of the chosen token and of the `k` likeliest, of the unprocessed distribution; 0 = none.
    pub logprobs: usize,
}

impl GenerateOptions {
    /// The likeliest token each time, `max_new_tokens` of them, stopping at nothing.
    pub fn greedy(max_new_tokens: usize) -> Self {
        Self {
            max_new_tokens,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            repetition_penalty: 1.0,
            seed: 0,
            stop: Vec::new(),
            logprobs: 0,
        }
    }
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Step {
    pub token: u32,
    pub logprob: f32,
    pub top: Vec<(u32, f32)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// A stop token came, or the listener asked to stop.
    Stop,
    /// `max_new_tokens` or the model's context is used up.
    Length,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct Generation {
    pub tokens: Vec<u32>,
    /// One a token, where log-probabilities were asked for.
    pub steps: Vec<Step>,
    pub finish: Finish,
}

/// One prompt on its way.
struct Sequence {
    index: usize,
    /// Prompt and what was generated.
    tokens: Vec<u32>,
    prompt: usize,
    limit: usize,
}

/// Continues every prompt; each answer is what its prompt alone would give. `on_token(prompt index, token)` is called as tokens
/// come and returns false to stop. The stop token is not part of `tokens`.
pub fn generate(
    model: &CausalLm,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    on_token: &mut dyn FnMut(usize, u32) -> bool,
) -> Result<Vec<Generation>> {
    let context = model.context();
    for prompt in prompts {
        model.check(&Input::sequence(prompt))?;
        if prompt.len() >= context {
            return Err(ModelError::TooLong {
                tokens: prompt.len() + 1,
                context,
            });
        }
    }
    let start = |(index, prompt): (usize, &Vec<u32>)| Sequence {
        index,
        tokens: prompt.clone(),
        prompt: prompt.len(),
        limit: options.max_new_tokens.min(context - prompt.len()),
    };
    let mut running: Vec<Sequence> = prompts.iter().enumerate().map(start).collect();
    let mut done: Vec<Option<Generation>> = prompts.iter().map(|_| None).collect();
    let mut steps: Vec<Vec<Step>> = vec![Vec::new(); prompts.len()];
    running.retain(|s| {
        if s.limit == 0 {
            done[s.index] = Some(Generation {
                tokens: Vec::new(),
                steps: Vec::new(),
                finish: Finish::Length,
            });
        }
        s.limit > 0
    });
    let empty = |running: &[Sequence]| {
        let lengths: Vec<_> = running.iter().map(|s| (s.index, s.tokens.len())).collect();
        let further = running.iter().map(|s| s.prompt + s.limit - s.tokens.len()).max();
        let (device, dtype) = (model.device(), model.precision().compute);
        RefCell::new(Cache::new(
            model.layers(),
            &lengths,
            further.unwrap_or(0),
            device,
            dtype,
        ))
    };
    let mut cache = empty(&running);
    let outgrown = |s: &Sequence| Some(s.tokens.len() - 1) == model.family().cache_holds_to();
    let mut fed = 0;
    while !running.is_empty() {
        if fed > 0 && running.iter().any(outgrown) {
            (cache, fed) = (empty(&running), 0);
        }
        let logits = next_logits(model, &running, fed, &cache);
        fed = 1;
        let rows: Vec<&[f32]> = logits.chunks_exact(model.vocab_size()).collect();
        let mut row = rows.iter();
        running.retain_mut(|s| {
            let Some(row) = row.next() else { return false };
            let generated = s.tokens.len() - s.prompt;
            let token = sampler::sample(row, &s.tokens, generated, options);
            let mut finish = None;
            if options.stop.contains(&token) {
                finish = Some(Finish::Stop);
            } else {
                if options.logprobs > 0 {
                    let (logprob, top) = sampler::logprobs(row, token, options.logprobs);
                    steps[s.index].push(Step { token, logprob, top });
                }
                s.tokens.push(token);
                if !on_token(s.index, token) {
                    finish = Some(Finish::Stop);
                } else if generated + 1 == s.limit {
                    finish = Some(Finish::Length);
                }
            }
            if let Some(finish) = finish {
                let (tokens, steps) = (s.tokens[s.prompt..].to_vec(), std::mem::take(&mut steps[s.index]));
                done[s.index] = Some(Generation { tokens, steps, finish });
            }
            finish.is_none()
        });
    }
    Ok(done.into_iter().flatten().collect())
}

/// Feeds what the cache does not hold yet — whole prompts first (`fed` 0), then one token each — and gives the logits after the
/// last token of every sequence, `[sequences, vocab]`.
fn next_logits(model: &CausalLm, running: &[Sequence], fed: usize, cache: &RefCell<Cache>) -> Vec<f32> {
    let family = model.family();
    cache
        .borrow_mut()
        .select(&running.iter().map(|s| s.index).collect::<Vec<_>>());
    let mut input = Input {
        tokens: Vec::new(),
        positions: Vec::new(),
        starts: vec![0],
        learn: Vec::new(),
    };
    for s in running {
        let from = if fed == 0 { 0 } else { s.tokens.len() - 1 };
        input.tokens.extend(&s.tokens[from..]);
        input.positions.extend(from as u32..s.tokens.len() as u32);
        input.starts.push(input.tokens.len());
    }
    let pass = Pass {
        cache: Some(cache),
        ..plain_pass(family, &input)
    };
    let x = family.embed(&input.tokens, &input.positions);
    let x = (0..model.layers()).fold(x, |x, layer| family.block(layer, x, &pass));
    let last: Vec<i32> = input.starts[1..].iter().map(|end| *end as i32 - 1).collect();
    let last = Tensor::<1, Int>::from_data(TensorData::new(last, [running.len()]), model.device());
    model.head_logits(x.select(0, last))
}
