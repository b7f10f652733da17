//! A base with its adapters, as the rag crate asks for it.
use crate::command::answering::{adapter_folder, codec, open, stop_tokens};
use crate::errors::Failure;
use crate::printer::Printer;
use anyhow::Context;
use burn::tensor::Device;
use serde_json::Value;
use std::path::Path;
use std::time::Instant;
use tune_data::{Codec, Message};
use tune_model::generate::{GenerateOptions, generate};
use tune_model::peft::Adapter;
use tune_model::{CausalLm, Input, Precision};
use tune_rag::eval::settings::Eval;
use tune_rag::{Answer, Answerer, Role, Weights};
use tune_trainer::settings::Settings;

pub struct Models {
    model: CausalLm,
    codec: Codec,
    stop: Vec<u32>,
    /// Hash of all that decides an answer but adapter and conversation: weights and their precision, tokenizer and
    /// template, where an answer ends.
    base: String,
    tuned: Option<Named>,
    hybrid: Option<Named>,
    /// Which adapter is on the model now.
    attached: Weights,
}

struct Named {
    adapter: Adapter,
    /// Of its config and weights.
    identity: String,
}

/// What [`Models::load`] is to load.
pub struct Wanted<'a> {
    pub base: &'a str,
    pub revision: Option<&'a str>,
    pub chat_template: Option<&'a Path>,
    /// Run or adapter folders; `None` or a folder that is not there: those weights are not at hand.
    pub tuned: Option<&'a Path>,
    pub hybrid: Option<&'a Path>,
}

impl<'a> Wanted<'a> {
    /// The base of a config, with no more adapters of its `[eval]` than `weights` need.
    pub fn of(settings: &'a Settings, eval: &'a Eval, weights: &[Weights]) -> Self {
        let template = &settings.model.chat_template;
        let needed = |of: Weights, dir: &'a Path| weights.contains(&of).then_some(dir);
        Self {
            base: &settings.model.base,
            revision: (!settings.model.revision.is_empty()).then_some(settings.model.revision.as_str()),
            chat_template: (!template.as_os_str().is_empty()).then_some(template),
            tuned: needed(Weights::Tuned, &eval.adapter),
            hybrid: needed(Weights::Hybrid, &eval.hybrid_adapter),
        }
    }
}

impl Models {
    pub fn load(wanted: &Wanted<'_>, device: &Device, precision: Precision, printer: &Printer) -> anyhow::Result<Self> {
        if wanted.base.is_empty() {
            return Err(Failure::error(
                "model.base is empty: it is the model that answers",
                "set it to a folder, a hub id or a .gguf file",
            ));
        }
        let base = open(wanted.base, wanted.revision, printer)?;
        let codec = codec(&base, wanted.chat_template)?;
        let model = CausalLm::load(&base, None, device, precision, &mut |_, _| {})?;
        let fingerprint = base.fingerprint()?;
        let given = |dir: &&Path| !dir.as_os_str().is_empty();
        for dir in [wanted.tuned, wanted.hybrid].into_iter().flatten().filter(given) {
            if let Some(other) = trained_on_other(dir, &fingerprint) {
                let dir = dir.display();
                printer.warning(&format!(
                    "{dir} was trained on {other}, whose weights are not those of {}",
                    base.name
                ));
            }
        }
        let stop = stop_tokens(&base, &codec);
        let decides = serde_json::to_vec(&(&fingerprint, precision, codec.fingerprint(), &stop))?;
        Ok(Self {
            stop,
            base: blake3::hash(&decides).to_hex().to_string(),
            model,
            codec,
            tuned: wanted.tuned.and_then(|dir| named(dir).transpose()).transpose()?,
            hybrid: wanted.hybrid.and_then(|dir| named(dir).transpose()).transpose()?,
            attached: Weights::Base,
        })
    }

    pub fn codec(&self) -> &Codec {
        &self.codec
    }

    fn named(&self, weights: Weights) -> Option<&Named> {
        match weights {
            Weights::Base => None,
            Weights::Tuned => self.tuned.as_ref(),
            Weights::Hybrid => self.hybrid.as_ref(),
        }
    }

    /// Puts the adapter of `weights` on the model.
    fn switch(&mut self, weights: Weights) -> anyhow::Result<()> {
        if self.attached == weights {
            return Ok(());
        }
        let chosen = match weights {
            Weights::Base => None,
            Weights::Tuned => self.tuned.as_ref(),
            Weights::Hybrid => self.hybrid.as_ref(),
        };
        match chosen {
            Some(named) => self.model.attach(&named.adapter)?,
            None if weights == Weights::Base => self.model.detach(),
            None => anyhow::bail!("there is no adapter for the {weights:?} arm"),
        }
        self.attached = weights;
        Ok(())
    }

