//! `tune search`: what retrieval brings up, each retriever's score beside it.
use crate::args::Search;
use crate::errors::Failure;
use crate::library::Opened;
use crate::printer::{Printer, Style};
use crate::{End, device, resolve};
use serde_json::{Value, json};
use std::path::Path;
use tune_rag::eval::Library;
use tune_rag::retrieve::{Retrieved, Scores};
use tune_rag::store::matches;

/// Of a passage shown on a terminal, in characters.
const SHOWN: usize = 600;

pub fn run(args: &Search, printer: &Printer) -> anyhow::Result<End> {
    let mut resolved = resolve::resolve(&args.config.config, &args.config.set.set)?;
    if let Some(top_k) = args.top_k {
        resolved.rag.top_k = top_k;
        resolved.rag.candidates = resolved.rag.candidates.max(top_k);
    }
    let queries = match (&args.query, &args.queries) {
        (Some(query), _) => vec![query.clone()],
        (None, Some(file)) => read_queries(file)?,
        (None, None) => Vec::new(),
    };
    let device = device::choose(&resolved.settings.device)?.device;
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
        .filter_map(|(name, score)| Some(format!("{name} {:.3}", (*score)?)));
    ran.collect::<Vec<_>>().join(", ")
}

/// The text's beginning, with the words of the query in colour.
fn marked(text: &str, marks: &[std::ops::Range<usize>], style: &Style) -> String {
    let end = text.char_indices().nth(SHOWN).map_or(text.len(), |(at, _)| at);
    let (mut shown, mut at) = (String::new(), 0);
    for mark in marks.iter().take_while(|mark| mark.end <= end) {
        shown += &text[at..mark.start];
        shown += &style.yellow_bold(&text[mark.clone()]);
        at = mark.end;
    }
    shown += &text[at..end];
    if end < text.len() {
        shown += " …";
    }
    shown
        .lines()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}
