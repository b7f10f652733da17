//! `tune search`: what retrieval brings up, each retriever's score beside it.
use crate::args::Search;
use crate::errors::Failure;
use crate::library::Opened;
use crate::printer::{Printer, Style};
use crate::{End, device, resolve};
use serde_json::{Value, json};
use std::ops::Range;
use std::path::Path;
use tune_rag::eval::Library;
use tune_rag::retrieve::{Retrieved, Scores};
use tune_rag::store::matches;

/// Of a passage shown on a terminal, in characters.
const SHOWN: usize = 600;
/// Of it before the first word that matched.
const LEAD: usize = 200;

pub fn run(args: &Search, printer: &Printer) -> anyhow::Result<End> {
    let mut resolved = resolve::resolve(&args.config.config, &args.config.set.set)?;
    if let Some(top_k) = args.top_k {
        resolved.rag.top_k = top_k;
        resolved.rag.candidates = resolved.rag.candidates.max(top_k);
    }
    if !args.only.is_empty() {
        resolved.rag.only.clone_from(&args.only);
    }
    let queries = match (&args.query, &args.queries) {
        (Some(query), _) => vec![query.clone()],
        (None, Some(file)) => read_queries(file)?,
        (None, None) => Vec::new(),
    };
    let device = device::checked(&resolved.settings.device, printer)?.device;
    let opened = Opened::to_answer(&resolved.rag, &device, printer)?;
    let library = opened.library()?;
    for query in &queries {
        let found = library.retrieve(query)?;
        if args.json {
            printer.data(&as_json(query, &found).to_string())?;
        } else {
            printer.data(&as_text(query, &found, &printer.data_style))?;
        }
    }
    Ok(End::Done)
}

/// One query a line: `{"query": …}` or `{"question": …}`.
fn read_queries(file: &Path) -> anyhow::Result<Vec<String>> {
    const LINE: &str = r#"a line is {"query": "…"}; `question` will do as well"#;
    let text = fs_err::read_to_string(file)?;
    let rows = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let queries = rows.map(|(number, line)| {
        let row: Value = serde_json::from_str(line).unwrap_or_default();
        let query = row["query"].as_str().or(row["question"].as_str());
        query.map(str::to_string).ok_or_else(|| {
            let place = format!("{}:{}", file.display(), number + 1);
            Failure::error(format!("{place}: not an object with a text `query`"), LINE)
        })
    });
    match queries.collect::<anyhow::Result<Vec<_>>>()? {
        none if none.is_empty() => Err(Failure::error(format!("{}: no queries", file.display()), LINE)),
        queries => Ok(queries),
    }
}

fn as_json(query: &str, found: &Retrieved) -> Value {
    let hits = found.passages.iter().zip(&found.scores).map(|(passage, scores)| {
        json!({
            "document": passage.document,
            "chunk": passage.id,
            "score": passage.score,
            "scores": scores,
            "title": passage.title,
            "heading": passage.heading,
            "page": passage.page,
            "start": passage.start,
            "end": passage.end,
            "text": passage.text,
        })
    });
    json!({ "query": query, "hits": hits.collect::<Vec<_>>(), "seconds": found.timings })
}

fn as_text(query: &str, found: &Retrieved, style: &Style) -> String {
    let texts: Vec<&str> = found.passages.iter().map(|passage| passage.text.as_str()).collect();
    let marks = matches(query, &texts);
    let mut shown = vec![style.bold(&format!("> {query}"))];
    for (i, (passage, scores)) in found.passages.iter().zip(&found.scores).enumerate() {
        let page = passage.page.map(|page| format!(", page {page}")).unwrap_or_default();
        let heading = match passage.heading.is_empty() {
            true => String::new(),
            false => format!(", {}", passage.heading),
        };
        let place = format!("{}{page}{heading}", passage.document);
        shown.push(format!(
            "\n{} {}  {}",
            style.bold(&format!("[{}]", i + 1)),
            style.cyan_bold(&place),
            told(scores)
        ));
        shown.push(marked(&passage.text, &marks[i], style));
    }
    if found.passages.is_empty() {
        shown.push("nothing found".into());
    }
    shown.join("\n") + "\n"
}

fn told(scores: &Scores) -> String {
    let stages = [
        ("dense", scores.dense),
        ("bm25", scores.bm25),
        ("fused", scores.fused),
        ("rerank", scores.rerank),
    ];
    let ran = stages
        .iter()
        .filter_map(|(name, score)| Some(format!("{name} {:.*}", if *name == "fused" { 4 } else { 3 }, (*score)?)));
    ran.collect::<Vec<_>>().join(", ")
}

/// The part of the text around the first word of the query, those words in colour, or between ⟦ and ⟧ where there is none.
fn marked(text: &str, marks: &[Range<usize>], style: &Style) -> String {
    let shown = around(text, marks.first().map_or(0, |mark| mark.start));
    let mut out = String::from(if shown.start > 0 { "… " } else { "" });
    let mut at = shown.start;
    for mark in marks
        .iter()
        .filter(|mark| shown.start <= mark.start && mark.end <= shown.end)
    {
        out += &text[at..mark.start];
        out += &match (&text[mark.clone()], style.on) {
            (word, true) => style.yellow_bold(word),
            (word, false) => format!("⟦{word}⟧"),
        };
        at = mark.end;
    }
    out += &text[at..shown.end];
    if shown.end < text.len() {
        out += " …";
    }
    out.lines()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// [`SHOWN`] characters that hold `place`, from the text's beginning where that will do, else from a word's beginning.
fn around(text: &str, place: usize) -> Range<usize> {
    let before = text[..place].chars().count();
    let from = match before {
        near if near < SHOWN - LEAD => 0,
        far => {
            let least = text.char_indices().nth(far - LEAD).map_or(0, |(at, _)| at);
            text[least..place]
                .find(char::is_whitespace)
                .map_or(least, |space| least + space)
        }
    };
    let from = text[from..]
        .find(|c: char| !c.is_whitespace())
        .map_or(from, |more| from + more);
    let end = text[from..]
        .char_indices()
        .nth(SHOWN)
        .map_or(text.len(), |(at, _)| from + at);
    from..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_around_the_first_mark_is_shown_with_its_marks() {
        let text = format!("{} the refund ü takes {}", "padding ".repeat(200), "more ".repeat(300));
        let at = text.find("refund").unwrap();
        let shown = |text, mark, on| marked(text, std::slice::from_ref(&mark), &Style { on });
        let plain = shown(&text, at..at + 6, false);
        assert!(plain.starts_with("    … padding") && plain.ends_with(" …"), "{plain}");
        assert!(plain.contains("the ⟦refund⟧ ü takes more"), "{plain}");
        assert!(plain.chars().count() < SHOWN + 20);
        assert!(shown(&text, at..at + 6, true).contains("\u{1b}[1;33mrefund"));
        assert_eq!(shown("a\nrefund", 2..8, false), "    a\n    ⟦refund⟧");
        assert_eq!(marked("nothing", &[], &Style { on: false }), "    nothing");
    }

    #[test]
    fn fused_scores_are_told_apart() {
        let scores = |fused| Scores {
            fused: Some(fused),
            ..Scores::default()
        };
        assert_ne!(told(&scores(1.0 / 61.0)), told(&scores(1.0 / 62.0)));
    }
}