    fn tokens(&self, messages: &[tune_rag::Message]) -> anyhow::Result<Vec<u32>> {
        let messages: Vec<Message> = messages.iter().map(message).collect();
        Ok(self.codec.encode_prompt(&messages)?)
    }
}

fn message(message: &tune_rag::Message) -> Message {
    let role = match message.role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    Message::new(role, &message.content)
}

/// The adapter in `dir`, if there is a folder of that name.
fn named(dir: &Path) -> anyhow::Result<Option<Named>> {
    if dir.as_os_str().is_empty() || !dir.exists() {
        return Ok(None);
    }
    let folder = adapter_folder(dir).ok_or_else(|| {
        Failure::error(
            format!(
                "{} holds no adapter: there is no adapter_config.json in it",
                dir.display()
            ),
            "name a run folder, or an adapter folder in PEFT layout",
        )
    })?;
    let mut identity = blake3::Hasher::new();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        identity.update(blake3::hash(&fs_err::read(folder.join(file))?).as_bytes());
    }
    Ok(Some(Named {
        adapter: Adapter::read(&folder)?,
        identity: identity.finalize().to_hex().to_string(),
    }))
}

/// The base that the receipt of a run names, where it is not the one of this fingerprint: an adapter fits any of its shape.
fn trained_on_other(dir: &Path, fingerprint: &str) -> Option<String> {
    let mut receipts = [Some(dir), dir.parent()]
        .into_iter()
        .flatten()
        .map(|dir| dir.join("receipt.json"));
    let receipt: Value = serde_json::from_slice(&receipts.find_map(|path| fs_err::read(path).ok())?).ok()?;
    let base = &receipt["base"];
    (base["blake3"].as_str()? != fingerprint).then(|| base["name"].as_str().map(str::to_string))?
}

impl Answerer for Models {
    fn identity(&self, weights: Weights) -> Option<String> {
        match weights {
            Weights::Base => Some(self.base.clone()),
            other => self
                .named(other)
                .map(|named| format!("{}+{}", self.base, named.identity)),
        }
    }

    fn count_tokens(&self, messages: &[tune_rag::Message]) -> anyhow::Result<usize> {
        Ok(self.tokens(messages)?.len())
    }

    fn context(&self) -> usize {
        self.model.context()
    }

    fn answer(
        &mut self,
        weights: Weights,
        conversations: &[Vec<tune_rag::Message>],
        max_new_tokens: usize,
        on_answer: &mut dyn FnMut(usize, &Answer),
    ) -> anyhow::Result<Vec<Answer>> {
        self.switch(weights)?;
        let options = GenerateOptions {
            stop: self.stop.clone(),
            ..GenerateOptions::greedy(max_new_tokens)
        };
        let prompts = conversations.iter().map(|c| self.tokens(c));
        let prompts: Vec<Vec<u32>> = prompts.collect::<anyhow::Result<_>>()?;
        let began = Instant::now();
        let mut first = None;
        let generations = generate(&self.model, &prompts, &options, &mut |_, _| {
            first.get_or_insert_with(|| began.elapsed().as_secs_f64());
            true
        })?;
        let seconds = began.elapsed().as_secs_f64();
        let mut answers = Vec::with_capacity(conversations.len());
        for (prompt, generation) in prompts.iter().zip(generations) {
            let answer = Answer {
                text: self.codec.decode(&generation.tokens, true).trim().to_string(),
                prompt_tokens: prompt.len(),
                answer_tokens: generation.tokens.len(),
                first_token_seconds: first.unwrap_or(seconds),
                seconds,
            };
            on_answer(answers.len(), &answer);
            answers.push(answer);
        }
        Ok(answers)
    }

    fn likelihood(
        &mut self,
        weights: Weights,
        conversations: &[(Vec<tune_rag::Message>, String)],
    ) -> anyhow::Result<Vec<(f64, usize)>> {
        self.switch(weights)?;
        let one = |(messages, reference): &(Vec<tune_rag::Message>, String)| {
            let prompt = self.tokens(messages)?;
            let mut answer = self.codec.encode(reference, false)?;
            answer.truncate(self.model.context().saturating_sub(prompt.len()));
            if answer.is_empty() {
                return Ok((0.0, 0));
            }
            let tokens = [prompt.as_slice(), &answer].concat();
            let mut input = Input::sequence(&tokens);
            input.learn = (0..tokens.len()).map(|i| i >= prompt.len()).collect();
            let loss = self.model.loss(&input).context("cannot judge a reference answer")?;
            Ok((loss.sum, loss.learned))
        };
        conversations.iter().map(one).collect()
    }
}
