//! `report.md`: the numbers as tables, and the questions on which the arms differ most.
use super::tables::{self, Table};
use super::text::{grouped, interval, p_value, percent, signed_interval};
use super::{by_spread, spread};
use crate::Weights;
use crate::eval::arm::{Arm, Context, WEIGHTS, weights_label};
use crate::eval::integrity::{Repeats, Told};
use crate::question::Stratum;
use crate::results::{Asked, Contrast, Results};

/// Questions printed in full.
const SHOWN: usize = 20;

pub fn markdown(results: &Results) -> String {
    let mut out = String::new();
    let mut section = |title: &str, body: String| {
        if !body.is_empty() {
            out.push_str(&format!("## {title}\n\n{body}\n"));
        }
    };
    section("Matrix", matrix(results));
    section("Differences", contrasts(results));
    section(
        "Differences by stratum",
        table(&tables::differences_by_stratum(results)),
    );
    section("By stratum", strata(results));
    section("Scores", table(&tables::scores(results)));
    section("Retrieval", retrieval(results));
    section("Cost, latency, maintenance", costs(results));
    section("First stage that failed", table(&tables::failures(results)));
    section("Judge", judge(results));
    section("Integrity", integrity(results));
    section("Largest differences", questions(results));
    format!("{}\n{out}", head(results))
}

fn head(results: &Results) -> String {
    let facts = &results.facts;
    let mut lines = vec![
        format!("# {}\n", one_line(&facts.title)),
        format!("**{}**\n", one_line(&results.verdict.line)),
    ];
    lines.extend(results.verdict.notes.iter().map(|note| format!("- {}", one_line(note))));
    let about = [&facts.base, &facts.machine]
        .into_iter()
        .filter(|text| !text.is_empty())
        .cloned();
    let about: Vec<String> = about
        .chain([format!("{} questions", results.questions.len())])
        .collect();
    lines.push(format!("\n{}", one_line(&about.join(" · "))));
    lines.join("\n") + "\n"
}

fn table(table: &Table) -> String {
    let line = |cells: &mut dyn Iterator<Item = &String>| {
        format!(
            "| {} |\n",
            cells.map(|cell| cell_text(cell)).collect::<Vec<_>>().join(" | ")
        )
    };
    let mut out = line(&mut table.head.iter());
    out.push_str(&format!("|---|{}\n", "--:|".repeat(table.head.len().saturating_sub(1))));
    for (label, cells) in &table.rows {
        out.push_str(&line(&mut [label].into_iter().chain(cells)));
    }
    if table.rows.is_empty() { String::new() } else { out }
}

fn matrix(results: &Results) -> String {
    let cell = |arm: Arm| match results
        .arm(arm)
        .and_then(|summary| summary.scores.get(&results.settings.metric))
    {
        Some(score) => interval(score),
        None => results
            .left_out
            .iter()
            .find(|out| out.arm == arm)
            .map_or("–".into(), |out| out.reason.clone()),
    };
    let head = [results.settings.metric.label()]
        .into_iter()
        .chain(Context::ALL.map(Context::label));
    let rows = WEIGHTS.map(|weights| {
        (
            weights_label(weights).to_string(),
            Context::ALL.map(|context| cell(Arm { weights, context })).to_vec(),
        )
    });
    table(&Table {
        head: head.map(str::to_string).collect(),
        rows: rows.to_vec(),
    })
}

fn contrasts(results: &Results) -> String {
    let row = |contrast: &Contrast| {
        let adjusted = contrast.adjusted_p.map_or("–".into(), p_value);
        let mcnemar = contrast.mcnemar.map_or("–".into(), p_value);
        let cells = vec![
            signed_interval(&contrast.difference),
            tables::finding(contrast).to_string(),
            adjusted,
            mcnemar,
            format!("{} / {} / {}", contrast.wins, contrast.ties, contrast.losses),
            match contrast.smallest_difference {
                0.0 => "–".into(),
                visible => percent(visible),
            },
            contrast.clean.as_ref().map_or("–".into(), signed_interval),
        ];
        (format!("{} − {}", contrast.first, contrast.second), cells)
    };
    let overall = results.contrasts.iter().filter(|contrast| contrast.stratum.is_none());
    let head = [
        "",
        "points",
        "finding",
        "p (Holm)",
        "McNemar",
        "wins / ties / losses",
        "smallest to be shown",
        "without overlaps",
    ];
    table(&Table {
        head: head.map(str::to_string).to_vec(),
        rows: overall.map(row).collect(),
    })
}

fn strata(results: &Results) -> String {
    let asked = |stratum: Stratum| {
        results
            .questions
            .iter()
            .filter(|asked| asked.question.stratum == stratum)
            .count()
    };
    let strata: Vec<Stratum> = Stratum::ALL.into_iter().filter(|&stratum| asked(stratum) > 0).collect();
    let head = strata
        .iter()
        .map(|&stratum| format!("{} ({})", stratum.name(), asked(stratum)));
    let rows = results.arms.iter().map(|arm| {
        let cell = |stratum: &Stratum| arm.strata.get(stratum).map_or("–".into(), interval);
        (arm.arm.name(), strata.iter().map(cell).collect())
    });
    table(&Table {
        head: ["".to_string()].into_iter().chain(head).collect(),
        rows: rows.collect(),
    })
}

