//! Word F1 of what is read against the publisher's own text, on Debian's FAQ, which comes as HTML, PDF and TXT.
//! `scripts/check_extraction.sh` fetches it; without it these tests say so and pass.
#![allow(clippy::print_stderr)] // figures, and what was skipped

use std::collections::HashMap;
use std::path::PathBuf;
use tune_rag::ingest::{Document, read, sources};
use tune_rag::settings::Rag;

const LOWEST: f64 = 0.97;

#[allow(clippy::disallowed_methods)] // a test, told where to look
fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("DEBIAN_FAQ").map_or("/usr/share/doc/debian/FAQ".into(), PathBuf::from);
    let there = folder.join("debian-faq.en.txt").exists();
    if !there {
        eprintln!("skipped: no debian-faq.en.txt in {}", folder.display());
    }
    there.then_some(folder)
}

fn documents(pattern: String) -> Vec<Document> {
    let settings = Rag::default();
    let (sources, _) = sources(&[pattern]).unwrap();
    let raw = sources.iter().flat_map(|source| read(source, &settings).0);
    raw.map(|raw| raw.extract().unwrap()).collect()
}

fn words(texts: &[String]) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for text in texts {
        for word in text
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty())
        {
            *counts.entry(word.to_lowercase()).or_default() += 1;
        }
    }
    counts
}

fn f1(found: &HashMap<String, usize>, wanted: &HashMap<String, usize>) -> f64 {
    let shared: usize = found
        .iter()
        .map(|(word, n)| *n.min(wanted.get(word).unwrap_or(&0)))
        .sum();
    2.0 * shared as f64 / (found.values().sum::<usize>() + wanted.values().sum::<usize>()) as f64
}

fn check(name: &str, glob: &str) {
    let Some(folder) = folder() else { return };
    let at = |name: &str| folder.join(name).display().to_string();
    let wanted = words(&[fs_err::read_to_string(at("debian-faq.en.txt")).unwrap()]);
    let begun = std::time::Instant::now();
    let texts: Vec<String> = documents(at(glob)).into_iter().map(|document| document.text).collect();
    let score = f1(&words(&texts), &wanted);
    eprintln!(
        "{name}: word F1 {score:.4}, {:.2} s, {} files",
        begun.elapsed().as_secs_f64(),
        texts.len()
    );
    assert!(score >= LOWEST, "{name}: {score:.4}");
}

#[test]
fn pdf() {
    check("PDF", "debian-faq.en.pdf");
}

#[test]
fn html() {
    check("HTML", "*.en.html");
}

#[test]
fn txt() {
    check("TXT", "debian-faq.en.txt");
}
