//! `tune index`: documents into the index, what changed alone; or an index to another store.
use crate::args::Index;
use crate::library::Opened;
use crate::printer::{Printer, bytes, count, duration, plural};
use crate::watch::Console;
use crate::{End, device, environment, interrupt, resolve};
use tune_rag::index::{self, Progress, Report};
use tune_rag::settings::{Rag, StoreKind};
use tune_rag::store::{self, Store};
use tune_trainer::watch::{Event, Watch};

/// Beside a SQLite index: what the last run that made all of it did, for the costs in `tune eval`'s report.
pub const REPORT: &str = "report.json";

pub fn run(args: &Index, printer: &Printer) -> anyhow::Result<End> {
    let resolved = resolve::resolve(&args.config.config, &args.config.set.set)?;
    match &args.to {
        Some(to) => move_to(&resolved.rag, to, printer),
        None => make(&resolved.rag, &resolved.settings.device, printer),
    }
}

fn make(rag: &Rag, device: &str, printer: &Printer) -> anyhow::Result<End> {
    let mut opened = Opened::open(rag, &device::choose(device)?.device, true, printer)?;
    interrupt::ends(printer)?;
    let mut console = Console::new(printer);
    let report = index::index(
        &mut *opened.store,
        &opened.embedder,
        rag,
        &mut shown(&mut console, "indexing"),
    );
    console.finish();
    let report = report?;
    // A run that found a part of it done tells nothing of what indexing costs.
    if rag.store == StoreKind::Sqlite && report.embedded > 0 && report.embedded == report.chunks {
        let text = serde_json::to_string_pretty(&report)?;
        tune_model::staging::write_file(&rag.path.join(REPORT), text.as_bytes())?;
    }
    tell(&report, &*opened.store, printer);
    Ok(End::Done)
}

/// A bar of files, begun when their number is known.
fn shown<'a>(console: &'a mut Console, name: &'static str) -> impl FnMut(Progress<'_>) + 'a {
    let mut begun = false;
    move |progress| {
        if !begun {
            begun = true;
            console.on(Event::Phase {
                name,
                total: progress.of,
            });
        }
        console.on(Event::Progress { done: progress.files });
    }
}

fn tell(report: &Report, store: &dyn Store, printer: &Printer) {
    let changed = match (report.changed, report.removed) {
        (0, 0) => "nothing had changed".into(),
        (changed, 0) => format!("{changed} new or changed"),
        (changed, removed) => format!("{changed} new or changed, {removed} gone"),
    };
    printer.row("index", &store.place());
    printer.row("documents", &format!("{}, {changed}", report.documents));
    printer.row(
        "chunks",
        &format!(
            "{} of {} tokens in all, {} embedded now",
            report.chunks,
            count(report.tokens as f64),
            report.embedded
        ),
    );
    let size = report
        .bytes
        .map(|size| format!(", {}", bytes(size)))
        .unwrap_or_default();
    printer.row("took", &format!("{}{size}", duration(report.seconds)));
    for warning in &report.warnings {
        printer.warning(warning);
    }
    if !report.skipped.is_empty() {
        printer.warning(&format!("{} skipped:", plural(report.skipped.len(), "file")));
        for skipped in &report.skipped {
            printer.talk(&format!("  {}: {}", skipped.path, skipped.reason));
        }
    }
}

/// Copies the index of `rag` to `to`, vectors and all.
fn move_to(rag: &Rag, to: &str, printer: &Printer) -> anyhow::Result<End> {
    let from = store::open(rag, environment::store_key(rag.store).as_deref(), false)?;
    let kind = match to.split_once("://") {
        None => StoreKind::Sqlite,
        Some((scheme, _)) if scheme.starts_with("chroma") => StoreKind::Chroma,
        Some(_) => StoreKind::Qdrant,
    };
    let mut store = store::open_address(to, environment::store_key(kind).as_deref())?;
    let mut console = Console::new(printer);
    let moved = index::move_index(&*from, &mut *store, &mut shown(&mut console, "moving"));
    console.finish();
    printer.row("moved", &format!("{} to {}", plural(moved?, "chunk"), store.place()));
    Ok(End::Done)
}