fn retrieval(results: &Results) -> String {
    let head = ["", "k", "hit", "recall", "precision", "MRR", "nDCG"]
        .map(str::to_string)
        .to_vec();
    let rows = results.retrieval.iter().flat_map(|summary| {
        summary.by_k.iter().map(|(k, scores)| {
            let numbers = [scores.hit, scores.recall, scores.precision, scores.mrr, scores.ndcg];
            let numbers = numbers.map(|number| format!("{number:.3}"));
            (
                summary.retriever.clone(),
                [k.to_string()].into_iter().chain(numbers).collect(),
            )
        })
    });
    table(&Table {
        head,
        rows: rows.collect(),
    })
}

fn costs(results: &Results) -> String {
    let even = results.break_even.iter().map(|even| {
        let answers = grouped(even.answers.ceil() as u64);
        format!(
            "- {} has paid for itself against {} after {answers} answers.\n",
            even.invest, even.instead_of
        )
    });
    let none = tables::no_break_even(results).map(|why| format!("- {why}\n"));
    let even: String = even.chain(none).collect();
    format!("{}\n{even}", table(&tables::costs(results)))
}

fn judge(results: &Results) -> String {
    let rows = results.judgements.iter().map(|found| {
        let agreement = found.agreement.map_or("–".into(), percent);
        let counts =
            [found.wins, found.ties, found.losses, found.swayed, found.unreadable].map(|count| count.to_string());
        (
            format!("{} − {}", found.first, found.second),
            counts.into_iter().chain([agreement]).collect(),
        )
    });
    let head = [
        "",
        "wins",
        "ties",
        "losses",
        "swayed by order",
        "unreadable",
        "agrees with right",
    ];
    table(&Table {
        head: head.map(str::to_string).to_vec(),
        rows: rows.collect(),
    })
}

fn integrity(results: &Results) -> String {
    let mut out: String = tables::identity(results)
        .into_iter()
        .map(|(name, value)| format!("- {name}: `{}`\n", one_line(&value)))
        .collect();
    out.push_str(&format!("- {}\n", overlap_line(results)));
    let more = repeats_line(results).into_iter().chain(unindexed_line(results));
    out.extend(more.map(|line| format!("- {line}\n")));
    for left_out in &results.left_out {
        out.push_str(&format!("- left out: {} ({})\n", left_out.arm, left_out.reason));
    }
    out
}

pub(super) fn overlap_line(results: &Results) -> String {
    let overlapping = results
        .questions
        .iter()
        .filter(|asked| !asked.overlaps.is_empty())
        .count();
    if overlapping == 0 {
        return "No question shares 13 words in a row with a training row or a document, and no training row teaches 13 of \
                a reference answer."
            .into();
    }
    let clean = results
        .arms
        .iter()
        .filter_map(|arm| Some(format!("{} {}", arm.arm, interval(arm.clean.as_ref()?))));
    let given_away = |asked: &&Asked| {
        asked
            .overlaps
            .iter()
            .any(|overlap| matches!(overlap.told, Told::Answer(_)))
    };
    let answers = match results.questions.iter().filter(given_away).count() {
        0 => String::new(),
        count => format!(", or have a reference answer of which a training row teaches so much ({count})"),
    };
    format!(
        "{overlapping} of {} questions share 13 words in a row (or stand whole) with a training row or a document{answers}. \
         Without them: {}.",
        results.questions.len(),
        clean.collect::<Vec<_>>().join(", ")
    )
}

/// No fault of a comparison: what tuned weights know of the documents they were taught.
pub(super) fn repeats_line(results: &Results) -> Option<String> {
    let count = |(weights, found): (&Weights, &Repeats)| {
        let rows = grouped(found.rows as u64);
        format!(
            "{rows} of the {} training rows of {}",
            grouped(found.of as u64),
            weights_label(*weights)
        )
    };
    let counts: Vec<String> = results.repeats.iter().map(count).collect();
    (!counts.is_empty()).then(|| {
        format!(
            "{} teach an answer that repeats 13 words in a row of a document; passages in their prompts, as RAFT rows have \
             them, do not count.",
            counts.join(" and ")
        )
    })
}

/// Often a sign that questions name documents otherwise than the index does.
pub(super) fn unindexed_line(results: &Results) -> Option<String> {
    let labelled = results.questions.iter().filter(|asked| asked.indexed.is_some()).count();
    let missing = results
        .questions
        .iter()
        .filter(|asked| asked.indexed == Some(false))
        .count();
    (missing > 0).then(|| {
        format!(
            "Of {labelled} questions with gold, {missing} name a document or span that is not in the index; documents are \
             named by their path below the folder they were found in."
        )
    })
}

fn questions(results: &Results) -> String {
    let differ = by_spread(results)
        .into_iter()
        .filter(|asked| spread(asked, results) > 0.0);
    differ.take(SHOWN).map(|asked| question(asked, results)).collect()
}

fn question(asked: &Asked, results: &Results) -> String {
    let mut out = format!("### {}\n\n", one_line(&asked.question.question));
    let wanted = if asked.question.answers.is_empty() {
        "(to say so)".into()
    } else {
        asked.question.answers.join(" / ")
    };
    out.push_str(&format!(
        "Wanted: {} · {}\n\n",
        one_line(&wanted),
        asked.question.stratum.name()
    ));
    for (arm, given) in &asked.answers {
        let score = given
            .scores
            .get(&results.settings.metric)
            .map_or("–".into(), |score| percent(*score));
        let stage = given
            .failed
            .map_or(String::new(), |stage| format!(", {}", stage.label()));
        out.push_str(&format!(
            "- **{arm}** ({score}{stage}): {}\n",
            one_line(&given.answer.text)
        ));
    }
    out + "\n"
}

/// Text of models and documents must not become structure.
fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.replace('\\', "\\\\")
        .replace('<', "&lt;")
        .replace('[', "\\[")
        .replace('`', "'")
        .replace('|', "\\|")
}

fn cell_text(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
