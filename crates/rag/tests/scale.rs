//! What a SQLite index costs at 1e5 and 1e6 chunks. Synthetic: unit vectors of 384 numbers, texts of 150 words by Zipf's
//! law, questions of 10 such words. Run alone, on a quiet machine:
//!
//! CARGO_PROFILE_DEV_OPT_LEVEL=3 cargo test -p tune-rag --test scale -- --ignored --nocapture one_hundred_thousand
#![allow(clippy::print_stdout)] // figures

use std::time::Instant;
use tune_rag::Passage;
use tune_rag::store::{Filter, Manifest, Point, Record, Sqlite, Store};

const DIMENSIONS: usize = 384;
const WORDS: usize = 150;
const VOCABULARY: usize = 100_000;
const CHUNKS_A_DOCUMENT: usize = 10;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn vector(&mut self) -> Vec<f32> {
        let values: Vec<f32> = (0..DIMENSIONS).map(|_| (self.unit() - 0.5) as f32).collect();
        let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
        values.iter().map(|value| value / length).collect()
    }

    /// Rank r with probability about 1/r.
    fn text(&mut self, words: usize) -> String {
        let rank = |unit: f64| (VOCABULARY as f64).powf(unit) as usize;
        (0..words).map(|_| format!("w{} ", rank(self.unit()))).collect()
    }
}

fn document(number: usize, random: &mut Random) -> (Record, Vec<Point>) {
    let path = format!("d{number}.txt");
    let point = |chunk: usize| {
        let (text, vector) = (random.text(WORDS), random.vector());
        let passage = Passage {
            id: format!(
                "{:08x}-0000-8000-8000-{chunk:012x}",
                (number as u32).wrapping_mul(2_654_435_761)
            ),
            document: path.clone(),
            start: chunk * text.len(),
            end: (chunk + 1) * text.len(),
            title: path.clone(),
            heading: String::new(),
            page: None,
            text,
            score: 0.0,
        };
        Point {
            passage,
            tokens: WORDS,
            vector,
        }
    };
    let points: Vec<Point> = (0..CHUNKS_A_DOCUMENT).map(point).collect();
    let record = Record {
        path: path.clone(),
        hash: path.clone(),
        bytes: 0,
        modified: 0,
        title: path,
        chunks: points.len(),
        tokens: 0,
        skipped: None,
    };
    (record, points)
}

/// Resident memory now, in MiB.
fn memory() -> u64 {
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("0");
    line.split_whitespace()
        .filter_map(|word| word.parse::<u64>().ok())
        .next()
        .unwrap_or(0)
        >> 10
}

/// Processor seconds of this process so far, in hundredths.
fn cpu() -> f64 {
    let stat = fs_err::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(11)
        .take(2);
    fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn percentiles(name: &str, mut milliseconds: Vec<f64>) -> f64 {
    milliseconds.sort_by(f64::total_cmp);
    let at = |share: f64| milliseconds[((milliseconds.len() - 1) as f64 * share) as usize];
    println!(
        "{name}: p50 {:.1} ms, p95 {:.1} ms, highest {:.1} ms",
        at(0.5),
        at(0.95),
        at(1.0)
    );
    at(0.95)
}

fn measure(chunks: usize) -> (f64, f64) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut random = Random(1);
    let mut store = Sqlite::create(folder.path()).unwrap();
    let manifest = Manifest {
        version: 1,
        embedder: "synthetic".into(),
        dimensions: DIMENSIONS,
        chunk_tokens: 256,
        chunk_overlap: 0.15,
        breadcrumb: true,
    };
    store.reset(&manifest).unwrap();
    let (mut seconds, before) = (0.0, memory());
    for number in 0..chunks / CHUNKS_A_DOCUMENT {
        let (record, points) = document(number, &mut random);
        let begun = Instant::now();
        store.put(&[(record, points)]).unwrap();
        seconds += begun.elapsed().as_secs_f64();
    }
    let begun = Instant::now();
    store.settle().unwrap();
    println!(
        "{chunks} chunks: put {seconds:.1} s, settle {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    let bytes = store.bytes().unwrap().unwrap();
    println!("file {} MiB, {} bytes a chunk", bytes >> 20, bytes / chunks as u64);
    drop(store);
    let store = Sqlite::open(folder.path()).unwrap();
    let begun = Instant::now();
    store.dense(&random.vector(), 50, &Filter::default()).unwrap();
    println!(
        "first dense search, vectors read: {:.0} ms",
        begun.elapsed().as_secs_f64() * 1e3
    );
    let timed = |work: &mut dyn FnMut()| {
        let begun = Instant::now();
        work();
        begun.elapsed().as_secs_f64() * 1e3
    };
    let begun = cpu();
    let dense = (0..200).map(|_| {
        let vector = random.vector();
        timed(&mut || assert_eq!(store.dense(&vector, 50, &Filter::default()).unwrap().len(), 50))
    });
    let dense = percentiles("dense", dense.collect());
    println!("dense: {:.1} ms of processor a query", (cpu() - begun) / 200.0 * 1e3);
    let begun = Instant::now();
    store.lexical("w1", 50, &Filter::default()).unwrap();
    println!(
        "first BM25 search, words read: {:.0} ms",
        begun.elapsed().as_secs_f64() * 1e3
    );
    let begun = cpu();
    let lexical = (0..200).map(|_| {
        let question = random.text(10);
        timed(&mut || drop(store.lexical(&question, 50, &Filter::default()).unwrap()))
    });
    let lexical = percentiles("bm25", lexical.collect());
    println!("bm25: {:.1} ms of processor a query", (cpu() - begun) / 200.0 * 1e3);
    println!("memory {} MiB, {} before", memory(), before);
    (dense, lexical)
}

#[test]
#[ignore = "minutes; a measurement"]
fn one_hundred_thousand() {
    let (dense, lexical) = measure(100_000);
    assert!(
        dense + lexical <= 50.0,
        "p95 of a hybrid query: {:.1} ms",
        dense + lexical
    );
}

#[test]
#[ignore = "half an hour; a measurement"]
fn one_million() {
    measure(1_000_000);
}
