//! `results.json` to what people read: `report.md`, and one `report.html` that needs nothing beside it.
mod html;
mod markdown;
mod svg;
mod tables;
mod text;

use crate::eval::error::{EvalError, Result};
use crate::results::{Asked, Results};
use crate::staging;
use std::path::Path;

pub use html::html;
pub use markdown::markdown;
pub(crate) use text::money;

/// `results.json`, `report.md` and `report.html` in `folder`, each whole or not at all.
pub fn write(results: &Results, folder: &Path) -> Result<()> {
    results.write(&folder.join("results.json"))?;
    render(results, folder)
}

/// The two that people read alone.
pub fn render(results: &Results, folder: &Path) -> Result<()> {
    for (name, text) in [("report.md", markdown(results)), ("report.html", html(results))] {
        let path = folder.join(name);
        staging::write_file(&path, text.as_bytes()).map_err(|source| EvalError::Write { path, source })?;
    }
    Ok(())
}

/// How far apart the arms are on a question, by the verdict's metric.
fn spread(asked: &Asked, results: &Results) -> f64 {
    let scores = asked
        .answers
        .values()
        .filter_map(|given| given.scores.get(&results.settings.metric));
    let (low, high) = scores.fold((f64::MAX, f64::MIN), |(low, high), &score| {
        (low.min(score), high.max(score))
    });
    (high - low).max(0.0)
}

/// Questions, the largest differences between arms first, else in their order.
fn by_spread(results: &Results) -> Vec<&Asked> {
    let mut asked: Vec<&Asked> = results.questions.iter().collect();
    asked.sort_by(|a, b| spread(b, results).total_cmp(&spread(a, results)));
    asked
}
