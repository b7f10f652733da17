//! `tune chat`: a conversation, answers streamed as they come. Reads lines, so it also works in a pipe.
use crate::End;
use crate::args::Chat;
use crate::command::answering::{Answering, speed};
use crate::interrupt::{self, STOP};
use crate::printer::Printer;
use std::io::{BufRead, IsTerminal};
use std::sync::atomic::Ordering;
use std::time::Instant;
use tune_data::Message;
use tune_model::generate::generate;

const COMMANDS: &str = "/reset forgets the conversation, /system TEXT sets the system message, /quit ends";

pub fn run(args: &Chat, printer: &Printer) -> anyhow::Result<End> {
    let answering = Answering::load(&args.model, printer)?;
    // While a line is awaited there is nothing to finish: Ctrl-C ends the program.
    STOP.store(1, Ordering::SeqCst);
    interrupt::install(|| {})?;
    let asks = std::io::stdin().is_terminal();
    if asks {
        printer.talk(&printer.style.dim(COMMANDS));
    }
    let mut talk = Talk {
        answering: &answering,
        args,
        printer,
        system: args.sampling.system.clone(),
        said: Vec::new(),
    };
    let mut lines = std::io::stdin().lock().split(b'\n');
    loop {
        if asks {
            printer.ask(&printer.style.bold("> "));
        }
        let Some(line) = lines.next().transpose()? else {
            break;
        };
        match String::from_utf8_lossy(&line).trim() {
            "" => {}
            "/quit" | "/exit" => break,
            "/reset" => talk.said.clear(),
            "/help" | "/?" => printer.talk(COMMANDS),
            command if command == "/system" || command.starts_with("/system ") => {
                let text = command.trim_start_matches("/system").trim();
                talk.system = (!text.is_empty()).then(|| text.to_string());
            }
            command if command.starts_with('/') => printer.talk(&format!("no command {command}; {COMMANDS}")),
            said => talk.answer(said)?,
        }
    }
    Ok(End::Done)
}

struct Talk<'a> {
    answering: &'a Answering,
    args: &'a Chat,
    printer: &'a Printer,
    system: Option<String>,
    /// User and assistant in turns.
    said: Vec<Message>,
}

impl Talk<'_> {
    fn answer(&mut self, text: &str) -> anyhow::Result<()> {
        self.said.push(Message::new("user", text));
        let tokens = self.prompt()?;
        self.answering.fits(&tokens, "the conversation")?;
        let options = self.answering.options(&self.args.sampling, 0);
        let mut decoder = self.answering.codec.stream();
        let mut failed = None;
        let began = Instant::now();
        STOP.store(0, Ordering::SeqCst);
        let answers = generate(&self.answering.model, &[tokens], &options, &mut |_, token| {
            if let Some(text) = decoder.push(token) {
                failed = self.printer.stream(&text).err();
            }
            failed.is_none() && STOP.load(Ordering::SeqCst) == 0
        });
        STOP.store(1, Ordering::SeqCst);
        if let Some(error) = failed {
            return Err(error.into());
        }
        self.printer.stream("\n")?;
        let answer = answers?
            .into_iter()
            .next()
            .map(|answer| answer.tokens)
            .unwrap_or_default();
        self.printer.talk(&self.printer.style.dim(&speed(answer.len(), began)));
        self.said
            .push(Message::new("assistant", self.answering.codec.decode(&answer, true)));
        Ok(())
    }

    /// The conversation as tokens, its oldest exchanges left out where they do not fit with an answer.
    fn prompt(&mut self) -> anyhow::Result<Vec<u32>> {
        let context = self.answering.model.context();
        let reserved = self.args.sampling.max_new_tokens.min(context / 2);
        loop {
            let system = self.system.as_ref().map(|system| Message::new("system", system));
            let messages: Vec<_> = system.into_iter().chain(self.said.iter().cloned()).collect();
            let tokens = self.answering.codec.encode_prompt(&messages)?;
            if tokens.len() + reserved <= context || self.said.len() <= 2 {
                return Ok(tokens);
            }
            self.said.drain(..2);
            self.printer.talk(
                &self
                    .printer
                    .style
                    .dim("the conversation is too long: its oldest exchange is left out"),
            );
        }
    }
}
