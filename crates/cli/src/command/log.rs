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
            if rows.is_empty() {
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
            if log.interactions.iter().all(|known| known.id != *id) {
                return Err(Failure::error(
                    format!("{} holds no interaction `{id}`", file.display()),
                    "`tune ask --log` tells the id of each; it is the first key of a line",
                ));
            }
            let feedback = Feedback {
                good: verdict.is_good(),
                correction: correction.clone(),
            };
            append_feedback(file, id, &feedback)?;
        }
    }
    Ok(End::Done)
}

fn read(file: &std::path::Path, printer: &Printer) -> anyhow::Result<log::Log> {
    let log = log::read(file)?;
    if !log.unreadable.is_empty() {
        let lines: Vec<String> = log.unreadable.iter().map(ToString::to_string).collect();
        printer.warning(&format!("{}: cannot read line {}", file.display(), lines.join(", ")));
    }
    Ok(log)
}
