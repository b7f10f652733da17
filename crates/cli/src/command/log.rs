//! `tune log`: what people asked, as numbers, questions or training rows.
use crate::End;
use crate::args::{Feedback as FeedbackArgs, Log};
use crate::errors::Failure;
use crate::printer::{Printer, duration, plural};
use serde_json::Value;
use tune_rag::log::{self, Feedback, append_feedback, stats, to_questions, to_training};

pub fn run(args: &Log, printer: &Printer) -> anyhow::Result<End> {
    match args {
        Log::Stats { file } => {
            let log = read(file, printer)?;
            if log.interactions.is_empty() {
                printer.talk(&format!("no interactions in {}", file.display()));
            }
            for (arm, stats) in stats(&log) {
                let seconds = stats.seconds.map_or(String::new(), |s| {
                    format!(
                        ", {} at the median, {} at the 95th percentile",
                        duration(s.p50),
                        duration(s.p95)
                    )
                });
                printer.data(&format!(
                    "{arm}: {}, {} good, {} bad, {} abstained; {:.0} tokens of prompt, {:.0} of answer{seconds}",
                    plural(stats.questions, "question"),
                    stats.good,
                    stats.bad,
                    stats.abstained,
                    stats.prompt_tokens,
                    stats.answer_tokens
                ))?;
            }
        }
        Log::Export { file, training } => {
            let log = read(file, printer)?;
            let rows: Vec<Value> = match training {
                true => to_training(&log),
                false => to_questions(&log)
                    .iter()
                    .map(serde_json::to_value)
                    .collect::<Result<_, _>>()?,
            };
            if rows.is_empty() && log.interactions.iter().any(|one| one.redacted) {
                printer.warning("texts were redacted: nothing can be exported");
            } else if rows.is_empty() {
                printer.warning("nothing is known to be right yet: give feedback first, `tune log feedback`");
            }
            for row in rows {
                printer.data(&row.to_string())?;
            }
        }
        Log::Feedback(FeedbackArgs {
            file,
            id,
            verdict,
            correction,
        }) => {
            let log = read(file, printer)?;
            let known = log.interactions.iter().find(|known| known.id == *id).ok_or_else(|| {
                Failure::error(
                    format!("{} holds no interaction `{id}`", file.display()),
                    "`tune ask --log` tells the id of each; it is the first key of a line",
                )
            })?;
            if known.redacted && correction.is_some() {
                return Err(Failure::error(
                    format!("the texts of `{id}` were redacted: a correction would stand beside them in clear"),
                    "leave --correction out",
                ));
            }
            let feedback = Feedback {
                good: verdict.is_good(),
                correction: correction.clone(),
            };
            append_feedback(file, id, &feedback)?;
            printer.talk("noted");
        }
    }
    Ok(End::Done)
}

fn read(file: &std::path::Path, printer: &Printer) -> anyhow::Result<log::Log> {
    let log = log::read(file)?;
    let nothing = log.interactions.is_empty() && log.orphaned == 0;
    if nothing && !log.unreadable.is_empty() {
        return Err(Failure::error(
            format!(
                "{} is no interaction log: no line of it is an interaction",
                file.display()
            ),
            "name a file that `tune ask --log FILE` wrote",
        ));
    }
    if !log.unreadable.is_empty() {
        let lines: Vec<String> = log.unreadable.iter().map(ToString::to_string).collect();
        printer.warning(&format!("{}: cannot read line {}", file.display(), lines.join(", ")));
    }
    Ok(log)
}
