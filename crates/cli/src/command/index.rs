//! `tune index`: documents into the index, what changed alone; or an index to another store.
use crate::args::Index;
use crate::errors::Failure;
use crate::library::Opened;
use crate::printer::{Printer, bytes, count, duration, plural};
use crate::watch::Console;
use crate::{End, device, environment, interrupt, resolve};
use tune_rag::RagError;
use tune_rag::index::{self, Costs, Progress, Report};
use tune_rag::settings::{Rag, StoreKind};
use tune_rag::store::{self, Manifest, Store};
use tune_trainer::watch::{Event, Watch};

/// Beside a SQLite index.
const COSTS: &str = "report.json";

/// What `tune index` has told of the index of `rag`.
pub fn costs(rag: &Rag) -> Option<Costs> {
    let kept = rag.store == StoreKind::Sqlite && !rag.path.as_os_str().is_empty();
    let bytes = kept.then(|| fs_err::read(rag.path.join(COSTS)).ok())??;
    serde_json::from_slice(&bytes).ok()
}

pub fn run(args: &Index, printer: &Printer) -> anyhow::Result<End> {
    let resolved = resolve::resolve(&args.config.config, &args.config.set.set)?;
    match &args.to {
        Some(to) => move_to(&resolved.rag, to, printer),
        None => make(&resolved.rag, &resolved.settings.device, printer),
    }
}

fn make(rag: &Rag, device: &str, printer: &Printer) -> anyhow::Result<End> {
    let mut opened = Opened::open(rag, &device::checked(device, printer)?.device, true, printer)?;
    interrupt::ends(printer)?;
    let costs_file = rag.path.join(COSTS);
    let made = opened.store.manifest()?;
    if made != Some(Manifest::of(rag, &opened.embedder)) {
        // It will be made anew: wherever this run is stopped, what the old one cost may no longer be true.
        let _ = fs_err::remove_file(&costs_file);
        let meanwhile = match rag.store {
            StoreKind::Sqlite => "the old one answers until this run is through",
            StoreKind::Qdrant | StoreKind::Chroma => "the old one is emptied first",
        };
        if made.is_some() {
            printer.talk(&format!(
                "the index was made with other settings and is made anew; {meanwhile}"
            ));
        }
    }
    let mut console = Console::new(printer);
    let report = index::index(
        &mut *opened.store,
        &opened.embedder,
        rag,
        &mut shown(&mut console, "indexing"),
    );
    console.finish();
    let report = report?;
    // A run that found nothing to do tells nothing of what indexing costs.
    if rag.store == StoreKind::Sqlite && report.changed + report.removed > 0 {
        let text = serde_json::to_string_pretty(&Costs::after(&report, costs(rag)))?;
        tune_model::staging::write_file(&costs_file, text.as_bytes())?;
    }
    tell(&report, &*opened.store, printer);
    Ok(End::Done)
}

/// A bar of documents, begun when their number is known; its name tells the chunks.
fn shown<'a>(console: &'a mut Console, name: &'static str) -> impl FnMut(Progress) + 'a {
    let mut begun = false;
    move |progress| {
        if !begun {
            begun = true;
            console.on(Event::Phase {
                name,
                total: progress.of,
            });
        }
        if progress.embedded > 0 {
            console.rename(&format!("{name} ({})", plural(progress.embedded, "chunk")));
        }
        console.on(Event::Progress {
            done: progress.documents,
        });
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
    let embedding = match report.embedded {
        0 => String::new(),
        _ => format!(", of it {} embedding", duration(report.embedding_seconds)),
    };
    printer.row("took", &format!("{}{embedding}{size}", duration(report.seconds)));
    for warning in &report.warnings {
        printer.warning(warning);
    }
    if !report.skipped.is_empty() {
        let each = report
            .skipped
            .iter()
            .map(|skipped| format!("\n  {}: {}", skipped.path, skipped.reason));
        printer.warning(&format!(
            "{} skipped:{}",
            report.skipped.len(),
            each.collect::<String>()
        ));
    }
}

/// Copies the index of `rag` to `to`, vectors and all.
fn move_to(rag: &Rag, to: &str, printer: &Printer) -> anyhow::Result<End> {
    let from = store::open(rag, environment::store_key(rag.store).as_deref(), false)?;
    let target = store::at(to, rag)?;
    let mut store = store::open(&target, environment::store_key(target.store).as_deref(), true)?;
    if let Err(error @ RagError::Unreachable { .. }) = store.manifest() {
        let hint = "is the server running, and the address after --to right?";
        return Err(Failure::caused(format!("cannot move the index to {to}"), hint, error));
    }
    let mut console = Console::new(printer);
    let moved = index::move_index(&*from, &mut *store, &mut shown(&mut console, "moving"));
    console.finish();
    printer.row("moved", &format!("{} to {}", plural(moved?, "chunk"), store.place()));
    printer.row("to use it", &settings_of(&target)?);
    Ok(End::Done)
}

/// The keys that name the store, as a config has them.
fn settings_of(rag: &Rag) -> anyhow::Result<String> {
    let keys: &[&str] = match rag.store {
        StoreKind::Sqlite => &["store", "path"],
        StoreKind::Qdrant | StoreKind::Chroma => &["store", "url", "collection"],
    };
    let table = toml::Table::try_from(rag)?;
    let lines = keys.iter().map(|key| format!("rag.{key} = {}", table[*key]));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}
