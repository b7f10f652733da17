//! `tune generate`: prompts to answers, as text or as JSON lines.
use crate::End;
use crate::args::Generate;
use crate::command::answering::{Answering, speed};
use crate::printer::Printer;
use serde_json::{Value, json};
use std::time::Instant;
use tune_data::{Codec, DataSpec, Message};
use tune_model::generate::{Generation, generate};
use tune_trainer::settings::Settings;

/// One prompt and where it came from.
struct Prompt {
    place: String,
    messages: Vec<Message>,
}

impl Prompt {
    /// What was asked last.
    fn asked(&self) -> &str {
        self.messages
            .last()
            .map(|message| message.content.as_str())
            .unwrap_or_default()
    }
}

pub fn run(args: &Generate, printer: &Printer) -> anyhow::Result<End> {
    // A prompts file with faults is told before a model is loaded.
    let prompts = read_prompts(args)?;
    let answering = Answering::load(&args.model, printer)?;
    let tokens: Vec<_> = prompts
        .iter()
        .map(|prompt| encode(&answering.codec, prompt, args.raw))
        .collect::<Result<_, _>>()?;
    prompts
        .iter()
        .zip(&tokens)
        .try_for_each(|(prompt, tokens)| answering.fits(tokens, &prompt.place))?;
    let options = answering.options(&args.sampling, args.logprobs);
    let began = Instant::now();
    let mut made = 0;
    for start in (0..prompts.len()).step_by(args.batch_size) {
        let group = start..prompts.len().min(start.saturating_add(args.batch_size));
        let stream = prompts.len() == 1 && !args.json;
        let mut shown = Streamed::new(&answering.codec, printer, stream);
        let answers = generate(&answering.model, &tokens[group.clone()], &options, &mut |_, token| {
            shown.push(token)
        })?;
        shown.finish()?;
        for (i, answer) in group.zip(&answers) {
            made += answer.tokens.len();
            let text = answering.codec.decode(&answer.tokens, true);
            if args.json {
                printer.data(&as_json(&prompts[i], &tokens[i], answer, &text, args.logprobs).to_string())?;
            } else if !stream {
                let head = printer.data_style.bold(&format!("> {}", prompts[i].asked().trim_end()));
                printer.data(&format!("{head}\n{}\n", text.trim()))?;
            }
        }
    }
    printer.talk(&speed(made, began));
    Ok(End::Done)
}

/// Shows an answer as it comes.
struct Streamed<'a> {
    decoder: tune_data::codec::StreamDecoder<'a>,
    printer: &'a Printer,
    on: bool,
    failed: Option<std::io::Error>,
}

impl<'a> Streamed<'a> {
    fn new(codec: &'a Codec, printer: &'a Printer, on: bool) -> Self {
        Self {
            decoder: codec.stream(),
            printer,
            on,
            failed: None,
        }
    }

    /// False where nobody reads any more.
    fn push(&mut self, token: u32) -> bool {
        if let Some(text) = self.decoder.push(token).filter(|_| self.on) {
            self.failed = self.printer.stream(&text).err();
        }
        self.failed.is_none()
    }

    fn finish(self) -> std::io::Result<()> {
        match self.failed {
            Some(error) => Err(error),
            None if self.on => self.printer.stream("\n"),
            None => Ok(()),
        }
    }
}

/// The prompts with their system message; every bad row of a file is told at once.
fn read_prompts(args: &Generate) -> anyhow::Result<Vec<Prompt>> {
    let system = args.sampling.system.clone();
    if let Some(file) = &args.prompts {
        let spec = DataSpec {
            system,
            ..Settings::default().data_spec()
        };
        let rows = tune_data::corpus::prompts(file, &spec)?;
        return Ok(rows
            .into_iter()
            .map(|(origin, messages)| Prompt {
                place: origin.to_string(),
                messages,
            })
            .collect());
    }
    let system = system.map(|system| Message::new("system", system));
    let user = args.prompt.iter().map(|prompt| Message::new("user", prompt));
    Ok(vec![Prompt {
        place: "the prompt".into(),
        messages: system.into_iter().chain(user).collect(),
    }])
}

fn encode(codec: &Codec, prompt: &Prompt, raw: bool) -> tune_data::Result<Vec<u32>> {
    if raw {
        codec.encode(prompt.asked(), true)
    } else {
        codec.encode_prompt(&prompt.messages)
    }
}

fn as_json(prompt: &Prompt, tokens: &[u32], answer: &Generation, text: &str, logprobs: usize) -> Value {
    let mut row = json!({
        "origin": prompt.place,
        "prompt": prompt.asked(),
        "prompt_tokens": tokens,
        "text": text,
        "tokens": answer.tokens,
        "finish": answer.finish,
    });
    if logprobs > 0 {
        row["logprobs"] = json!(answer.steps);
    }
    row
}
