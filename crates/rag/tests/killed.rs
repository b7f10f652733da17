//! An index run killed at twenty random moments and started again ends as one that was never killed.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tune_rag::index::{identity, index};
use tune_rag::settings::Rag;
use tune_rag::store::{Point, Sqlite, Store};
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

fn settings(folder: &Path) -> Rag {
    Rag {
        documents: vec![folder.join("docs").display().to_string()],
        chunk_tokens: 50,
        ..Rag::default()
    }
}

fn run(folder: &Path, name: &str, pause: Duration) -> Sqlite {
    let mut store = Sqlite::create(&folder.join(name)).unwrap();
    index(&mut store, &Slow(pause), &settings(folder), &mut |_| ()).unwrap();
    store
}

fn all(store: &dyn Store) -> Vec<Point> {
    let records = store.records().unwrap();
    records
        .iter()
        .flat_map(|record| store.points_of(&record.path).unwrap())
        .collect()
}

#[allow(clippy::disallowed_methods)] // how the test below tells its child where to work
fn given_folder() -> Option<PathBuf> {
    std::env::var_os("TUNE_RAG_KILLED_IN").map(PathBuf::from)
}

#[test]
#[ignore = "started and killed by the test below"]
fn child() {
    if let Some(folder) = given_folder() {
        run(&folder, "killed", Duration::from_micros(200));
    }
}

#[test]
fn killed_at_any_moment_it_goes_on_to_the_same_index() {
    let folder = tempfile::tempdir().unwrap();
    let docs = folder.path().join("docs");
    fs_err::create_dir_all(&docs).unwrap();
    for n in 0..400 {
        let text = format!("# Item {n}\n\n{}", format!("A sentence of item {n}. ").repeat(20));
        fs_err::write(docs.join(format!("{n}.md")), text).unwrap();
    }
    let (mut seed, mut partial) = (7u64, 0);
    for kill in 0..20 {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--ignored", "--exact", "child"])
            .env("TUNE_RAG_KILLED_IN", folder.path());
        let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis(30 + (seed >> 33) % 200));
        child.kill().unwrap();
        child.wait().unwrap();
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
    let resumed = run(folder.path(), "killed", Duration::ZERO);
    let whole = run(folder.path(), "whole", Duration::ZERO);
    assert_eq!(identity(&resumed).unwrap(), identity(&whole).unwrap());
    assert_eq!(all(&resumed), all(&whole));
    let found = |store: &Sqlite| store.lexical("sentence of item 399", 20, None).unwrap();
    assert_eq!(found(&resumed), found(&whole));
}
