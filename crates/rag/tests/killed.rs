//! An index run killed at twenty random moments and started again ends as one that was never killed; of one under other
//! settings the old index stands until the new one is whole.
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tune_rag::index::{identity, index};
use tune_rag::settings::Rag;
use tune_rag::store::{Filter, Hit, Point, Sqlite, Store};
use tune_rag::{Embedder, TextKind};

/// Slow enough to be killed while it works.
struct Slow(Duration);

impl Embedder for Slow {
    fn identity(&self) -> String {
        "slow".into()
    }
    fn dimensions(&self) -> usize {
        4
    }
    fn max_tokens(&self) -> usize {
        100
    }
    fn count_tokens(&self, text: &str) -> usize {
        text.split_whitespace().count()
    }
    fn embed(&self, texts: &[&str], _: TextKind) -> anyhow::Result<Vec<Vec<f32>>> {
        std::thread::sleep(self.0 * texts.len() as u32);
        Ok(texts
            .iter()
            .map(|text| vec![text.len() as f32, 1.0, 0.0, 0.0])
            .collect())
    }
}

fn settings(folder: &Path, chunk_tokens: usize) -> Rag {
    Rag {
        documents: vec![folder.join("docs").display().to_string()],
        chunk_tokens,
        ..Rag::default()
    }
}

fn run(folder: &Path, name: &str, chunk_tokens: usize, pause: Duration) -> Sqlite {
    let mut store = Sqlite::create(&folder.join(name)).unwrap();
    index(&mut store, &Slow(pause), &settings(folder, chunk_tokens), &mut |_| ()).unwrap();
    store
}

fn all(store: &dyn Store) -> Vec<Point> {
    let records = store.records().unwrap();
    records
        .iter()
        .flat_map(|record| store.points_of(&record.path).unwrap())
        .collect()
}

const FOLDER: &str = "TUNE_RAG_KILLED_IN";
const CHUNK_TOKENS: &str = "TUNE_RAG_KILLED_CHUNK_TOKENS";

#[allow(clippy::disallowed_methods)] // how the tests below tell their child what to do
fn given(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[test]
#[ignore = "started and killed by the tests below"]
fn child() {
    if let (Some(folder), Some(chunk_tokens)) = (given(FOLDER), given(CHUNK_TOKENS)) {
        let chunk_tokens = chunk_tokens.parse().unwrap();
        run(Path::new(&folder), "killed", chunk_tokens, Duration::from_micros(200));
    }
}

/// Starts an index run and kills it, at a moment that `seed` gives.
fn killed(folder: &Path, chunk_tokens: usize, seed: &mut u64) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "child"])
        .env(FOLDER, folder)
        .env(CHUNK_TOKENS, chunk_tokens.to_string());
    let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    std::thread::sleep(Duration::from_millis(30 + (*seed >> 33) % 200));
    child.kill().unwrap();
    child.wait().unwrap();
}

fn fill(docs: &Path) {
    fs_err::create_dir_all(docs).unwrap();
    for n in 0..400 {
        let text = format!("# Item {n}\n\n{}", format!("A sentence of item {n}. ").repeat(20));
        fs_err::write(docs.join(format!("{n}.md")), text).unwrap();
    }
}

fn found(store: &Sqlite) -> Vec<Hit> {
    store.lexical("sentence of item 399", 20, &Filter::default()).unwrap()
}

#[test]
fn killed_at_any_moment_it_goes_on_to_the_same_index() {
    let folder = tempfile::tempdir().unwrap();
    let docs = folder.path().join("docs");
    fill(&docs);
    let (mut seed, mut partial) = (7u64, 0);
    for kill in 0..20 {
        killed(folder.path(), 50, &mut seed);
        // Every other time a document changes meanwhile.
        if kill % 2 == 0 {
            fs_err::write(docs.join(format!("{kill}.md")), format!("Changed before run {kill}.")).unwrap();
        }
        if let Ok(store) = Sqlite::open(&folder.path().join("killed")) {
            let records = store.records().unwrap_or_default();
            partial += usize::from(!records.is_empty() && records.len() < 400);
            for record in records {
                assert_eq!(
                    store.points_of(&record.path).unwrap().len(),
                    record.chunks,
                    "half a document"
                );
            }
        }
    }
    assert!(partial > 0, "no kill came in the middle");
    let resumed = run(folder.path(), "killed", 50, Duration::ZERO);
    let whole = run(folder.path(), "whole", 50, Duration::ZERO);
    assert_eq!(identity(&resumed).unwrap(), identity(&whole).unwrap());
    assert_eq!(all(&resumed), all(&whole));
    assert_eq!(found(&resumed), found(&whole));
}

#[test]
fn a_rebuild_killed_at_any_moment_leaves_the_old_index_or_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    fill(&folder.path().join("docs"));
    let place = folder.path().join("killed");
    drop(run(folder.path(), "killed", 50, Duration::ZERO));
    let whole = run(folder.path(), "whole", 25, Duration::ZERO);
    let contents = |store: &Sqlite| (all(store), found(store));
    let (old, new) = (contents(&Sqlite::open(&place).unwrap()), contents(&whole));
    let (mut seed, mut stood) = (7u64, 0);
    for _ in 0..20 {
        killed(folder.path(), 25, &mut seed);
        let now = contents(&Sqlite::open(&place).unwrap());
        stood += usize::from(now == old);
        assert!(now == old || now == new, "neither the old index nor the new one");
    }
    assert!(stood > 0, "no kill came before the end");
    let resumed = run(folder.path(), "killed", 25, Duration::ZERO);
    assert_eq!(identity(&resumed).unwrap(), identity(&whole).unwrap());
    assert_eq!(contents(&resumed), new);
}
